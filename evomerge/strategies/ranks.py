"""Scores to losses, and losses in order: the one place where a direction is turned.

The coordinator calls ``told`` before every tell; strategies for one objective call
``order`` to fold constraints and failures into that objective, those for several sort
losses into fronts. Everything but ``losses`` minimises. Equal rows of losses never
dominate each other, so duplicates share their fate. Nothing here knows which strategy
reads the result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from evomerge.core.study import Constraint, Direction, Objective, objective_values
from evomerge.core.trial import Point, Precision
from evomerge.errors import EvomergeError
from evomerge.strategies.base import Told

SURENESS = 0.84
"""Standard errors that leave one chance in five on one side."""

Losses = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def losses(
    objectives: Sequence[Objective], scores: Mapping[str, float]
) -> tuple[float, ...]:
    """Turn scores into one loss per objective, all better when smaller."""
    values = objective_values(objectives, scores)
    return tuple(
        -value if objective.direction is Direction.MAXIMIZE else value
        for objective, value in zip(objectives, values, strict=True)
    )


def violations(
    constraints: Sequence[Constraint],
    scores: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float]],
) -> tuple[float, ...]:
    """Return by how much each constraint is missed; 0 or less is feasible.

    Raises:
        EvomergeError: A constraint is relative to a baseline that has no scores.
    """
    for constraint in constraints:
        label = constraint.relative_to
        if label is not None and label not in baselines:
            raise EvomergeError(
                f"The constraint on {constraint.objective.name!r} is relative to the "
                f"baseline {label!r}, which has no scores; scored baselines: "
                f"{sorted(baselines)}. Make that baseline run, or use an absolute "
                "bound."
            )
    return tuple(constraint.violation(scores, baselines) for constraint in constraints)


def told(
    point: Point,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    scores: Mapping[str, float] | None,
    baselines: Mapping[str, Mapping[str, float]],
    precision: Precision | None = None,
) -> Told:
    """Turn a finished trial into what a strategy is told.

    A number that is not finite must not pass: NaN breaks every sort, and a dead
    candidate can come first. A candidate with one counts as failed.

    Over some of the items a bound may be missed by their luck. It counts as missed if
    it is so with ``SURENESS`` standard errors to spare: all items decide at the end.

    Args:
        point: The point that was asked.
        objectives: What the study improves.
        constraints: What the study bounds.
        scores: ``task/metric`` to mean; None for a failed trial.
        baselines: Label of each scored baseline to its scores, on the same items.
        precision: Of the scores, where it is known.

    Raises:
        EvomergeError: A constraint is relative to a baseline that has no scores.
    """
    if scores is None:
        return Told(point, None)
    found = losses(objectives, scores)
    missed = violations(constraints, scores, baselines)
    errors: list[float | None] = []
    if precision is not None:
        errors = [goal.error(scores, precision.errors) for goal in objectives]
        if precision.is_partial:
            spare = [_spare(one, scores, precision.errors) for one in constraints]
            missed = tuple(v - s for v, s in zip(missed, spare, strict=True))
    if not all(math.isfinite(number) for number in (*found, *missed)):
        return Told(point, None)
    sure = tuple(error for error in errors if error is not None)
    return Told(point, found, missed, sure if len(sure) == len(found) else ())


def _spare(
    constraint: Constraint, scores: Mapping[str, float], errors: Mapping[str, float]
) -> float:
    error = constraint.objective.error(scores, errors) or 0.0
    # A baseline is taken to err as much, and by itself: more than it does.
    is_difference = constraint.relative_to is not None
    return SURENESS * error * (math.sqrt(2.0) if is_difference else 1.0)


def violation(result: Told) -> float:
    """Return the sum of what a scored candidate misses; 0 if it is feasible."""
    return math.fsum(max(v, 0.0) for v in result.violations)


def order(results: Sequence[Told]) -> npt.NDArray[np.float64] | None:
    """Fold failures and constraints into the loss of a single objective.

    Feasible candidates keep their losses. Infeasible ones follow by total violation,
    failed ones come last, each group a few floats above the worst feasible loss: an
    evolution strategy reads only the order of a generation (Hansen 2016, arXiv
    1604.00772, eq. 41), and its stopping tests read the spread, which must not blow
    up. Where nothing is feasible the violation itself is the loss.

    Args:
        results: A generation of a study with one objective.

    Returns:
        Shape ``(len(results),)``, float64, all finite; None if every candidate
        failed, so that there is no order to learn from.
    """
    scored = [result for result in results if result.losses is not None]
    if not scored:
        return None
    feasible = [result for result in scored if violation(result) == 0.0]
    if not feasible:
        worst = max(violation(result) for result in scored)
        missed: list[float] = []
    else:
        worst = max(result.losses[0] for result in feasible if result.losses)
        missed = sorted({violation(result) for result in scored} - {0.0})
    above = _floats_above(worst, len(missed) + 1)
    out = np.empty(len(results))
    for i, result in enumerate(results):
        if result.losses is None:
            out[i] = above[-1]
        elif not feasible:
            out[i] = violation(result)
        elif (v := violation(result)) > 0.0:
            out[i] = above[missed.index(v)]
        else:
            out[i] = result.losses[0]
    return out


def _floats_above(value: float, n: int) -> list[float]:
    out = []
    for _ in range(n):
        value = float(np.nextafter(value, np.inf))
        out.append(value)
    return out


def front(values: Losses) -> Mask:
    """Mark the rows that no other row dominates.

    A row dominates another if it is nowhere larger and somewhere smaller.

    Args:
        values: Shape ``(n, m)``, float64, all finite: n candidates, m losses.

    Returns:
        Shape ``(n,)``, bool. Equal rows are all in or all out.

    Raises:
        ValueError: The shape is wrong, or a number is not finite.
    """
    values = _checked(values)
    if len(values) == 0:
        return np.zeros(0, dtype=np.bool_)
    # In lexicographic order a row can only be dominated by an earlier one, and by
    # transitivity by an earlier one of the front; unique rows make <= enough.
    rows, inverse = np.unique(values, axis=0, return_inverse=True)
    kept = np.empty_like(rows)
    n_kept = 0
    alive = np.zeros(len(rows), dtype=np.bool_)
    for i, row in enumerate(rows):
        if not (kept[:n_kept] <= row).all(axis=1).any():
            alive[i] = True
            kept[n_kept] = row
            n_kept += 1
    return alive[inverse.reshape(-1)]


def fronts(values: Losses) -> npt.NDArray[np.int64]:
    """Sort rows into fronts (Deb et al. 2002, non-dominated sorting).

    Args:
        values: Shape ``(n, m)``, float64, all finite.

    Returns:
        Shape ``(n,)``, int64: 0 for the front, 1 for the front of the rest, ...

    Raises:
        ValueError: The shape is wrong, or a number is not finite.
    """
    values = _checked(values)
    ranks = np.full(len(values), -1, dtype=np.int64)
    rank = 0
    while (rest := np.flatnonzero(ranks < 0)).size:
        ranks[rest[front(values[rest])]] = rank
        rank += 1
    return ranks


def crowding(values: Losses) -> npt.NDArray[np.float64]:
    """Measure how alone each row of one front is (Deb et al. 2002, section III.B).

    Args:
        values: Shape ``(n, m)``, float64, all finite; usually one front.

    Returns:
        Shape ``(n,)``: sum over losses of the gap between the two neighbours, as a
        share of the loss's range; infinite for the first and last in any loss that
        varies.

    Raises:
        ValueError: The shape is wrong, or a number is not finite.
    """
    values = _checked(values)
    out = np.zeros(len(values))
    for column in values.T:
        if len(column) == 0 or column.min() == column.max():
            continue
        order = np.argsort(column, kind="stable")
        ordered = column[order]
        out[order[[0, -1]]] = np.inf
        out[order[1:-1]] += (ordered[2:] - ordered[:-2]) / (ordered[-1] - ordered[0])
    return out


def _checked(values: Losses) -> Losses:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(
            f"Expected losses of shape (n, m) with m above 0, got {values.shape}."
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ValueError(
            f"Row {row} is {values[row].tolist()}; a candidate without finite losses "
            "has failed and belongs to no front."
        )
    return values
