"""YAML text to plain data, refusing what YAML makes easy to get wrong.

Duplicate keys, tags, dates, infinite or endless numbers, keys that are no text and
anchors that unfold without end are mistakes here; ``1e-3`` is a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import Resolver
from yaml.scanner import Scanner

from evomerge.checkpoints.documents import read_bytes
from evomerge.core.policy import refuse_outside
from evomerge.errors import CheckpointError, Problem, SpecError
from evomerge.specs.reading.lines import Document, Lines

try:
    from yaml.cyaml import CParser as _Events  # type: ignore[attr-defined]
except ImportError:  # a build without libyaml: the same, five times slower

    class _Events(Reader, Scanner, Parser):  # type: ignore[no-redef]
        def __init__(self, stream: Any) -> None:
            Reader.__init__(self, stream)
            Scanner.__init__(self)
            Parser.__init__(self)


MAX_BYTES = 4 << 20
"""Longest file read, in bytes: a recipe of ten models of 128 layers has a good one."""
MAX_NODES = 200_000
"""Most values a file may hold once its anchors are expanded."""
MAX_DEPTH = 40
"""Deepest nesting a file may have."""
_LARGEST = 1 << 63
"""No whole number may be as large as this, so that each is a float64 as well."""


class _Loader(Composer, _Events, SafeConstructor, Resolver):
    """The safe loader within bounds, with YAML 1.2's idea of a scientific number.

    Nodes are composed in Python: libyaml's own composer overflows the stack.
    """

    def __init__(self, text: str) -> None:
        _Events.__init__(self, text)
        for part in (Composer, SafeConstructor, Resolver):
            part.__init__(self)
        self._depth = self._written = 0

    def nodes(self) -> list[yaml.Node]:
        """Compose every document, all of them within one bound."""
        nodes: list[yaml.Node] = []
        while self.check_node():
            if (node := self.get_node()) is not None:
                nodes.append(node)
        if sum(_measure(node, {})[0] for node in nodes) > MAX_NODES:
            raise _TooLargeError(_too_many())
        return nodes

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self._written += 1
        if self._written > MAX_NODES:
            raise _TooLargeError(_too_many())
        if self._depth >= MAX_DEPTH:
            raise _TooLargeError(_too_deep())
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _TooLargeError(Exception):
    """A document that is not read to its end."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
    list("-+0123456789"),
)


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value under a tag that is none of YAML's own; nothing was built from it."""

    tag: str
    text: str


class _TagLoader(_Loader):
    """The same loader, which leaves values under foreign tags as they are written."""


def _tagged(_: yaml.Loader, node: yaml.Node) -> Tagged:
    is_text = isinstance(node, yaml.ScalarNode)
    return Tagged(node.tag, str(node.value) if is_text else "")


_TagLoader.add_constructor(None, _tagged)


def read_yaml(path: Path, *, tags: bool = False) -> Document:
    """Read a file that holds one mapping.

    Args:
        path: The file.
        tags: Whether values under foreign tags are kept, as ``Tagged``; otherwise a
            mistake.

    Raises:
        SpecError: The file is missing, unreadable or too large, is not YAML, holds
            something else than a mapping, or holds values that are not plain data;
            every mistake that can be told apart is listed.
    """
    return parse_yaml(_text(path), path.name, tags=tags)


def read_documents(path: Path) -> list[Document]:
    """Read a file that holds mappings, one or several documents of them.

    Raises:
        SpecError: As for ``read_yaml``.
    """
    return parse_documents(_text(path), path.name)


def _text(path: Path) -> str:
    file = path.name
    try:
        refuse_outside(path)
        text = read_bytes(path, MAX_BYTES).decode("utf-8")
    except CheckpointError as error:
        where, _, said = str(error).partition(": ")
        raise _refusal(where, said) from error
    except UnicodeDecodeError as error:
        raise _refusal(
            file, "expected text in UTF-8; save the file as such."
        ) from error
    return text


def parse_yaml(text: str, file: str, *, tags: bool = False) -> Document:
    """Read text that holds one mapping; ``file`` names it in messages.

    Raises:
        SpecError: As for ``read_yaml``.
    """
    first, *others = parse_documents(text, file, tags=tags)
    if others:
        raise _refusal(
            file, f"expected one document, got {len(others) + 1}, separated by `---`."
        )
    return first


