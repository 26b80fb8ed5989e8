"""A picture as a file that every browser shows."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from evomerge.api.results.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Plot

_STYLE = (
    "text{font:12px sans-serif;fill:#333}line{stroke:#ddd}"
    ".tried{fill:none;stroke:#999}.best{fill:#06c}polyline{fill:none;stroke:#06c}"
)


def svg(plot: Plot) -> str:
    """Draw a picture: filled are the best, rings are other trials."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}">'
    )
    return "\n".join([head, *_parts(plot), "</svg>", ""])


def _parts(plot: Plot) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    yield f"<title>{escape(plot.title)}</title><style>{_STYLE}</style>"
    for at, label in plot.x.ticks:
        yield f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{bottom}"/>'
        yield _text(at, bottom + 18, label)
    for at, label in plot.y.ticks:
        yield f'<line x1="{LEFT}" x2="{right}" y1="{at}" y2="{at}"/>'
        yield _text(LEFT - 6, at + 4, label, 'text-anchor="end"')
    yield _text((LEFT + right) / 2, HEIGHT - 8, plot.x.title)
    middle = (TOP + bottom) / 2
    turned = f'text-anchor="middle" transform="rotate(-90 14 {middle})"'
    yield _text(14, middle, plot.y.title, turned)
    if plot.line:
        yield f'<polyline points="{plot.line}"/>'
    for kind, radius, marks in (("tried", 3, plot.marks), ("best", 4.5, plot.best)):
        for mark in marks:
            words = f"<title>{escape(mark.words)}</title>"
            place = f'cx="{mark.x}" cy="{mark.y}" r="{radius}"'
            yield f'<circle class="{kind}" {place}>{words}</circle>'


def _text(x: float, y: float, words: str, how: str = 'text-anchor="middle"') -> str:
    return f'<text x="{x}" y="{y}" {how}>{escape(words)}</text>'
