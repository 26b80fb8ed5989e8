"""A scan of blocks as a picture: which layers, run twice, help and which hurt.

Written by hand as SVG, without a background of its own, so that it can be read on a
light page and on a dark one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_CELL, _LEFT, _TOP, _RIGHT, _FOOT = 16, 56, 64, 24, 92
_LEAST_WIDTH = 420
_BETTER, _WORSE = "#2f7fd8", "#d9722b"
_FAINTEST = 0.06
_STYLE = (
    "text{font:12px Helvetica,Arial,sans-serif;fill:#24292f}"
    ".line{stroke:#24292f}"
    "@media(prefers-color-scheme:dark){text{fill:#e6e9ed}.line{stroke:#e6e9ed}}"
)


@dataclass(frozen=True, slots=True)
class Heat:
    """One block of the picture.

    Attributes:
        first: Its first layer, from 0.
        layers: How many layers.
        gain: How much better than the unchanged model; below 0 worse.
        says: What is told of it when it is pointed at.
        marked: It gets a frame.
    """

    first: int
    layers: int
    gain: float
    says: str
    marked: bool = False


def heat_map(title: str, subtitle: str, depth: int, cells: Sequence[Heat]) -> str:
    """Draw first layer against length.

    Gains and losses are coloured each on a scale of its own, from nothing to the
    largest there is, since a block can lose far more than it can gain.

    Args:
        title: First line.
        subtitle: Second line.
        depth: Layers of the model.
        cells: The blocks that were scored; at least one.

    Returns:
        The SVG document.
    """
    longest = max(cell.layers for cell in cells)
    width = max(_LEFT + longest * _CELL + _RIGHT, _LEAST_WIDTH)
    height = _TOP + depth * _CELL + _FOOT
    most = {
        True: max((c.gain for c in cells if c.gain > 0), default=0.0),
        False: max((-c.gain for c in cells if c.gain < 0), default=0.0),
    }
    body = [_cell(cell, most) for cell in sorted(cells, key=lambda c: c.marked)]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        _text(12, 20, title, more=' font-weight="bold"'),
        _text(12, 38, subtitle),
        *_axes(depth, longest),
        *body,
        *_legend(most, _TOP + depth * _CELL + 52),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _cell(cell: Heat, most: Mapping[bool, float]) -> str:
    is_better = cell.gain > 0
    largest = most[is_better]
    share = abs(cell.gain) / largest if largest else 0.0
    opacity = 0.0 if cell.gain == 0 else max(share, _FAINTEST)
    x, y = _LEFT + (cell.layers - 1) * _CELL, _TOP + cell.first * _CELL
    frame = (
        'class="line" stroke-width="2"'
        if cell.marked
        else ('class="line" stroke-opacity="0.15"')
    )
    return (
        f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" '
        f'fill="{_BETTER if is_better else _WORSE}" fill-opacity="{opacity:.2f}" '
        f"{frame}><title>{escape(cell.says)}</title></rect>"
    )


def _axes(depth: int, longest: int) -> list[str]:
    step = 1 if depth <= 12 else 5
    out = [
        _text(_LEFT - 8, _TOP + (k + 0.75) * _CELL, str(k), more=' text-anchor="end"')
        for k in range(0, depth, step)
    ]
    out += [
        _text(_LEFT + (n - 0.5) * _CELL, _TOP - 6, str(n), more=' text-anchor="middle"')
        for n in range(1, longest + 1)
        if n == 1 or n % step == 0
    ]
    middle = _TOP + depth * _CELL / 2
    turned = f' text-anchor="middle" transform="rotate(-90 16 {middle:g})"'
    out.append(_text(16, middle, "first layer", more=turned))
    below = _TOP + depth * _CELL + 20
    out.append(_text(_LEFT, below, "across: number of layers that run twice"))
    return out


def _legend(most: Mapping[bool, float], y: int) -> list[str]:
    out = []
    for place, (is_better, colour, sign) in enumerate(
        ((False, _WORSE, "-"), (True, _BETTER, "+"))
    ):
        x = _LEFT + place * 180
        out += [
            f'<rect x="{x + k * 14}" y="{y}" width="14" height="12" fill="{colour}" '
            f'fill-opacity="{(k + 1) / 5:.2f}"/>'
            for k in range(5)
        ]
        word = "better" if is_better else "worse"
        said = f"up to {sign}{most[is_better]:.3g} {word}"
        out.append(_text(x, y + 28, said if most[is_better] else f"none is {word}"))
    return out


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{more}>{escape(text)}</text>'
