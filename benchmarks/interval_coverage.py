"""How often do the printed intervals hold the truth? Simulated studies, known truth.

Every line is a situation: tasks of right and wrong answers, or of real values, tied or
not, of many items or few. So many studies of it are simulated, and their intervals
looked at. `--write` puts the table into RESULTS.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evomerge.core.study import Direction, Measure, Objective
from evomerge.export.intervals import Estimate, difference, estimate
from evomerge.export.item_scores import ItemScores

Floats = npt.NDArray[np.float64]
PAGE = Path(__file__).with_name("RESULTS.md")
BEGIN, END = "<!-- coverage: begin -->", "<!-- coverage: end -->"
SEALED = (81, 400, 400, 400)


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of the intervals of one situation.

    Attributes:
        held: Share of the intervals that hold the truth.
        below: Share of them that lie below it.
        width: Their mean width.
        bias: Mean of the values minus the truth.
    """

    held: float
    below: float
    width: float
    bias: float


@dataclass(frozen=True, slots=True)
class Shares:
    """Tasks of right and wrong answers, of one candidate or of two.

    Attributes:
        right: Share of right answers of each task.
        items: Of each task.
        worst: Weight of the worst task.
        gain: Of each task, how much more than the other candidate; none for one.
        apart: Share of the items at which the two differ.
    """

    right: Sequence[float]
    items: Sequence[int]
    worst: float = 0.5
    gain: Sequence[float] | None = None
    apart: float = 0.3

    def study(self, rng: np.random.Generator) -> tuple[Estimate, float]:
        """Simulate one; return its interval and the truth."""
        tasks = list(zip(self.right, self.items, strict=True))
        goal = objective(len(tasks), self.worst)
        truth = _value(goal, self.right)
        if self.gain is None:
            mine = [rng.random(n) < share for share, n in tasks]
            return estimate(goal, scores(mine), rng), truth
        pairs = [
            _pair(share, gain, self.apart, n, rng)
            for (share, n), gain in zip(tasks, self.gain, strict=True)
        ]
        mine, other = ([pair[i] for pair in pairs] for i in (0, 1))
        theirs = [r - g for r, g in zip(self.right, self.gain, strict=True)]
        found = difference(goal, scores(mine), scores(other), rng)
        return found, truth - _value(goal, theirs)


@dataclass(frozen=True, slots=True)
class Reals:
    """Tasks of real values, exponential ones as token counts and losses are skewed."""

    means: Sequence[float]
    items: Sequence[int]
    worst: float = 0.0

    def study(self, rng: np.random.Generator) -> tuple[Estimate, float]:
        """Simulate one; return its interval and the truth."""
        goal = objective(len(self.means), self.worst, Direction.MINIMIZE)
        drawn = [
            rng.exponential(mean, size=n)
            for mean, n in zip(self.means, self.items, strict=True)
        ]
        return estimate(goal, scores(drawn), rng), _value(goal, self.means)


