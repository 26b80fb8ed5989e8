"""Slots of an engine of the stack profile: how many, of which kinds, what they hold.

In vLLM only architectures on which stacks were proved exact are let in: there the
layers are run by one plain loop, and nothing else in the model counts them. In
transformers the self-test decides.

Each slot holds one layer's weights and a key-value cache. The order in which slots run
is free, so a candidate's layers stay wherever they are held already: a neighbour of the
last candidate writes only the layers that are new. A layer that repeats is held once;
its further places borrow the caches of slots that are not running. Torch-free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge.checkpoints import Model, read_model
from evomerge.checkpoints.configs.layer_types import fixed_order
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import CandidateError, Problem, SpecError

FULL = "full_attention"
"""The kind of a layer whose configuration says nothing of kinds."""

PROVED = (
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)
"""Architectures whose stacks in vLLM equal a model built from the same layers."""


def slot_kinds(setup: WorkerSetup) -> tuple[str, ...]:
    """Return the kind of attention of every slot; the frame's own layers come first.

    Raises:
        SpecError: The frame's architecture is not proved, or a kind is unknown to it.
        CheckpointError: The frame cannot be read.
    """
    settings = setup.engine
    model = read_model(setup.sources[setup.frame], cache_dir=setup.cache_dir)
    _check_architecture(model, settings)
    own = [kind.attention or FULL for kind in model.layer_types]
    if unknown := sorted(settings.slot_kinds.keys() - set(own)):
        raise SpecError(
            [
                Problem(
                    f"engine.slot_kinds.{unknown[0]}",
                    f"The frame has no layers of this kind; it has {sorted(set(own))}.",
                )
            ]
        )
    wanted = dict(settings.slot_kinds)
    if not wanted:
        counts = Counter(own)
        wanted = {kind: settings.slots or counts[kind] for kind in counts}
    out: list[str] = []
    for kind in own:
        if out.count(kind) < wanted.get(kind, 0):
            out.append(kind)
    for kind, n in wanted.items():
        out += [kind] * (n - out.count(kind))
    return tuple(out)


def home(setup: WorkerSetup) -> Recipe:
    """Write the recipe an engine starts with: the frame.

    Of a frame with more layers than slots these are the first ones that fit.
    """
    model = read_model(setup.sources[setup.frame], cache_dir=setup.cache_dir)
    found = passthrough("frame", setup.frame, model.n_layers, setup.engine.dtype)
    if not setup.engine.stacks:
        return found
    free = Counter(slot_kinds(setup))
    slots = []
    for slot, kind in zip(found.slots, model.layer_types, strict=True):
        if free[kind.attention or FULL] > 0:
            free[kind.attention or FULL] -= 1
            slots.append(slot)
    return replace(found, slots=tuple(slots))


def beginnings(setup: WorkerSetup) -> Iterator[Recipe]:
    """Write the frame with a layer of each other kind first, and then as it is.

    Nothing where its layers are all of one kind, or no stacks are run.
    """
    start = home(setup)
    model = read_model(setup.sources[setup.frame], cache_dir=setup.cache_dir)
    kinds = [model.layer_types[dict(s.layers)["frame"]].attention for s in start.slots]
    others = [i for i, kind in enumerate(kinds) if kinds.index(kind) == i][1:]
    if not setup.engine.stacks or not others:
        return
    for first in others:
        rest = (slot for i, slot in enumerate(start.slots) if i != first)
        yield replace(start, slots=(start.slots[first], *rest))
    yield start


def _check_architecture(model: Model, settings: EngineSettings) -> None:
    found = model.config.get("architectures") or ["none"]
    # In transformers a list of layers is one plain list; the self-test judges the rest.
    if settings.kind != "hf" and found[0] not in PROVED:
        raise SpecError(
            [
                Problem(
                    "engine.profile",
                    f"{settings.profile} runs layers in other orders, which is proved "
                    f"exact for {', '.join(PROVED)}, but not for {found[0]}. Use "
                    "profile: weights, engine.kind: hf, or other models.",
                )
            ]
        )
    if why := fixed_order(model.decoder, model.layer_types):
        raise misfit(f"runs layers in other orders, but this family {why}")
    first: dict[str, int] = {}
    tensors = [_shapes(model, layer) for layer in range(model.n_layers)]
    for layer, kind in enumerate(model.layer_types):
        other = first.setdefault(kind.attention or FULL, layer)
        if not model.layer_types[other].fits(kind):
            raise misfit(
                f"keeps slots by the kind of attention, but layer {layer} is: {kind}; "
                f"others of its kind are: {model.layer_types[other]}"
            )
        if odd := sorted(tensors[layer].items() ^ tensors[other].items()):
            raise misfit(
                f"keeps slots by the kind of attention, but of layers {other} and "
                f"{layer}, which are of one kind, only one has {odd[0][0]!r} of shape "
                f"{list(odd[0][1])}"
            )


def _shapes(model: Model, layer: int) -> dict[str, tuple[int, ...]]:
    return {
        place.suffix: model.tensors[name].shape
        for name, place in model.places.items()
        if place.layer == layer
    }


def misfit(why: str) -> SpecError:
    """Return the error for a frame whose layers cannot be slots."""
    return SpecError([Problem("engine.profile", f"slots {why}. Use profile: weights.")])


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a running stack.

    Attributes:
        slot: Whose weights it runs.
        cache: Whose key-value cache it uses; no other place uses it.
        scale: Factor on the hidden state that enters.
    """

    slot: int
    cache: int
    scale: float = 1.0


