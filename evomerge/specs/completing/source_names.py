"""Names of sources: those that a study leaves out are filled in, strange ones noted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType

from evomerge.checkpoints import Model
from evomerge.core.flow.blueprint import MERGE
from evomerge.core.nearest import did_you_mean
from evomerge.core.recipes.recipe import STORED, Recipe
from evomerge.specs.completing.stage import grounded
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.space import SpaceSpec
from evomerge.specs.schema.study import StudySpec
from evomerge.specs.sources import dtype_of, kept_dtype
from evomerge.specs.vocabulary import check_source


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


def check_sources(spec: StudySpec, mistakes: Mistakes) -> None:
    """Note names that no source has, and experts that are named twice.

    Args:
        spec: The study, its experts and frame filled in.
        mistakes: Where to note them.
    """
    known = list(spec.sources)
    strange: set[str] = set()
    for key, name in _named(spec):
        if name not in known and name not in strange:
            strange.add(name)
            mistakes.add(key, f"unknown source {name!r}{did_you_mean(name, known)}")
    check_source(spec.vocabulary, known, mistakes)
    experts = spec.space.experts
    for i, name in enumerate(experts):
        if name in experts[:i]:
            mistakes.add(
                f"space.experts.{i}", f"expected each expert once, got {name!r} again."
            )


def has_strange_sources(spec: StudySpec) -> bool:
    """Tell whether a space names what is no source."""
    return any(name not in spec.sources for _, name in _named(spec))


def _named(spec: StudySpec) -> Iterator[tuple[str, str]]:
    """Yield every place that names a source, with the name."""
    space = spec.space
    yield from ((f"space.experts.{i}", name) for i, name in enumerate(space.experts))
    if space.base is not None:
        yield "space.base", space.base
    yield "frame", str(spec.frame)
