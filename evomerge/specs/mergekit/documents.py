"""Files of several merges, and files of mergekit that are no merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.errors import Problem, SpecError
from evomerge.specs.mergekit.operations import Profile
from evomerge.specs.mergekit.reading import (
    METHOD_KEY,
    ReadMerge,
    is_mergekit,
    read_mergekit,
)
from evomerge.specs.mergekit.references import Named
from evomerge.specs.reading.lines import Document
from evomerge.specs.reading.mistakes import Mistakes

_MIXTURE = (
    "is a file of mergekit-moe, which puts dense models side by side as the experts of "
    "a mixture. `evomerge merge FILE OUT` makes that; its folder can then be a source "
    "here. To merge these models into one dense model, write merge_method and models."
)
_SEARCH = (
    "is a file of mergekit-evolve, which describes a search. `evomerge study FILE "
    "study.yaml` turns it into a study file and says what has no equal; `evomerge run "
    "study.yaml` searches."
)
_LAYERS = (
    "is a file of bakllama, mergekit's older form of layer stacks. Write its "
    "layer_slices as slices of merge_method: passthrough."
)


def other_file(data: Mapping[str, Any]) -> str | None:
    """Tell what a file of mergekit is that describes no merge; None if it is none."""
    if METHOD_KEY in data:
        return None
    if "genome" in data:
        return _SEARCH
    experts = data.get("experts")
    listed = experts if isinstance(experts, list) else []
    if any(isinstance(one, Mapping) and "source_model" in one for one in listed):
        return _MIXTURE
    return _LAYERS if "layer_slices" in data else None


def read_documents_of(
    documents: Sequence[Document],
    file: Path,
    *,
    profile: Profile = "identical",
    strict: bool = False,
) -> ReadMerge:
    """Read a mergekit file of one or several documents.

    Documents may name the merges of others by their ``name``; they are merged on the
    fly. The result is the document without a name, or else the last one.

    Args:
        documents: What the file holds.
        file: Where it lies.
        profile: As for ``read_mergekit``.
        strict: What mergekit passes over is a mistake.

    Raises:
        SpecError: Carries every mistake of the first document that has any.
    """
    labels = [document.lines.label for document in documents]
    names = [document.get("name") for document in documents]
    _check_documents(documents, names, labels)
    last = names.index(None) if None in names else len(names) - 1
    done: dict[str, ReadMerge] = {}
    warnings: list[Problem] = []
    allow: list[str] = []
    for i in _order(documents, names, labels[0], last):
        mistakes = Mistakes(labels[i], strict=strict)
        named = Named(file, mistakes, earlier=done)
        read = read_mergekit(documents[i], file, profile=profile, named=named)
        warnings += read.warnings
        allow += read.allow
        done = {**done, str(names[i]): read}
    once = tuple(dict.fromkeys(allow))
    return replace(read, warnings=tuple(warnings), allow=once)


def _check_documents(
    documents: Sequence[Document], names: Sequence[Any], labels: Sequence[str]
) -> None:
    problems = [
        Problem(label, "expected a merge_method in every document, got none here.")
        for document, label in zip(documents, labels, strict=True)
        if not is_mergekit(document)
    ]
    for i, name in enumerate(names):
        if name in names[:i]:
            said = "without a name, the result" if name is None else f"named {name!r}"
            problems.append(Problem(labels[i], f"expected one document {said}."))
        elif name is not None and not isinstance(name, str):
            problems.append(
                Problem(f"{labels[i]}: name", f"expected text, got {name!r}.")
            )
    if problems:
        raise SpecError(problems)


def _order(
    documents: Sequence[Document], names: Sequence[Any], file: str, last: int
) -> list[int]:
    """Return the documents that the result needs, each after those it names."""
    numbers = {name: i for i, name in enumerate(names) if name is not None}
    order: list[int] = []
    way: list[int] = []

    def visit(i: int) -> None:
        if i in way:
            said = " -> ".join(str(names[k]) for k in [*way[way.index(i) :], i])
            raise SpecError([Problem(file, f"expected no merges in a circle: {said}.")])
        if i not in order:
            way.append(i)
            for word in _words(documents[i]):
                if word in numbers and numbers[word] != i:
                    visit(numbers[word])
            order.append(way.pop())

    visit(last)
    return order


def _words(value: Any) -> Iterator[str]:
    """Yield every text that may be a model, in the order of the file."""
    if isinstance(value, str):
        yield value.partition("+")[0].partition("@")[0].strip()
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _words(part)
    elif isinstance(value, list):
        for part in value:
            yield from _words(part)
