"""Training one model of the zoo: a pure function of its start, recipe and seed."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812

from evomerge.zoo.examples import IGNORED, Examples
from evomerge.zoo.model import EMBED, HEAD, State, initial_state, logits
from evomerge.zoo.optimiser import Optimiser
from evomerge.zoo.recipes import BASE, Course, Drill, ZooRecipe
from evomerge.zoo.skills import mix
from evomerge.zoo.tokenizer import build_tokenizer

_GRADIENT_NORM = 1.0
_LAST_FACTOR = 0.02


def train(
    recipe: ZooRecipe,
    model: str,
    seed: int,
    base: State | None,
    on_step: Callable[[int], None],
) -> State:
    """Train the base, or an expert from the base.

    The same arguments give the same bits on the same kind of processor.

    Args:
        recipe: The zoo's recipe.
        model: ``base`` or an expert's name.
        seed: The zoo's seed; experts draw their data from the next one.
        base: Where an expert starts; None for the base itself.
        on_step: Told the number of finished steps after each.

    Returns:
        The trained weights.
    """
    course, seed = recipe.course(model), recipe.first_seed + seed
    if base is None:
        vocab = build_tokenizer().get_vocab_size()
        start = initial_state(recipe.shape, vocab, seed)
    else:
        # Read from a file, tensors come in name order; the order decides a norm's bits.
        start = dict(sorted(base.items()))
    state = {name: value.clone().requires_grad_() for name, value in start.items()}
    if course.embed_lr is None:
        for name in (EMBED, HEAD):
            state[name].requires_grad_(False)
    draw_seed = seed if model == BASE else seed + 1
    fit(state, course, Drill(recipe.batch, recipe.warmup), draw_seed, on_step)
    return {name: value.detach() for name, value in state.items()}


def fit(
    state: State,
    course: Course,
    drill: Drill,
    seed: int,
    on_step: Callable[[int], None],
) -> None:
    """Train in place those weights of a model that need a gradient.

    Args:
        state: The weights; their order decides a norm's bits.
        course: What is learnt, and how fast.
        drill: Size of an update and warm-up.
        seed: Decides the questions and their order.
        on_step: Told the number of finished steps after each.
    """
    examples = Examples.of(mix(course.mix, course.steps * drill.batch, seed))
    optimiser = Optimiser(state, course)
    trainable = [value for value in state.values() if value.requires_grad]
    batches = _Batches(len(examples), drill.batch, seed)
    for step in range(course.steps):
        tokens, targets = examples.batch(batches.next())
        wanted = targets != IGNORED
        loss = F.cross_entropy(logits(state, tokens, wanted), targets[wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, _GRADIENT_NORM)
        optimiser.step(schedule(step, course.steps, drill.warmup))
        on_step(step + 1)


def schedule(step: int, steps: int, warmup: int) -> float:
    """Give the share of the peak learning rate: linear up, then linear down."""
    rise = min(1.0, (step + 1) / warmup)
    fall = 1.0 - max(0, step - warmup) / max(1, steps - warmup)
    return rise * max(_LAST_FACTOR, fall)


class _Batches:
    """Row numbers in shuffled order, shuffled again when they run out."""

    def __init__(self, n: int, size: int, seed: int) -> None:
        self._n, self._size = n, size
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.randperm(n, generator=self._generator)
        self._used = 0

    def next(self) -> torch.Tensor:
        if self._used + self._size > self._n:
            self._order = torch.randperm(self._n, generator=self._generator)
            self._used = 0
        rows = self._order[self._used : self._used + self._size]
        self._used += self._size
        return rows
