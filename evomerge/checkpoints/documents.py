"""Files of a model folder: read within bounds, refused in words a user can act on.

Whoever reads a stranger's file goes through here: its kind and length are looked at
before a byte is read, and what JSON would unfold to before it is parsed.
"""

import json
import math
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError

MAX_BYTES = 64 << 20
"""Longest text file read: twice the longest tokenizer that is known."""
MAX_CONTAINERS = 1 << 21
"""Most lists and objects of a JSON text; each takes many times its characters."""
MAX_DEPTH = 100
"""Deepest nesting of a JSON text."""

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_bytes(file: Path, limit: int = MAX_BYTES) -> bytes:
    """Read a regular file whole.

    Raises:
        CheckpointError: It is missing, unreadable, longer than ``limit`` bytes, or no
            regular file: a pipe or a device may have no end.
    """
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise CheckpointError(
                f"{file}: expected a regular file, got a {_kind(found.st_mode)}."
            )
        if found.st_size > limit:
            raise CheckpointError(
                f"{file}: expected at most {limit} bytes, got {found.st_size}."
            )
        with file.open("rb") as stream:
            return stream.read(limit)
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{file}: cannot be read: {reason}.") from error


def parse_json(data: bytes, *, unique: bool = False) -> Any:
    """Read JSON text in UTF-8 whose numbers are finite.

    Args:
        data: The text.
        unique: No object may have a key twice.

    Raises:
        ValueError: It is something else, or too large, or nested too deep.
    """
    containers = data.count(b"{") + data.count(b"[")
    if containers > MAX_CONTAINERS:
        raise ValueError(f"more than {MAX_CONTAINERS} lists and objects")
    text = data.decode()
    if text.startswith("\ufeff"):
        raise ValueError("it begins with a byte order mark (BOM)")
    try:
        if unique:
            value = _UNIQUE.decode(text)
        elif containers > 1 or _is_infinite(value := _QUICK.decode(text)):
            value = _FINITE.decode(text)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if containers > MAX_DEPTH:  # else it is not that deep
        _check_depth(value)
    if b"\\" in data and _ESCAPED_SURROGATE.search(data):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of a model folder.

    Raises:
        CheckpointError: The file is missing, unreadable or not an object.
    """
    if not file.exists():
        raise CheckpointError(
            f"{file.parent}: has no {file.name}. Give the folder of a model saved by "
            "transformers."
        )
    try:
        data = parse_json(read_bytes(file))
    except ValueError as error:
        raise CheckpointError(f"{file}: is not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{file}: expected a JSON object, got a {type(data).__name__}."
        )
    return data


def refuse_links_out(folder: Path, names: Iterable[str]) -> None:
    """Refuse files that are links to somewhere outside of a model's folder.

    A hub's cache keeps every file beside the snapshots, in ``blobs``; links to there
    stay within the model.

    Raises:
        CheckpointError: Names the first such file, and where it leads.
    """
    root = folder.resolve()
    blobs = root.parent.parent / "blobs"
    own = (root, blobs) if root.parent.name == "snapshots" else (root,)
    for name in names:
        real = (root / name).resolve()
        if not any(real.is_relative_to(place) for place in own):
            raise CheckpointError(
                f"{folder / name}: is a link out of the folder, to {real}; a model's "
                "files must lie in its folder. Copy the file there if it is yours; do "
                "not trust the folder if it is not."
            )


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number that a computer can hold")
    return number


_QUICK = json.JSONDecoder(parse_constant=_refuse)
"""Does not look at each number: for what holds no list and object within another."""
_FINITE = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_UNIQUE = json.JSONDecoder(
    parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
)


def _is_infinite(value: Any) -> bool:
    """Tell whether a number, or one of a flat list or object, is infinite."""
    values = value.values() if isinstance(value, dict) else value
    values = values if isinstance(value, dict | list) else (value,)
    return math.inf in values or -math.inf in values


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        inner = (v.values() if isinstance(v, dict) else v for v in level)
        level = [v for values in inner for v in values if isinstance(v, dict | list)]
    if level:
        raise ValueError(_TOO_DEEP)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "folder",
        stat.S_IFIFO: "pipe",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "device",
        stat.S_IFBLK: "device",
    }
    return kinds.get(stat.S_IFMT(mode), "file of another kind")
