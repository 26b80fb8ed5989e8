"""Which profile of the engine suits a search, and how many slots it needs.

Pure arithmetic on what is known of a space before any engine starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PROFILES = ("weights", "slots", "pool")


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
