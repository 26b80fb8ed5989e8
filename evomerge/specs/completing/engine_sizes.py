"""What engines of a study must have room for, and the settings that follow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evomerge.checkpoints import Model
from evomerge.checkpoints.configs.families import position_limit
from evomerge.core.blueprint import MergeBlueprint
from evomerge.core.flow.blueprint import MERGE, FlowBlueprint
from evomerge.core.flow.layer_pool import Step
from evomerge.core.recipes.recipe import Recipe, Slot
from evomerge.core.space import Blueprint
from evomerge.core.work import EngineSettings
from evomerge.specs.completing.engine_options import STACK_OPTIONS
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.resolved import Baseline
from evomerge.specs.schema.study import EngineSpec

MIB = 1 << 20
POOL_BYTES = 8 << 30
"""Most memory that a pool of layers takes without being asked for."""
_WIDTHS = {"float32": 4, "bfloat16": 2, "float16": 2}
_FULL = "full_attention"

PROFILES = ("weights", "slots", "pool")


def facts_of(
    blueprint: Blueprint,
    baselines: Sequence[Baseline],
    models: Mapping[str, Model],
    *,
    frame: str,
    dtype: str,
) -> StackFacts:
    """Tell what the candidates of a study may look like, its baselines among them.

    Args:
        blueprint: Of the space.
        baselines: Generation 0.
        models: Every source by name.
        frame: Name of the frame.
        dtype: Element type of the engine.
    """
    recipes = [baseline.recipe for baseline in baselines]
    kinds = _Kinds(models, frame)
    depths = [len(recipe.slots) for recipe in recipes]
    mixed = [kinds.counted(recipe.slots) for recipe in recipes]
    contents: set[Slot] = {replace(s, scale=1.0) for r in recipes for s in r.slots}
    merges_anew = in_order = isinstance(blueprint, MergeBlueprint)
    if isinstance(blueprint, FlowBlueprint):
        stock = blueprint.flow.stock
        depths.append(stock.deepest)
        mixed.append(kinds.reached(blueprint))
        merges_anew = MERGE in stock.names
        contents |= {
            Slot.copy_of(step.source, step.index)
            for step in stock.layers
            if step.source != MERGE
        }
    elif isinstance(blueprint, MergeBlueprint):
        depths.append(blueprint.n_layers)
        mixed.append(kinds.of_frame)
    n_layers = models[frame].n_layers
    return StackFacts(
        depth=max(depths),
        in_order=in_order and all(_is_plain(recipe, n_layers) for recipe in recipes),
        distinct=None if merges_anew else len(contents),
        depth_kinds=_most(mixed) if len(kinds.known) > 1 else {},
        distinct_kinds=kinds.counted(contents) if len(kinds.known) > 1 else {},
        layer_bytes=_layer_bytes(models[frame], dtype),
    )


def engine_of(
    spec: EngineSpec,
    facts: StackFacts,
    dtype: str,
    mistakes: Mistakes,
    *,
    frame: Model | None = None,
) -> EngineSettings:
    """Return the settings of a study's engines.

    Args:
        spec: What was written.
        facts: What the candidates may look like.
        dtype: Element type of the study.
        mistakes: Where to note a profile that cannot run the candidates.
        frame: The model that limits positions, if it is known.
    """
    try:
        room = choose_room(
            facts, profile=spec.profile, slots=spec.slots, pool_bytes=POOL_BYTES
        )
    except ValueError as error:
        room = EngineSize("weights")
        key = "slots" if spec.slots and spec.slots < facts.depth else "profile"
        mistakes.add(f"engine.{key}", f"{error}")
    taken = STACK_OPTIONS if room.profile != "weights" and spec.kind == "vllm" else ()
    for name in spec.options.keys() & taken:
        said = f"Profile {room.profile} decides this; leave it out."
        mistakes.add(f"engine.options.{name}", said)
    limit = None if frame is None else position_limit(frame.config)
    if spec.max_model_len and limit and spec.max_model_len > limit:
        mistakes.warn(
            "engine.max_model_len",
            f"expected at most {limit}, the positions that the frame's config.json "
            f"speaks of, got {spec.max_model_len}: sequences are cut to {limit}.",
        )
    return EngineSettings(
        kind=spec.kind,
        dtype=spec.dtype or dtype,
        max_model_len=spec.max_model_len,
        max_num_seqs=spec.max_num_seqs,
        kv_cache_bytes=None if spec.kv_cache_mib is None else spec.kv_cache_mib * MIB,
        gpus=None if spec.gpus == "auto" else spec.gpus,
        cpus=spec.cpus,
        options=spec.options,
        profile=room.profile,
        slots=room.slots,
        slot_kinds=room.slot_kinds,
    )


class _Kinds:
    """Kinds of attention, by name as engines call them."""

    def __init__(self, models: Mapping[str, Model], frame: str) -> None:
        self._of = {
            name: [kind.attention or _FULL for kind in model.layer_types]
            for name, model in models.items()
        }
        self.known = tuple(dict.fromkeys(self._of[frame]))
        self.of_frame: Mapping[str, int] = Counter(self._of[frame])

    def reached(self, blueprint: FlowBlueprint) -> Mapping[str, int]:
        """Count the most layers of each kind in one stack."""
        layers: dict[str, set[Step]] = {kind: set() for kind in self.known}
        for step in blueprint.flow.stock.layers:
            source = step.source
            if source == MERGE and blueprint.merge is not None:
                source = blueprint.merge.plans[0].reads[0]
            kind = self._of[source][step.index]
            layers.setdefault(kind, set()).add(step)
        return {kind: blueprint.flow.most_of(found) for kind, found in layers.items()}

    def counted(self, slots: Iterable[Slot]) -> Mapping[str, int]:
        """Count the kinds of some layers; those of one slot are alike."""
        return Counter(self._kind(slot) for slot in slots)

    def _kind(self, slot: Slot) -> str:
        return next(
            (self._of[n][layer] for n, layer in slot.layers if n in self._of), _FULL
        )


def _most(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    out: Counter[str] = Counter()
    for count in counts:
        out |= Counter(count)
    return dict(out)


def _is_plain(recipe: Recipe, n_layers: int) -> bool:
    """Tell whether a recipe runs the frame's layers in their order, unscaled."""
    return len(recipe.slots) == n_layers and all(
        slot.scale == 1.0 and {layer for _, layer in slot.layers} == {i}
        for i, slot in enumerate(recipe.slots)
    )


