"""Fronts of losses: who is beaten by nobody, in what order, covering how much.

Everything here minimises; scores become losses in ``strategies.ranks``. Equal rows
never dominate each other, so duplicates share their fate.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Losses = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


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


def hypervolume(values: Losses, reference: Losses) -> float:
    """Measure the space that rows dominate, up to a reference point.

    Exact, by inclusion of one point after another (While et al. 2012, "WFG"); meant
    for fronts of some hundreds of points and up to four losses.

    Args:
        values: Shape ``(n, m)``, float64, all finite. Rows not better than the
            reference in every loss add nothing.
        reference: Shape ``(m,)``, float64, finite.

    Raises:
        ValueError: A shape is wrong, or a number is not finite.
    """
    values = _checked(values)
    reference = np.asarray(reference, dtype=np.float64)
    if reference.shape != values.shape[1:] or not np.isfinite(reference).all():
        raise ValueError(
            f"Expected a finite reference of shape {values.shape[1:]}, got {reference}."
        )
    inside = values[(values < reference).all(axis=1)]
    return _volume(inside, reference)


def _volume(points: Losses, reference: Losses) -> float:
    if len(points) == 0:
        return 0.0
    if points.shape[1] == 1:
        return float(reference[0]) - float(points.min())
    points = np.unique(points[front(points)], axis=0)
    if points.shape[1] == 2:
        # Sorted by the first loss, a front falls in the second: a staircase.
        above = np.concatenate([[reference[1]], points[:-1, 1]])
        return float(((reference[0] - points[:, 0]) * (above - points[:, 1])).sum())
    total = 0.0
    for i, point in enumerate(points):
        own = float(np.prod(reference - point))
        # What later points dominate of this point's box is counted with them.
        shared = np.maximum(points[i + 1 :], point)
        total += own - _volume(shared, reference)
    return total


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
