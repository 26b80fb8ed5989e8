"""What a card shows, as Markdown: text of strangers, and numbers.

Names of models, studies, tasks and operators come from files and from other people.
They are shown, never obeyed: whatever could be syntax, in YAML too, is escaped, control
characters are dropped, and lengths are bounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence

from evomerge.export.intervals import Estimate
from evomerge.export.stats import FLOOR

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


def interval(estimate: Estimate, *, sign: bool = False) -> str:
    """Write an estimate with as many decimals as its interval makes meaningful."""
    width = estimate.high - estimate.low
    decimals = 3 if width <= 0 else min(8, max(0, 1 - math.floor(math.log10(width))))
    form = f"{'+' if sign else ''}.{decimals}f"
    middle, low, high = (
        _minus(format(value, form))
        for value in (estimate.value, estimate.low, estimate.high)
    )
    return f"{middle} [{low}, {high}]"


def number(value: float, *, sign: bool = False) -> str:
    """Write a number with four digits."""
    return _minus(format(value, "+.4g" if sign else ".4g"))


def _minus(text: str) -> str:
    """Write a true minus sign, and no sign of nothing."""
    is_zero = not text.strip("+-0.")
    return text.lstrip("+-") if is_zero else text.replace("-", "−")


def p_value(value: float, raw: float) -> str:
    """Write a p-value, adjusted and as it was; at the floor of its test as a bound."""
    if raw <= FLOOR:
        return f"≤ {value:.4f}"
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"
