"""Does every name that a space uses belong to a source?"""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.core.nearest import did_you_mean
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.study import StudySpec
from evomerge.specs.vocabulary import check_source


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
