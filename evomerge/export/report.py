"""How good is it really: one candidate against the baselines on held-out items.

Everything is paired: all candidates answered the same items. Several comparisons are
made, over baselines, objectives and earlier openings of the same items, so p-values are
adjusted over all of them (Holm 1979). They come from swapping answers: where only a
handful of items tell two candidates apart, those of an interval claim too much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from evomerge.core.scoring_protocol import Outcome
from evomerge.core.study import Measure, Objective
from evomerge.errors import ExportError
from evomerge.export.intervals import Estimate, difference, estimate, wilson
from evomerge.export.item_scores import ItemScores
from evomerge.export.stats import Verdict, holm, swap_test, verdict


@dataclass(frozen=True, slots=True)
class Contender:
    """A candidate and its answers.

    Attributes:
        label: What readers know it by, for example ``parent math``.
        outcomes: Task to the outcomes on its held-out items, in any order.
    """

    label: str
    outcomes: Mapping[str, Sequence[Outcome]]


@dataclass(frozen=True, slots=True)
class Against:
    """The chosen candidate minus this one.

    Attributes:
        difference: Of the objective, as measured, with its 95 % interval.
        p_value: Two-sided, of this comparison alone.
        adjusted: The same after Holm's correction over the whole family.
        verdict: What may be said.
    """

    difference: Estimate
    p_value: float
    adjusted: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate of a table.

    Attributes:
        value: The objective with its 95 % interval.
        means: Measure name to its mean with its 95 % interval.
        truncated: Share of answers that ran into the token limit, over the
            objective's tasks.
        searched: The objective on the items of the search; None if it is not known.
        against: The paired comparison; None in the chosen candidate's own row.
    """

    label: str
    value: Estimate
    means: Mapping[str, Estimate]
    truncated: Estimate
    searched: float | None = None
    against: Against | None = None


@dataclass(frozen=True, slots=True)
class BaselineTable:
    """One objective: the chosen candidate first, then the baselines in the order given.

    Attributes:
        n_items: Held-out items used, over the objective's tasks.
    """

    objective: Objective
    rows: tuple[Row, ...]
    n_items: int

    @property
    def chosen(self) -> Row:
        """The row of the candidate all others are compared with."""
        return self.rows[0]

    @property
    def gap(self) -> float | None:
        """How much of the chosen value was the luck of being selected.

        Its value on the items of the search minus that on held-out items, less the mean
        of the same over the baselines, which nobody selected: so items that happen to
        be harder count for nothing. None where a part is not known.
        """
        gaps = [r.searched - r.value.value for r in self.rows if r.searched is not None]
        if self.chosen.searched is None or len(gaps) < 2:
            return None
        return gaps[0] - math.fsum(gaps[1:]) / (len(gaps) - 1)


def baseline_tables(
    objectives: Sequence[Objective],
    chosen: Contender,
    baselines: Sequence[Contender],
    rng: np.random.Generator,
    earlier_p_values: Sequence[float] = (),
    searched: Mapping[str, Mapping[str, float]] = MappingProxyType({}),
) -> tuple[BaselineTable, ...]:
    """Compare a candidate with baselines, a table for each objective.

    Args:
        objectives: What is compared, and in which direction it is better.
        chosen: The candidate that is to be exported.
        baselines: Generation 0, or other points of the front.
        rng: Decides the bootstrap's resamples.
        earlier_p_values: Unadjusted p-values of comparisons made when the same held-out
            items were opened before; they belong to the family that Holm corrects.
        searched: Label to scores on the items of the search, ``task/metric`` to mean.

    Raises:
        ExportError: A candidate lacks a task or metric, or was scored on other items
            than the chosen one; names the candidate.
    """
    labels = [contender.label for contender in (chosen, *baselines)]
    if len(set(labels)) != len(labels):
        raise ExportError(f"Candidates of one table need different labels: {labels}.")
    tables = [
        _searched(_table(o, chosen, baselines, rng), searched) for o in objectives
    ]
    made = [row.against.p_value for t in tables for row in t.rows if row.against]
    adjusted = iter(holm([*made, *earlier_p_values]))
    return tuple(
        replace(
            table,
            rows=tuple(
                row
                if row.against is None
                else replace(
                    row,
                    against=_judged(table.objective, row.against, next(adjusted)),
                )
                for row in table.rows
            ),
        )
        for table in tables
    )


def _searched(
    table: BaselineTable, searched: Mapping[str, Mapping[str, float]]
) -> BaselineTable:
    goal = table.objective
    names = {str(measure) for measure in goal.measures}
    known = {
        label: goal.value(scores)
        for label, scores in searched.items()
        if names <= scores.keys()
    }
    rows = (replace(row, searched=known.get(row.label)) for row in table.rows)
    return replace(table, rows=tuple(rows))


def p_values(tables: Sequence[BaselineTable]) -> tuple[float, ...]:
    """Return the unadjusted p-values of tables, to be remembered with the opening."""
    return tuple(
        row.against.p_value for t in tables for row in t.rows if row.against is not None
    )


def _table(
    objective: Objective,
    chosen: Contender,
    baselines: Sequence[Contender],
    rng: np.random.Generator,
) -> BaselineTable:
    mine = scores_on(objective, chosen)
    rows = [_row(objective, chosen, mine, rng)]
    for baseline in baselines:
        theirs = scores_on(objective, baseline)
        try:
            apart = difference(objective, mine, theirs, rng)
        except ValueError as error:
            raise ExportError(
                f"{baseline.label!r} cannot be compared with {chosen.label!r}: {error}"
            ) from error
        p = swap_test(objective, mine, theirs, rng)
        against = Against(apart, p, p, Verdict.NONE)
        rows.append(replace(_row(objective, baseline, theirs, rng), against=against))
    n_items = sum(len(ids) for ids in mine.items.values())
    return BaselineTable(objective, tuple(rows), n_items)


def _judged(objective: Objective, against: Against, adjusted: float) -> Against:
    said = verdict(objective, against.difference, adjusted)
    return replace(against, adjusted=adjusted, verdict=said)


def scores_on(objective: Objective, contender: Contender) -> ItemScores:
    """Return a contender's scores of the objective's measures, item by item.

    Raises:
        ExportError: It lacks a task or metric.
    """
    try:
        return ItemScores.of(objective, contender.outcomes)
    except ValueError as error:
        raise ExportError(f"{contender.label!r} cannot be reported: {error}") from error


def _row(
    objective: Objective,
    contender: Contender,
    scores: ItemScores,
    rng: np.random.Generator,
) -> Row:
    answers = [o for task in scores.items for o in contender.outcomes[task]]
    return Row(
        label=contender.label,
        value=estimate(objective, scores, rng),
        means={
            str(measure): _mean(objective, measure, scores, rng)
            for measure in objective.measures
        },
        truncated=wilson(sum(o.truncated for o in answers), len(answers)),
    )


def _mean(
    objective: Objective,
    measure: Measure,
    scores: ItemScores,
    rng: np.random.Generator,
) -> Estimate:
    alone = Objective(str(measure), objective.direction, (measure,), (1.0,))
    return estimate(alone, scores, rng)
