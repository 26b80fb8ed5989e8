"""What a study leaves out and its sources answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from evomerge.checkpoints import Model
from evomerge.core.flow.blueprint import MERGE
from evomerge.core.recipes.recipe import STORED, Recipe
from evomerge.specs.completing.stage import grounded
from evomerge.specs.schema.space import SpaceSpec
from evomerge.specs.schema.study import StudySpec
from evomerge.specs.sources import dtype_of, kept_dtype


def filled(
    spec: StudySpec,
    models: Mapping[str, Model],
    taken: Mapping[str, Recipe] = MappingProxyType({}),
) -> StudySpec:
    """Fill in what follows from the sources: experts, frame and element types.

    Args:
        spec: What was written.
        models: The sources that could be read.
        taken: Sources that are recipes; as frame the folder serves that theirs has.
    """
    space = spec.space
    names = [name for name in sorted(spec.sources) if name != space.base]
    experts = space.experts or tuple(names)
    space = space.model_copy(update={"experts": experts})
    if space.flow is not None:
        merges = (MERGE,) if space.operator else ()
        sources = space.flow.sources or (*merges, *experts)
        flow = space.flow.model_copy(update={"sources": sources})
        space = space.model_copy(update={"flow": flow})
    frame = grounded(spec.frame or _frame(space, spec.sources) or names[0], taken)
    dtype = spec.dtype or kept_dtype(models, frame)
    served = dtype_of(models.get(frame)) if dtype == STORED else dtype
    engine = spec.engine.model_copy(update={"dtype": spec.engine.dtype or served})
    return spec.model_copy(
        update={"space": space, "frame": frame, "dtype": dtype, "engine": engine}
    )


def _frame(space: SpaceSpec, known: Collection[str]) -> str | None:
    """Return whose config and tokenizer suit a space best.

    A stack begins and ends with the first source of its layers; a merge is near its
    base.
    """
    first = space.flow.sources[:1] if space.flow is not None else ()
    if first and first[0] != MERGE and first[0] in known:
        return first[0]
    return space.base or next(iter(space.experts), None)
