"""A plot as SVG, written by hand: held-out means, intervals, a panel per setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from dataflow.summary import Row

_WIDTH, _LABELS, _RIGHT = 760, 150, 70
_LINE, _HEAD, _FOOT = 26, 34, 44
_COLOURS = {"PS": "#1b6ca8", "DFS": "#c2571a", "PS→DFS": "#3a8f5c", "joint": "#8a4fa8"}
_GREY = "#8a8f98"
_INK = "#24292f"


def plot(panels: Mapping[str, Sequence[Row]], marks: Mapping[str, float]) -> str:
    """Draw the held-out objective of every variant.

    Args:
        panels: Title to rows.
        marks: Title to the best baseline's objective, drawn as a dashed line.

    Returns:
        The SVG document.
    """
    parts: list[str] = []
    top = 0
    for title, rows in panels.items():
        parts += _panel(title, rows, marks.get(title), top)
        top += _HEAD + _LINE * len(rows) + _FOOT
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" '
        f'width="{_WIDTH}" height="{top}" font-family="Helvetica, Arial, sans-serif" '
        f'font-size="13">\n<rect width="{_WIDTH}" height="{top}" fill="white"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _panel(title: str, rows: Sequence[Row], mark: float | None, top: int) -> list[str]:
    most = max([mark or 0.0, *(r.sealed.value + (r.sealed.half or 0.0) for r in rows)])
    step = 0.05 if most <= 0.3 else 0.1 if most <= 0.8 else 0.25
    n = max(1, math.ceil(most / step))

    def x(value: float) -> float:
        inside = min(max(value, 0.0), n * step)
        return _LABELS + (_WIDTH - _LABELS - _RIGHT) * inside / (n * step)

    first, last = top + _HEAD, top + _HEAD + _LINE * len(rows)
    out = [_text(12, top + 22, title, weight="bold")]
    for k in range(n + 1):
        at = x(k * step)
        out.append(_line((at, first), (at, last), "#e3e6ea"))
        out.append(_text(at, last + 16, f"{k * step:.2f}", anchor="middle"))
    if mark is not None:
        at = x(mark)
        out.append(_line((at, first), (at, last), _GREY, 'stroke-dasharray="4 3"'))
        out.append(_text(at, last + 32, "best baseline", anchor="middle", colour=_GREY))
    for place, row in enumerate(rows):
        y = first + _LINE * (place + 0.5)
        colour = _COLOURS.get(row.variant, _GREY)
        value, half = row.sealed.value, row.sealed.half
        out.append(_text(_LABELS - 10, y + 4, row.variant, anchor="end"))
        if half is not None:
            ends = (x(value - half), y), (x(value + half), y)
            out.append(_line(*ends, colour, 'stroke-width="2.5"'))
        out.append(
            f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>'
        )
        out.append(_text(_WIDTH - 12, y + 4, f"{value:.3f}", anchor="end"))
    return out


def _line(
    begin: tuple[float, float], end: tuple[float, float], colour: str, more: str = ""
) -> str:
    return (
        f'<line x1="{begin[0]:.1f}" y1="{begin[1]:.1f}" x2="{end[0]:.1f}" '
        f'y2="{end[1]:.1f}" stroke="{colour}" {more}/>'
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    weight: str = "normal",
    colour: str = _INK,
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
        f'font-weight="{weight}" fill="{colour}">{escape(text)}</text>'
    )
