"""How large a search space is: its points, and the stacks of layers they stand for."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from evomerge.core.digest import Scalar
from evomerge.core.flow.blueprint import FlowBlueprint
from evomerge.core.space import (
    AllOf,
    Axis,
    Blueprint,
    ChoiceAxis,
    Condition,
    SearchSpace,
)

MOST_ROWS = 4000
"""Words are not counted where more rows than this must be kept on the way."""

_Row = tuple[int, ...]


def n_subsequences(letters: Sequence[Hashable], fewest: int, most: int) -> int:
    """Count the different subsequences of a word, exactly.

    Args:
        letters: The word.
        fewest: Length of the shortest subsequence that counts.
        most: Length of the longest subsequence that counts.
    """
    counts = [1, *(0 for _ in range(most))]  # of the part read so far, by length
    earlier: dict[Hashable, list[int]] = {}  # the same before a letter stood last
    for letter in letters:
        # What could be continued by this letter before could have been already.
        known = earlier.get(letter, [0] * len(counts))
        new = [n - k for n, k in zip(counts, known, strict=True)]
        earlier[letter] = counts
        counts = [counts[0], *(a + b for a, b in zip(counts[1:], new, strict=False))]
    return sum(counts[fewest : most + 1])


def n_words_near(
    length: int, n_letters: int, distance: int, bounds: tuple[int, int]
) -> int | None:
    """Count the words within an edit distance of a word of different letters, exactly.

    Reads words letter by letter and keeps, for all that were read, the row of the
    distance table they lead to (Wagner and Fischer 1974), with how many lead there.
    Of a row only the cells within reach of the diagonal matter.

    Args:
        length: Letters of the word; they differ from each other.
        n_letters: Letters of the alphabet, those of the word among them.
        distance: Most insertions, deletions and replacements.
        bounds: Shortest and longest word that counts.

    Returns:
        None where too many rows would have to be kept.
    """
    far = distance + 1
    # Cell i of row n tells the distance to the first n - distance + i letters.
    first = tuple(
        min(i - distance, far) if 0 <= i - distance <= length else far
        for i in range(2 * distance + 1)
    )
    rows: dict[_Row, int] = {first: 1}
    total = 0
    for n_read in range(min(bounds[1], length + distance) + 1):
        end = length - n_read + distance  # the cell of the whole word
        if n_read >= bounds[0] and 0 <= end < len(first):
            total += sum(n for row, n in rows.items() if row[end] <= distance)
        following: dict[_Row, int] = {}
        within = (max(distance - n_read - 1, 0), min(end - 1, 2 * distance))
        for row, n in rows.items():
            # Only a letter whose match is still within reach makes a difference.
            live = [
                i
                for i in range(within[1] + 1)
                if n_read - distance + i >= 0 and row[i] <= distance
            ]
            for match, times in (*((i, 1) for i in live), (-1, n_letters - len(live))):
                new = _read_letter(row, match, within, far)
                if times and min(new) <= distance:
                    following[new] = following.get(new, 0) + n * times
        if len(following) > MOST_ROWS:
            return None
        rows = following
    return total


@lru_cache(maxsize=1 << 16)
def _read_letter(row: _Row, match: int, within: tuple[int, int], far: int) -> _Row:
    """Return the next row of the distance table.

    Args:
        row: The row so far.
        match: The cell whose next letter is the one read; -1 for none.
        within: First and last cell of the next row that exist.
        far: What stands for every distance that is too large.
    """
    out: list[int] = []
    for i in range(len(row)):
        if not within[0] <= i <= within[1]:
            out.append(far)
            continue
        above = row[i + 1] if i + 1 < len(row) else far
        left = out[-1] if out else far
        out.append(min(row[i] + (i != match), above + 1, left + 1, far))
    return tuple(out)


def n_points(space: SearchSpace) -> int | None:
    """Count the points of a space on its grid, exactly.

    Returns:
        None where an axis depends on several others at once: such points are not
        counted.
    """
    children: dict[str, list[tuple[Axis, Condition]]] = {a.name: [] for a in space.axes}
    roots: list[Axis] = []
    for axis in space.axes:
        needs = axis.when.conditions if isinstance(axis.when, AllOf) else (axis.when,)
        if len(needs) > 1:
            return None
        for condition in needs:
            if condition is None:
                roots.append(axis)
            else:
                children[condition.axis].append((axis, condition))
    below: dict[str, int] = {}
    for axis in reversed(space.axes):  # those that depend on an axis stand behind it
        below[axis.name] = _with_those_below(axis, children[axis.name], below)
    return math.prod(below[axis.name] for axis in roots)


def _with_those_below(
    axis: Axis, children: Sequence[tuple[Axis, Condition]], below: dict[str, int]
) -> int:
    named: set[Scalar] = {v for _, condition in children for v in condition.values}
    if isinstance(axis, ChoiceAxis):
        named &= set(axis.choices)
    return (
        axis.n_values
        - len(named)
        + sum(
            math.prod(below[c.name] for c, when in children if value in when.values)
            for value in named
        )
    )


@dataclass(frozen=True, slots=True)
class SpaceSize:
    """How large a space is.

    Attributes:
        axes: Open choices.
        log10_points: Power of ten of the number of points on the grid, which may be too
            large to write out; None if they are not counted.
        stacks: Different stacks of layers, whatever their scales and merges; None if
            they are not counted. A space without data flow has one.
    """

    axes: int
    log10_points: float | None
    stacks: int | None

    @classmethod
    def of(cls, space: SearchSpace, blueprint: Blueprint) -> SpaceSize:
        """Measure a space."""
        stacks: int | None = 1
        if isinstance(blueprint, FlowBlueprint):
            stacks = blueprint.flow.n_stacks
        points = n_points(space)
        return cls(len(space.axes), points and math.log10(points), stacks)

    def __str__(self) -> str:
        parts = [f"{self.axes} {'axis' if self.axes == 1 else 'axes'}"]
        if self.log10_points is not None:
            parts.append(f"{_told(self.log10_points)} points")
        if self.stacks is None:
            parts.append("uncounted stacks")
        elif self.stacks != 1:
            parts.append(f"{_told(math.log10(self.stacks))} stacks")
        return ", ".join(parts)


def _told(log10: float) -> str:
    """Write a number out, or its order of magnitude."""
    if log10 < 6:
        return f"{round(10**log10)}"
    power = math.floor(log10)
    return f"{10 ** (log10 - power):.1f}e{power}"
