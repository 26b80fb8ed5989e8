"""YAML text of which single values are written anew, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from evomerge.errors import Problem, SpecError
from evomerge.specs.reading.yamlfile import parse_documents


class Value:
    """A value of a text: a mapping, a list or a scalar."""

    def __init__(self, node: yaml.Node, key: str) -> None:
        self.node = node
        self.key = key

    @property
    def text(self) -> str | None:
        """What it says, if it is text."""
        is_text = self.node.tag == "tag:yaml.org,2002:str"
        return str(self.node.value) if is_text else None

    def at(self, *keys: str) -> Value | None:
        """Return what is below some keys, one in another; None if there is nothing."""
        found: Value | None = self
        for key in keys:
            found = None if found is None else dict(found.entries()).get(key)
        return found

    def entries(self) -> Iterator[tuple[str, Value]]:
        """Yield the keys of a mapping with their values; of others nothing."""
        if isinstance(self.node, yaml.MappingNode):
            for key, node in self.node.value:
                yield str(key.value), Value(node, f"{self.key}.{key.value}".lstrip("."))

    def items(self) -> Iterator[Value]:
        """Yield the values of a list; of others nothing."""
        if isinstance(self.node, yaml.SequenceNode):
            for number, node in enumerate(self.node.value):
                yield Value(node, f"{self.key}.{number}".lstrip("."))


class Text:
    """A YAML text of mappings, and what is to be changed in it.

    Args:
        text: The text.
        file: Names it in messages.

    Raises:
        SpecError: It is refused, as ``read_yaml`` would.
    """

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._edits: dict[tuple[int, int], str] = {}
        self._documents = parse_documents(text, file)

    @property
    def values(self) -> list[Value]:
        """Its documents."""
        return [Value(document.lines.root, "") for document in self._documents]

    @property
    def is_changed(self) -> bool:
        """Whether anything is to be changed."""
        return bool(self._edits)

    def problem(self, key: str, message: str) -> Problem:
        """Return a mistake at a key, with its line."""
        return self._documents[0].lines.problem(key, message)

    def replace(self, value: Value, new: str) -> None:
        """Write another text in the place of one.

        Raises:
            SpecError: It is not written so that this can be done, or is used in two
                places that differ now.
        """
        start, end = value.node.start_mark.index, value.node.end_mark.index
        written = self._text[start:end]
        is_plain = "\n" not in written and written[:1] not in ("&", "!")
        if not is_plain or _reads(written) != value.text:
            said = f"expected {value.text!r:.200} in quotes, without an anchor or a tag"
            raise SpecError([self.problem(value.key, said)])
        if self._edits.setdefault((start, end), json.dumps(new)) != json.dumps(new):
            said = f"{value.text!r:.200} is meant twice and differs now; write it twice"
            raise SpecError([self.problem(value.key, said)])

    def add(self, key: str, value: str) -> None:
        """Write a further key into the first document; no line gets another number.

        Raises:
            SpecError: There is no place for it.
        """
        root = self._documents[0].lines.root
        if not isinstance(root, yaml.MappingNode):
            raise TypeError("a document is a mapping")
        marks = [name.start_mark for name, _ in root.value]
        first = min(marks, key=lambda mark: mark.index)
        said = f"{key}: {json.dumps(value)}"
        if root.flow_style:
            self._edits[first.index, first.index] = f"{said}, "
        else:
            end = root.end_mark.index
            line = "" if self._text[:end].endswith("\n") else "\n"
            self._edits[end, end] = f"{line}{' ' * first.column}{said}\n"
        try:
            is_there = dict(parse_documents(self.text, self._file)[0]).get(key) == value
        except SpecError:
            is_there = False
        if not is_there:
            said = f"is not given, and cannot be added; write `{key}: ...` into it"
            raise SpecError([Problem(f"{self._file}: {key}", said)])

    @property
    def text(self) -> str:
        """The text with all changes."""
        parts, at = [], 0
        for (start, end), new in sorted(self._edits.items()):
            parts += [self._text[at:start], new]
            at = end
        return "".join([*parts, self._text[at:]])


def _reads(written: str) -> object:
    try:
        return yaml.safe_load(written)
    except yaml.YAMLError:
        return None
