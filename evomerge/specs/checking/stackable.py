"""Can these sources' layers be set on each other, and the result be written down?"""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.checkpoints import Model
from evomerge.checkpoints.foldable import unfoldable
from evomerge.core.flow.blueprint import MERGE
from evomerge.specs.misfits import refuse_misfits
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.flow import FlowSpec
from evomerge.specs.schema.space import SpaceSpec


def merged_sources(space: SpaceSpec) -> tuple[str, ...]:
    """Return the sources whose layers are merged one by one."""
    if space.flow is not None and not space.operator:
        return ()
    base = () if space.base is None else (space.base,)
    return tuple(dict.fromkeys((*base, *space.experts)))


def check_mixing(
    space: SpaceSpec, models: Mapping[str, Model], frame: str, mistakes: Mistakes
) -> None:
    """Note why layers cannot run together, or their stack not be written.

    Args:
        space: What was written, its experts and flow filled in.
        models: The sources that could be read, by name.
        frame: Name of the frame.
        mistakes: Where to note what is wrong.
    """
    flow = space.flow
    if flow is None:
        return
    if MERGE in models:
        mistakes.add(
            f"sources.{MERGE}",
            f"expected another name: in a flow {MERGE!r} is what the operator makes.",
        )
    merged = {name: models[name] for name in merged_sources(space) if name in models}
    refuse_misfits(merged, mistakes, same_vocabulary=False)
    _check_ends(flow, models, frame, mistakes)
    if flow.scales != "none" and flow.export:
        _check_scales({*flow.sources, *merged, frame}, models, mistakes)


def _check_ends(
    flow: FlowSpec, models: Mapping[str, Model], frame: str, mistakes: Mistakes
) -> None:
    """Note an embedding and a head that a tied model cannot have."""
    if frame not in models or not models[frame].tied:
        return
    first = flow.sources[:1]
    ends = {"embed": flow.embed or first, "head": flow.head or first}
    for which, names in ends.items():
        for name in names:
            if name in models and not models[name].tied:
                mistakes.add(
                    f"space.flow.{which}",
                    f"expected a source whose head is its embedding, as in the frame "
                    f"{frame!r}, got {name!r}; or choose an untied frame.",
                )
    if len({*ends["embed"], *ends["head"]}) > 1:
        mistakes.add(
            "space.flow.head",
            f"expected the source of the embedding, {_listed(ends['embed'])}, got "
            f"{_listed(ends['head'])}: in the frame {frame!r} the head is the "
            "embedding.",
        )


def _check_scales(
    names: set[str], models: Mapping[str, Model], mistakes: Mistakes
) -> None:
    for name in sorted(names & models.keys()):
        reason = unfoldable(models[name])
        if reason is not None:
            mistakes.add(
                "space.flow.scales",
                f"expected none: scales of layers of {name!r} cannot be written into "
                f"weights: {reason} Or say `export: false` and score stacks that "
                "cannot be exported.",
            )


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(repr(name) for name in names)