def parse_documents(text: str, file: str, *, tags: bool = False) -> list[Document]:
    """Read text that holds one or several mappings, separated by ``---``.

    Raises:
        SpecError: As for ``read_yaml``.
    """
    found = _constructed(text, file, tags)
    for value in [value for value, _ in found] or [None]:
        if not isinstance(value, dict):
            raise _refusal(
                file,
                "expected a mapping of keys (one `key: value` a line), "
                f"got {_kind(value)}.",
            )
    odd: list[Problem] = []
    documents: list[Document] = []
    for number, (value, node) in enumerate(found, start=1):
        label = f"{file} (document {number})" if len(found) > 1 else file
        lines = Lines(file, node, label)
        odd += [lines.problem(key, said) for key, said in _odd_values(value, "")]
        documents.append(Document(value, lines))
    if odd:
        raise SpecError(odd)
    return documents


def _constructed(text: str, file: str, tags: bool) -> list[tuple[Any, yaml.Node]]:
    """Return the value of each document that holds something, with its node."""
    try:
        loader = (_TagLoader if tags else _Loader)(text)
        nodes = loader.nodes()
        problems: list[Problem] = []
        for node in nodes:
            _duplicates(node, file, "", problems)
        if problems:
            raise SpecError(problems)
        found = [(loader.construct_document(node), node) for node in nodes]
        return [(value, node) for value, node in found if value is not None]
    except _TooLargeError as error:
        raise _refusal(file, str(error)) from error
    except yaml.MarkedYAMLError as error:
        raise SpecError([_syntax(error, file)]) from error
    except yaml.YAMLError as error:
        raise _refusal(file, f"expected YAML: {error}") from error
    except ValueError as error:
        raise _refusal(file, f"holds a value that cannot be read: {error}.") from error


def join(path: str, key: object) -> str:
    """Write the place of a key below another one."""
    return f"{path}.{key}" if path else str(key)


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Count the values of a node and its levels, an alias as often as it is used."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = (1, MAX_DEPTH)  # for an anchor that holds itself
    below = [_measure(inner, known) for inner in _inner(node)]
    size = 1 + sum(size for size, _ in below)
    depth = 1 + max((depth for _, depth in below), default=0)
    if depth > MAX_DEPTH:
        raise _TooLargeError(_too_deep())
    known[id(node)] = (size, depth)
    return size, depth


def _inner(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _duplicates(node: yaml.Node, file: str, path: str, problems: list[Problem]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _duplicates(value, file, join(path, index), problems)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            where, said = f"{file}: {path or 'top'}", "expected keys that are text."
            problems.append(Problem(where, said, file, line))
            continue
        here = join(path, key.value)
        if key.value in lines and key.value != "<<":
            said = (
                f"expected each key once, got it on line {lines[key.value]} and again "
                f"on line {line}; keep one."
            )
            problems.append(Problem(f"{file}: {here}", said, file, line))
        lines.setdefault(key.value, line)
        _duplicates(value, file, here, problems)


def _odd_values(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the place of each value that is no plain data, and what is wrong."""
    if isinstance(value, dict):
        for key, item in value.items():
            here = join(path, key)
            if not isinstance(key, str):
                yield (
                    here,
                    f"expected a key that is text, got {key!r}; put it in quotes.",
                )
            yield from _odd_values(item, here)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _odd_values(item, join(path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"expected a finite number, got {value}."
    elif isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        yield path, f"expected a number of 64 bits, got one of {value.bit_length()}."
    elif value is not None and not isinstance(value, str | int | float | bool | Tagged):
        yield path, f"expected plain data, got {_kind(value)}; put text in quotes."


def _syntax(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    said = f"expected YAML: {error.problem or error.context or 'not YAML'}."
    return Problem(file, said, file, None if mark is None else mark.line + 1)


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    names = {"list": "a list", "str": "text", "dict": "a mapping"}
    return names.get(type(value).__name__, f"a {type(value).__name__}")


def _too_many() -> str:
    return (
        f"expected at most {MAX_NODES} values once anchors are expanded; write shorter "
        "lists or fewer aliases."
    )


def _too_deep() -> str:
    return f"expected at most {MAX_DEPTH} levels of nesting, and no anchor in itself."


def _refusal(where: str, message: str) -> SpecError:
    return SpecError([Problem(where, message)])