SITUATIONS: dict[str, Shares | Reals] = {
    "one task, 100 items": Shares([0.3], [100], 0.0),
    "one task, 5 %": Shares([0.05], [100], 0.0),
    "one task, 1 %": Shares([0.01], [100], 0.0),
    "mean of four": Shares([0.5] * 4, [100] * 4, 0.0),
    "mean of four, 5 %": Shares([0.05] * 4, [100] * 4, 0.0),
    "mean of four, 2 %, 20 items": Shares([0.02] * 4, [20] * 4, 0.0),
    "worst: one task clearly": Shares([0.35, 0.55, 0.6, 0.66], SEALED),
    "worst: two tied": Shares([0.35, 0.35, 0.6, 0.66], SEALED),
    "worst: four tied": Shares([0.5] * 4, SEALED),
    "worst: four tied, 100 items": Shares([0.5] * 4, [100] * 4),
    "worst: four near ties": Shares([0.5, 0.52, 0.55, 0.6], [100] * 4),
    "worst: four tied, 30 items": Shares([0.5] * 4, [30] * 4),
    "worst: four tied, 10 items": Shares([0.5] * 4, [10] * 4),
    "worst: four tied at 10 %": Shares([0.1] * 4, [100] * 4),
    "worst: four at 2 to 5 %": Shares([0.02, 0.03, 0.04, 0.05], SEALED),
    "worst: four tied at 97 %": Shares([0.97] * 4, [100] * 4),
    "worst: eight tied": Shares([0.5] * 8, [100] * 8),
    "worst counts 1: four tied": Shares([0.5] * 4, [100] * 4, 1.0),
    "difference: mean of four": Shares([0.5] * 4, [100] * 4, 0.0, [0.03] * 4),
    "difference: 5 % of the items apart": Shares(
        [0.5] * 4, [100] * 4, 0.0, [0.02] * 4, 0.05
    ),
    "difference: 1 % apart": Shares([0.5] * 4, [100] * 4, 0.0, [0.004] * 4, 0.01),
    "difference: one task, 20 items": Shares([0.5], [20], 0.0, [0.03], 0.05),
    "difference: both clear": Shares(
        [0.35, 0.55, 0.6, 0.66], SEALED, 0.5, [0.1, 0.1, 0.0, 0.0]
    ),
    "difference: tied, the other not": Shares(
        [0.5] * 4, SEALED, 0.5, [-0.1, 0.1, 0.0, 0.0]
    ),
    "difference: the same, 100 items": Shares(
        [0.5] * 4, [100] * 4, 0.5, [-0.1, 0.1, 0.0, 0.0]
    ),
    "difference: both tied": Shares([0.5] * 4, [100] * 4, 0.5, [0.0] * 4),
    "difference: eight tied, the other not": Shares(
        [0.5] * 8, [200] * 8, 0.5, [0.05 * i - 0.15 for i in range(8)]
    ),
    "real values: one task, 100 items": Reals([1.0], [100]),
    "real values: one task, 30 items": Reals([1.0], [30]),
    "real values: mean of four": Reals([1.0] * 4, [100] * 4),
    "real values, worst: four tied": Reals([1.0] * 4, [100] * 4, 0.5),
}


def objective(
    n_tasks: int, worst: float, direction: Direction = Direction.MAXIMIZE
) -> Objective:
    """Return a mean of as many tasks, the worst of them counted once more."""
    measures = tuple(Measure(f"t{i}", "score") for i in range(n_tasks))
    return Objective("goal", direction, measures, (1.0,) * n_tasks, worst)


def scores(columns: Sequence[npt.ArrayLike]) -> ItemScores:
    """Return a candidate's answers, a column for each task."""
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    return ItemScores(
        {f"t{i}": tuple(map(str, range(len(c)))) for i, c in enumerate(arrays)},
        {f"t{i}/score": column for i, column in enumerate(arrays)},
    )


def coverage(
    situation: Callable[[np.random.Generator], tuple[Estimate, float]],
    n_studies: int,
    seed: int,
) -> Coverage:
    """Simulate studies of one situation and look at their intervals."""
    rng = np.random.default_rng(seed)
    seen = [situation(rng) for _ in range(n_studies)]
    rounding = 1e-12
    below = [found.high < truth - rounding for found, truth in seen]
    above = [found.low > truth + rounding for found, truth in seen]
    return Coverage(
        held=1.0 - float(np.mean(below)) - float(np.mean(above)),
        below=float(np.mean(below)),
        width=float(np.mean([found.high - found.low for found, _ in seen])),
        bias=float(np.mean([found.value - truth for found, truth in seen])),
    )


def main() -> None:
    """Print the table; write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000, help="simulated a line")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    asked = parser.parse_args()
    lines = ["| situation | held | below | width | bias |", "|---|---|---|---|---|"]
    print(*lines, sep="\n", flush=True)
    for name, situation in SITUATIONS.items():
        one = coverage(situation.study, asked.studies, asked.seed)
        lines.append(
            f"| {name} | {one.held:.3f} | {one.below:.3f} | {one.width:.3f} "
            f"| {one.bias:+.3f} |"
        )
        print(lines[-1], flush=True)
    if asked.write:
        text = PAGE.read_text()
        begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        table = "\n".join(lines)
        PAGE.write_text(f"{text[:begin]}\n{table}\n{text[end:]}")


def _value(goal: Objective, means: Sequence[float]) -> float:
    names = map(str, goal.measures)
    return goal.value(dict(zip(names, means, strict=True)))


def _pair(
    share: float, gain: float, apart: float, n: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Draw two candidates' answers: right for one alone, for both, for none."""
    mine, theirs = (apart + gain) / 2, (apart - gain) / 2
    both = share - mine
    cells = rng.choice(4, size=n, p=[both, mine, theirs, 1 - both - mine - theirs])
    return np.isin(cells, (0, 1)).astype(float), np.isin(cells, (0, 2)).astype(float)


if __name__ == "__main__":
    main()
