"""vLLM's arguments, known without loading it: its source is read, nothing of it runs.

What cannot be told from the source, such as a class of vLLM's own, may be anything; the
engine itself says so at its start.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from evomerge.core.nearest import suggestion

OURS = {
    "worker_extension_cls": "this is how evomerge reaches the weights; leave it out."
}
"""Arguments that are not for a study to set, and why."""
STACK_OPTIONS = (
    "enforce_eager",
    "hf_overrides",
    "load_format",
    "pipeline_parallel_size",
    "quantization",
)
"""Arguments that an engine of stacks decides by itself."""
_SIMPLE: Mapping[str, tuple[type, str]] = {
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "text"),
    "list": (list, "a list"),
    "set": (list, "a list"),
    "dict": (dict, "a mapping"),
}


def option_mistakes(options: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with arguments for vLLM, each with its name.

    Nothing is, where vLLM is not installed: workers may be on other machines.
    """
    source = _arguments()
    if source is None:
        return
    known = source.fields("EngineArgs")
    for name, value in options.items():
        if name in OURS:
            yield name, OURS[name]
        elif name not in known:
            hint = suggestion(name, known, "; ") or "."
            yield name, f"vLLM has no such argument{hint}"
        elif not (kind := source.kind(known[name])).takes(value):
            hint = suggestion(value, kind.words, "; ") or "."
            yield name, f"expected {kind.said}, got {value!r}{hint}"


@dataclass(slots=True)
class _Kind:
    """What an argument may be.

    Attributes:
        words: Values that are listed.
        names: Simple types, as they are written.
        is_open: It may be anything.
    """

    words: list[Any] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    is_open: bool = False

    def takes(self, value: object) -> bool:
        """Tell whether an argument may have a value."""
        if self.is_open or value is None or value in self.words:
            return True
        return any(_is(value, _SIMPLE[name][0]) for name in self.names)

    @property
    def said(self) -> str:
        """Say what is expected."""
        types = [_SIMPLE[name][1] for name in self.names]
        return " or ".join(dict.fromkeys([*types, *map(repr, self.words)]))


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


@cache
def _arguments() -> _Source | None:
    """Return where vLLM's arguments stand; None where they cannot be read."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent
    try:
        source = _Source(root, root / "engine" / "arg_utils.py")
    except (OSError, SyntaxError, ValueError):
        return None
    return source if source.fields("EngineArgs") else None


class _Source:
    """A file of vLLM's."""

    def __init__(self, root: Path, file: Path) -> None:
        self._root = root
        self._body = ast.parse(file.read_text(encoding="utf-8")).body

    def fields(self, name: str) -> dict[str, ast.expr]:
        """Return the fields of a class, by name, with what is written of them."""
        for node in self._body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return {
                    field.target.id: field.annotation
                    for field in node.body
                    if isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                }
        return {}

    def kind(self, written: ast.expr) -> _Kind:
        """Return what an annotation lets a value be."""
        kind = _Kind()
        for part in _alternatives(written):
            outer = part.value if isinstance(part, ast.Subscript) else part
            name = outer.id if isinstance(outer, ast.Name) else ""
            if name in _SIMPLE:
                kind.names.append(name)
            elif isinstance(part, ast.Constant) and part.value is None:
                pass  # may always be left out
            elif (listed := self._listed(part)) is not None:
                kind.words += listed
            else:
                kind.is_open = True
        return kind

    def _listed(self, written: ast.expr) -> list[Any] | None:
        """Return the values of a Literal, or of a name that stands for one."""
        if isinstance(written, ast.Name):
            return self._named(written.id)
        if not isinstance(written, ast.Subscript) or _name(written.value) != "Literal":
            return None
        inner = written.slice
        values: list[Any] = []
        for part in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
            if isinstance(part, ast.Constant):
                values.append(part.value)
            elif (more := self._listed(part)) is not None:
                values += more
            else:
                return None
        return values

    def _named(self, name: str) -> list[Any] | None:
        """Return the values that a name stands for, here or where it is from."""
        for node in self._body:
            if isinstance(node, ast.Assign) and name in map(_name, node.targets):
                return self._listed(node.value)
            if isinstance(node, ast.ImportFrom) and any(
                name in (alias.name, alias.asname) for alias in node.names
            ):
                return self._imported(node, name)
        return None

    def _imported(self, node: ast.ImportFrom, name: str) -> list[Any] | None:
        top, _, rest = (node.module or "").partition(".")
        file = self._root / f"{rest.replace('.', '/')}.py"
        if top != "vllm" or node.level or not file.is_file():
            return None
        try:
            return _Source(self._root, file)._named(name)
        except (OSError, SyntaxError, ValueError):
            return None


def _alternatives(written: ast.expr) -> Iterator[ast.expr]:
    if isinstance(written, ast.BinOp) and isinstance(written.op, ast.BitOr):
        yield from _alternatives(written.left)
        yield from _alternatives(written.right)
    else:
        yield written


def _name(written: ast.expr) -> str:
    return written.id if isinstance(written, ast.Name) else ""
