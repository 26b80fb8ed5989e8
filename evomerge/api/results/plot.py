"""The live front as points of a picture: where each mark and tick stands.

One objective is drawn over the number of the trial, with the best so far as a line;
several are drawn against each other, two at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

WIDTH, HEIGHT = 480, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 14, 48
MOST_MARKS = 600
"""Trials that are drawn, beside those of the front: a browser draws more slowly."""
MOST_PLOTS = 3

_TICKS = 5
_MINIMIZE = "minimize"

Rows = Sequence[Mapping[str, Any]]
_Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A trial's place, in units of the picture."""

    x: float
    y: float
    words: str


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis measures, and its ticks: place and label."""

    title: str
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of ``WIDTH`` by ``HEIGHT``.

    Attributes:
        marks: Trials that are not on the front.
        best: Trials that are.
        line: Corners of the line through the best, as SVG writes them; maybe empty.
        left_out: Trials that were not drawn, so that a browser can follow.
    """

    title: str
    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    best: tuple[Mark, ...]
    line: str
    left_out: int


@dataclass(frozen=True, slots=True)
class _Trial:
    number: int
    values: Mapping[str, float]

    def words(self) -> str:
        told = ", ".join(f"{name} {value:.4g}" for name, value in self.values.items())
        return f"trial {self.number}: {told}"


def plots(trials: Rows, front: Rows) -> tuple[Plot, ...]:
    """Draw what was scored; nothing where nothing was.

    Args:
        trials: Rows of ``evomerge trials --json``.
        front: Rows of ``evomerge front --json``.
    """
    scored = list(_scored(trials))
    directions = dict(front[0]["directions"]) if front else {}
    names = list(directions)
    if not scored or not names:
        return ()
    chosen = {row["number"] for row in front}
    if len(names) == 1:
        return (_over_time(scored, names[0], directions[names[0]]),)
    staircase = len(names) == 2
    pairs = list(pairwise(names))[:MOST_PLOTS]
    return tuple(_pair(scored, chosen, pair, staircase=staircase) for pair in pairs)


def _scored(trials: Rows) -> Iterator[_Trial]:
    for row in trials:
        values = row["values"]
        if (
            values
            and row["state"] == "scored"
            # What answered some of the items compares with nothing here.
            and row.get("n_items") == row.get("of_items")
            and all(map(_is_finite, values.values()))
        ):
            yield _Trial(row["number"], values)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _over_time(scored: Sequence[_Trial], name: str, direction: str) -> Plot:
    better = min if direction == _MINIMIZE else max
    best: list[tuple[_Trial, float]] = []
    for trial in scored:
        value = trial.values[name]
        if not best or better(value, best[-1][1]) != best[-1][1]:
            best.append((trial, value))
    last = scored[-1].number
    stairs: list[_Point] = []
    for trial, value in best:
        if stairs:
            stairs.append((trial.number, stairs[-1][1]))
        stairs.append((trial.number, value))
    stairs.append((last, stairs[-1][1]))
    places = {t.number: (float(t.number), t.values[name]) for t in scored}
    chosen = {trial.number for trial, _ in best}
    return _drawn(
        f"{name}, trial by trial", ("trial", name), scored, places, chosen, stairs
    )


def _pair(
    scored: Sequence[_Trial],
    chosen: set[int],
    pair: tuple[str, str],
    *,
    staircase: bool,
) -> Plot:
    first, second = pair
    places = {t.number: (t.values[first], t.values[second]) for t in scored}
    line = sorted(places[n] for n in chosen if n in places) if staircase else []
    return _drawn(f"{second} against {first}", pair, scored, places, chosen, line)


def _drawn(
    title: str,
    names: tuple[str, str],
    scored: Sequence[_Trial],
    places: Mapping[int, _Point],
    chosen: set[int],
    line: Sequence[_Point],
) -> Plot:
    x = _Scale.over([place[0] for place in places.values()], LEFT, WIDTH - RIGHT)
    y = _Scale.over([place[1] for place in places.values()], HEIGHT - BOTTOM, TOP)

    def mark(trial: _Trial) -> Mark:
        place = places[trial.number]
        return Mark(x.at(place[0]), y.at(place[1]), trial.words())

    others = [trial for trial in scored if trial.number not in chosen]
    step = max(1, math.ceil(len(others) / MOST_MARKS))
    drawn = others[::-1][::step]  # the latest is always among them
    return Plot(
        title=title,
        x=Axis(names[0], x.ticks()),
        y=Axis(names[1], y.ticks()),
        marks=tuple(mark(trial) for trial in drawn),
        best=tuple(mark(trial) for trial in scored if trial.number in chosen),
        line=" ".join(f"{x.at(a):g},{y.at(b):g}" for a, b in line),
        left_out=len(others) - len(drawn),
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to units of the picture."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Sequence[float], start: float, end: float) -> _Scale:
        low, high = min(values), max(values)
        room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        return cls(low - room, high + room, start, end)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> tuple[tuple[float, str], ...]:
        step = _round_step((self.high - self.low) / _TICKS)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        decimals = max(0, -math.floor(math.log10(step)))
        form = f".{decimals}f" if decimals <= 6 else ".3g"
        values = [k * step for k in range(first, last + 1)]
        return tuple((self.at(value), format(value, form)) for value in values)


def _round_step(rough: float) -> float:
    """Return the next step of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
