"""Text of strangers inside Markdown and YAML: shown, never obeyed.

Names of models, studies, tasks and operators come from files and from other people.
Whatever could be syntax is escaped, control characters are dropped, and lengths are
bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

_LONGEST = 200
_MARKS = re.compile(
    r"[\\`*|~\[\]@$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"  # emphasis, tables, links
    r"|(?<=:)/(?=/)|(?<=\bwww)\.",  # addresses that become links by themselves
    re.IGNORECASE,
)
_FIRST = re.compile(r"^(\d*)([-+=#>.)])")
_NOT_TEXT = {"<": "&lt;", "&": "&amp;"}
_TAGS = re.compile(r"<|&(?=#|\w+;)")
_NOT_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def plain(text: str) -> str:
    """Return the text on one line, printable, and at most 200 characters long."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def markdown(text: str) -> str:
    """Return text that Markdown shows as it is, also inside a table.

    What could be syntax where it stands is escaped; all else is left as it reads best.
    """
    shown = _MARKS.sub(r"\\\g<0>", plain(text))
    shown = _TAGS.sub(lambda found: _NOT_TEXT[found[0]], shown)
    return _FIRST.sub(r"\1\\\2", shown) if _begins_block(shown) else shown


def _begins_block(text: str) -> bool:
    """Tell whether a line that begins so is a list, a heading or a rule."""
    return re.match(r"(\d+[.)]|[-+#]+)(\s|$)|=+$|>|#", text) is not None


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
