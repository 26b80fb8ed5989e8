"""The line at which each key of a file stands, so that mistakes name it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import yaml

from evomerge.errors import Problem, SpecError


class Lines:
    """Finds the lines of a document's keys, when there is a mistake to place.

    Attributes:
        label: What messages call the document: its file, perhaps with a number.
    """

    def __init__(self, file: str, root: yaml.Node, label: str = "") -> None:
        self.label = label or file
        self._file = file
        self._root = root
        self._known: dict[int, dict[str, tuple[int, yaml.Node]]] = {}
        self._taken: list[tuple[Collection[str], Lines]] = []

    @property
    def root(self) -> yaml.Node:
        """The document as it is written."""
        return self._root

    def take(self, other: Lines, keys: Collection[str]) -> None:
        """Look in another file too, for what is below these outermost keys.

        Of several files that say a key the one taken last counts, after this one.
        """
        self._taken.insert(0, (keys, other))

    def place(self, key: str) -> tuple[str, int] | None:
        """Return file and line of a key, or of the innermost one around it.

        Args:
            key: Its place, outermost first, as ``space.experts.1``.

        Returns:
            None if not even the outermost key is there.
        """
        _, file, line = self._deepest(key)
        if line is None and self.label != file:
            line = self._root.start_mark.line + 1  # of a document among several
        return None if line is None else (file, line)

    def problem(self, key: str, message: str) -> Problem:
        """Return a mistake at a key of this document."""
        where = f"{self.label}: {key}" if key else self.label
        return self._placed(Problem(where, message))

    def _placed(self, problem: Problem) -> Problem:
        label, _, key = problem.where.partition(": ")
        if problem.line is not None or label != self.label:
            return problem
        found = self.place(key)
        return (
            problem if found is None else replace(problem, file=found[0], line=found[1])
        )

    def _deepest(self, key: str) -> tuple[int, str, int | None]:
        """Return how much of a key is found, in which file, and on which line."""
        outermost = key.partition(".")[0]
        taken = [
            other._deepest(key) for keys, other in self._taken if outermost in keys
        ]
        return max([self._own(key), *taken], key=lambda found: found[0])

    def _own(self, key: str) -> tuple[int, str, int | None]:
        node, rest, line = self._root, key, None
        while rest:
            below = self._below(node)
            name = rest
            while name and name not in below:
                name = name.rpartition(".")[0]  # keys may have dots in them
            if not name:
                break
            line, node = below[name]
            rest = rest[len(name) + 1 :]
        return len(key) - len(rest), self._file, line

    def _below(self, node: yaml.Node) -> dict[str, tuple[int, yaml.Node]]:
        """Return the line and node of each key, or place in a list, of a node."""
        if id(node) not in self._known:
            rows: Iterable[tuple[str, yaml.Node, yaml.Node]] = ()
            if isinstance(node, yaml.MappingNode):
                pairs = [pair for pair in node.value if _is_text(pair[0])]
                rows = [(key.value, key, value) for key, value in pairs]
            elif isinstance(node, yaml.SequenceNode):
                rows = [(str(i), value, value) for i, value in enumerate(node.value)]
            self._known[id(node)] = {
                name: (at.start_mark.line + 1, value) for name, at, value in rows
            }
        return self._known[id(node)]


def _is_text(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


class Document(dict[str, Any]):
    """A mapping that was read from a file, and the lines of its keys."""

    def __init__(self, data: dict[str, Any], lines: Lines) -> None:
        super().__init__(data)
        self.lines = lines


def problem_at(data: Mapping[str, Any], file: str, key: str, message: str) -> Problem:
    """Return a mistake at a key, with its line if the data tell it."""
    if isinstance(data, Document):
        return data.lines.problem(key, message)
    return Problem(f"{file}: {key}", message)


def placed(
    problems: Iterable[Problem], documents: Iterable[Document]
) -> tuple[Problem, ...]:
    """Return problems with file and line, if they are at keys of these documents."""
    every = tuple(problems)
    for document in documents:
        every = tuple(document.lines._placed(problem) for problem in every)
    return every


@contextmanager
def placing(*documents: Document) -> Iterator[None]:
    """Give file and line to whatever is found wrong with these documents.

    Raises:
        SpecError: Instead of one without lines.
    """
    try:
        yield
    except SpecError as error:
        raise SpecError(placed(error.problems, documents)) from error