class SlotCache:
    """The slots of an engine, each of a kind, and what they hold."""

    def __init__(self, kinds: Sequence[str]) -> None:
        """Begin with nothing held.

        Args:
            kinds: The kind of each slot: a layer only fits into a slot of its kind.
        """
        self.kinds = tuple(kinds)
        self._held: list[str | None] = [None] * len(self.kinds)
        self._used = [0] * len(self.kinds)
        self._clock = 0

    def missing(self, contents: Sequence[str]) -> list[int]:
        """Return the places whose layers are held nowhere, each layer once."""
        held = set(self._held)
        first = {key: place for place, key in reversed(list(enumerate(contents)))}
        return sorted(place for key, place in first.items() if key not in held)

    def choose(
        self, contents: Sequence[str], kinds: Mapping[int, str]
    ) -> dict[int, int]:
        """Choose slots for the layers that are held nowhere.

        Args:
            contents: The key of each place's layer.
            kinds: For each missing place, the kind of its layer.

        Returns:
            Place to slot. The slots' old layers are the longest unused ones.

        Raises:
            CandidateError: The stack has more layers of a kind than the engine has
                slots.
        """
        wanted = set(contents)
        free = [i for i, key in enumerate(self._held) if key not in wanted]
        free.sort(key=lambda i: (self._held[i] is not None, self._used[i], i))
        out: dict[int, int] = {}
        for place, kind in kinds.items():
            slot = next((i for i in free if self.kinds[i] == kind), None)
            if slot is None:
                raise CandidateError(self._full(contents, kind))
            free.remove(slot)
            out[place] = slot
        return out

    def forget(self, slots: Sequence[int]) -> None:
        """Note that these slots are about to be overwritten."""
        for slot in slots:
            self._held[slot] = None

    def hold(self, slot: int, key: str) -> None:
        """Note that a slot was written."""
        self._held[slot] = key

    def arrange(
        self, contents: Sequence[str], scales: Sequence[float]
    ) -> tuple[Place, ...]:
        """Say where each place of a stack runs; every layer must be held.

        Raises:
            CandidateError: The stack has more layers of a kind than the engine has
                slots.
        """
        self._clock += 1
        where = {key: i for i, key in enumerate(self._held) if key is not None}
        first = {where[key] for key in contents}
        spare = [i for i in range(len(self.kinds)) if i not in first]
        places = []
        for key, scale in zip(contents, scales, strict=True):
            slot = cache = where[key]
            self._used[slot] = self._clock
            if slot in first:
                first.remove(slot)
            else:
                cache = self._borrow(spare, contents, self.kinds[slot])
            places.append(Place(slot, cache, scale))
        return tuple(places)

    def _borrow(self, spare: list[int], contents: Sequence[str], kind: str) -> int:
        cache = next((i for i in spare if self.kinds[i] == kind), None)
        if cache is None:
            raise CandidateError(self._full(contents, kind))
        spare.remove(cache)
        return cache

    def _full(self, contents: Sequence[str], kind: str) -> str:
        return (
            f"A stack of {len(contents)} layers does not fit: the engine has "
            f"{Counter(self.kinds)[kind]} slots for layers of the kind {kind!r}, and "
            f"{len(self.kinds)} in all. Raise engine.slots."
        )
