"""Text of strangers inside Markdown and YAML: shown, never obeyed.

Names of models, studies, tasks and operators come from files and from other people.
Whatever could be syntax is written as a character reference, control characters are
dropped, and lengths are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

_LONGEST = 200
_SYNTAX = re.compile(r"[&<>|`*\[\]\\#!~@$\"'{}()]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)
_LIST = re.compile(r"^([-+=]|\d+[.)])")
_NOT_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def plain(text: str) -> str:
    """Return the text on one line, printable, and at most 200 characters long."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def markdown(text: str) -> str:
    """Return text that Markdown shows as it is, also inside a table."""
    shown = _SYNTAX.sub(_reference, plain(text))
    shown = _LINK.sub(_reference, shown)
    return _LIST.sub(lambda m: _reference_all(m.group()), shown)


def yaml_string(text: str) -> str:
    """Return the text as a quoted YAML scalar."""
    return json.dumps(plain(text), ensure_ascii=False)


def file_name(text: str) -> str:
    """Return a name that is safe as a repository, file or folder name."""
    return _NOT_NAME.sub("-", plain(text)).strip("-.")[:96] or "model"


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, is_numeric: bool = False
) -> str:
    """Return a Markdown table; cells are markup already.

    Columns of numbers, all but the first, stand to the right.
    """
    lines = ["| " + " | ".join(head) + " |"]
    rule = " ---: " if is_numeric else " --- "
    lines.append("|" + "|".join([" --- "] + [rule] * (len(head) - 1)) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def _reference(match: re.Match[str]) -> str:
    return _reference_all(match.group())


def _reference_all(text: str) -> str:
    return "".join(f"&#{ord(c)};" for c in text)