def _layer_bytes(model: Model, dtype: str) -> int:
    sizes: Counter[int] = Counter()
    for name, place in model.places.items():
        if place.layer is not None and name in model.tensors:
            n = 1
            for length in model.tensors[name].shape:
                n *= length
            sizes[place.layer] += n
    return max(sizes.values(), default=0) * _WIDTHS[dtype]


@dataclass(frozen=True, slots=True)
class StackFacts:
    """What the candidates of a search may look like.

    Attributes:
        depth: Most layers of one candidate.
        in_order: Every candidate has the frame's layers in their order, unscaled.
        distinct: Different layers that candidates are made of; None if layers are
            merged anew for each candidate, so that there is no end to them.
        depth_kinds: Kind of attention to the most layers of it in one candidate; empty
            where all layers are of one kind.
        distinct_kinds: The same for the different layers.
        layer_bytes: Of one layer's weights in the engine's element type.
    """

    depth: int
    in_order: bool
    distinct: int | None
    depth_kinds: Mapping[str, int] = field(default_factory=dict)
    distinct_kinds: Mapping[str, int] = field(default_factory=dict)
    layer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineSize:
    """What an engine is started with; see ``EngineSettings``."""

    profile: str
    slots: int | None = None
    slot_kinds: Mapping[str, int] = field(default_factory=dict)


def choose_room(
    facts: StackFacts,
    *,
    profile: str = "auto",
    slots: int | None = None,
    pool_bytes: int | None = None,
) -> EngineSize:
    """Choose a profile, and the slots that no candidate of the space exceeds.

    Args:
        facts: Of the space.
        profile: One of ``PROFILES``, or ``auto``: weights if every candidate is the
            frame's stack, a pool if all different layers fit, slots otherwise.
        slots: Overrides the number of slots where layers are of one kind.
        pool_bytes: Most memory for a pool's layers; None sets no limit.

    Raises:
        ValueError: The profile cannot run the space's candidates; the message says why.
    """
    if profile == "auto":
        profile = _suited(facts, pool_bytes)
    if profile not in PROFILES:
        raise ValueError(f"Expected auto or one of {', '.join(PROFILES)}.")
    if profile == "weights":
        if not facts.in_order:
            raise ValueError(
                "Profile weights runs the frame's layers in their order, but this "
                "space's candidates are other stacks. Use slots, pool or auto."
            )
        return EngineSize("weights")
    if slots is not None and slots < facts.depth:
        raise ValueError(
            f"Candidates of this space have up to {facts.depth} layers, more than "
            f"{slots} slots. Raise engine.slots or leave it out."
        )
    if profile == "slots":
        return EngineSize("slots", slots or facts.depth, dict(facts.depth_kinds))
    if facts.distinct is None:
        raise ValueError(
            "A pool holds whole layers of the sources, but this space merges layers "
            "anew for each candidate. Use slots or auto."
        )
    kinds = {
        kind: max(n, facts.distinct_kinds.get(kind, 0))
        for kind, n in facts.depth_kinds.items()
    }
    return EngineSize("pool", slots or max(facts.depth, facts.distinct), kinds)


def _suited(facts: StackFacts, pool_bytes: int | None) -> str:
    if facts.in_order:
        return "weights"
    if facts.distinct is None:
        return "slots"
    fits = pool_bytes is None or facts.distinct * facts.layer_bytes <= pool_bytes
    return "pool" if fits else "slots"
