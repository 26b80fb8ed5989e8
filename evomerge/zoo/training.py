"""Training one model of the zoo: a pure function of its start, recipe and seed.

Adam, with Muon for the layers' matrices where a course asks for it, are written out
because torch's own optimisers load its compiler at the first step, which takes longer
than the smallest zoo.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from evomerge.steps import Step
from evomerge.zoo.model import EMBED, HEAD, State, initial_state, logits
from evomerge.zoo.recipes import BASE, MODELS, RECIPES, Course, Drill, ZooRecipe
from evomerge.zoo.skills import mix
from evomerge.zoo.tokenizer import IGNORED, Examples, build_tokenizer

_BETAS = (0.9, 0.98)
_EPS = 1e-8
_MOMENTUM = 0.95
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
_GRADIENT_NORM = 1.0
_LAST_FACTOR = 0.02


class Optimiser:
    """Updates in place the parameters of one model that need a gradient."""

    def __init__(self, state: State, course: Course) -> None:
        """Sort the parameters to their update rules."""
        trained = {name: value for name, value in state.items() if value.requires_grad}
        matrices = [
            name
            for name, value in trained.items()
            if course.muon_lr and value.ndim == 2 and ".layers." in name
        ]
        ends = [name for name in trained if name in (EMBED, HEAD)]
        body = [name for name in trained if name not in {*matrices, *ends}]
        self._rules: list[tuple[_Adam | _Muon, float]] = [
            (_Adam([trained[name] for name in ends]), course.embed_lr or 0.0),
            (_Adam([trained[name] for name in body]), course.lr),
            (_Muon([trained[name] for name in matrices]), course.muon_lr or 0.0),
        ]
        self._parameters = list(trained.values())

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Apply the gradients and drop them.

        Args:
            factor: Of the peak learning rates, from the schedule.
        """
        for rule, peak in self._rules:
            rule.step(peak * factor)
        for parameter in self._parameters:
            parameter.grad = None


class _Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), without weight decay."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        self._means = [torch.zeros_like(value) for value in parameters]
        self._squares = [torch.zeros_like(value) for value in parameters]
        self._steps = 0

    def step(self, lr: float) -> None:
        self._steps += 1
        beta1, beta2 = _BETAS
        bias1, bias2 = 1 - beta1**self._steps, 1 - beta2**self._steps
        for value, mean, square in zip(
            self._parameters, self._means, self._squares, strict=True
        ):
            gradient = _gradient(value)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            size = square.sqrt().div_(math.sqrt(bias2)).add_(_EPS)
            value.addcdiv_(mean, size, value=-lr / bias1)


class _Muon:
    """Muon (Jordan et al. 2024), Nesterov momentum, matrices stacked by shape."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._stacks: dict[torch.Size, list[Tensor]] = {}
        for value in parameters:
            self._stacks.setdefault(value.shape, []).append(value)
        self._momenta = {
            shape: torch.zeros(len(values), *shape)
            for shape, values in self._stacks.items()
        }

    def step(self, lr: float) -> None:
        for shape, values in self._stacks.items():
            gradient = torch.stack([_gradient(value) for value in values])
            momentum = self._momenta[shape].mul_(_MOMENTUM).add_(gradient)
            update = orthogonalise(gradient + _MOMENTUM * momentum)
            scale = math.sqrt(max(1.0, shape[0] / shape[1]))
            for value, change in zip(values, update, strict=True):
                value.sub_(change, alpha=lr * scale)


def _gradient(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push the singular values of each matrix towards one (Newton-Schulz).

    Args:
        matrices: Shape ``(n, rows, columns)``, float32.

    Returns:
        The same shape; singular values lie roughly between 0.7 and 1.2.
    """
    a, b, c = _NEWTON_SCHULZ
    out = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = out.size(-2) > out.size(-1)
    if tall:
        out = out.mT
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = out @ out.mT
        out = a * out + (b * gram + c * gram @ gram) @ out
    return out.mT if tall else out


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


OnStep = Callable[[str, int, int], None]
"""Told the model, its finished steps and all its steps; calls never overlap."""


def counting(now: Step, recipe: str) -> OnStep:
    """Return what tells a step how far the training of a whole zoo is, in percent.

    Experts that are trained side by side count for less.
    """
    chosen = RECIPES.get(recipe)
    if chosen is None:
        return lambda model, done, total: None
    at_once = min(2, os.cpu_count() or 1) if chosen.side_by_side else 1
    share = {name: 1.0 if name == BASE else 1 / at_once for name in MODELS}
    total = sum(chosen.course(name).steps * share[name] for name in MODELS)
    known: dict[str, float] = {}

    def on_step(model: str, done: int, _: int) -> None:
        known[model] = done * share[model]
        now.to(sum(known.values()), total)

    return on_step
