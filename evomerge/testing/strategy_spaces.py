"""Spaces that strategies are tried on, and what is good in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evomerge.core.space import (
    AllOf,
    Axis,
    ChoiceAxis,
    Condition,
    FloatAxis,
    IntAxis,
    SearchSpace,
    Strand,
)
from evomerge.core.trial import Point
from evomerge.strategies.base import Told
from evomerge.strategies.ranks import front

N_PLACES = 6
"""Places of a stack, in ``GATES`` and ``STACK``."""

NUMBERS = SearchSpace(
    (
        FloatAxis("x", -1.0, 1.0),
        FloatAxis("rate", 1e-4, 1.0, log=True),
        FloatAxis("coarse", 0.0, 1.0, grid=0.1),
        IntAxis("layers", 0, 12),
    )
)
"""Every kind of number axis."""

MIXED = SearchSpace(
    (
        *NUMBERS.axes,
        ChoiceAxis("method", ("linear", "ties", "dare")),
        FloatAxis("density", 0.1, 1.0, when=Condition("method", ("ties", "dare"))),
        ChoiceAxis("rescale", (True, False), when=Condition("method", ("dare",))),
        IntAxis("only", 3, 3),
    )
)
"""Numbers, choices, and conditions on them."""


def _stacked(places: Sequence[Axis], runs: Sequence[Condition]) -> SearchSpace:
    """Add to each place a scale while it runs, and an edge while it and the next do."""
    scales = [
        FloatAxis(f"scale.{t}", 0.5, 2.0, log=True, when=run)
        for t, run in enumerate(runs)
    ]
    edges = [
        FloatAxis(f"edge.{t}", 0.0, 1.0, when=AllOf((runs[t], runs[t + 1])))
        for t in range(N_PLACES - 1)
    ]
    columns: list[Sequence[Axis]] = [places, scales, edges]
    sites = tuple(
        tuple(column[t].name for column in columns if t < len(column))
        for t in range(N_PLACES)
    )
    loose = [axis for axis in NUMBERS.axes if axis.name in ("x", "coarse")]
    return SearchSpace((*loose, *places, *scales, *edges), (Strand(sites),))


GATES = _stacked(
    [IntAxis(f"gate.{t}", 0, 1, start=1) for t in range(N_PLACES)],
    [Condition(f"gate.{t}", (1,)) for t in range(N_PLACES)],
)
"""Numbers only: places of a stack that run or not, and what exists if they do."""

STACK = _stacked(
    [ChoiceAxis(f"donor.{t}", ("none", "a", "b")) for t in range(N_PLACES)],
    [Condition(f"donor.{t}", ("a", "b")) for t in range(N_PLACES)],
)
"""The same with a donor for each place."""

SPACES = {"numbers": NUMBERS, "mixed": MIXED, "gates": GATES, "stack": STACK}
"""Every space, by name."""

BEST_STACK = {
    **{f"gate.{t}": on for t, on in enumerate((1, 1, 0, 1, 1, 0))},
    **{f"donor.{t}": who for t, who in enumerate(("a", "a", "b", "b", "none", "a"))},
}
"""What each place of a stack should be."""


def distance(point: Point) -> float:
    """Return how far a point is from the best one of its space; 0 at that one."""
    low = np.log(1e-4)
    parts = [
        (float(point["x"]) - 0.3) ** 2,
        (float(point["coarse"]) - 0.8) ** 2,
        *(0.1 for name, best in BEST_STACK.items() if point.get(name, best) != best),
        *(
            0.1 * np.log(float(value) / 1.5) ** 2
            for name, value in point.items()
            if name.startswith("scale.")
        ),
    ]
    if "layers" in point:
        parts.append(((float(point["layers"]) - 9) / 12) ** 2)
        parts.append(((np.log(float(point["rate"])) - low) / -low - 0.4) ** 2)
    if "method" in point:
        parts.append(0.0 if point["method"] == "ties" else 0.3)
        parts.append((float(point.get("density", 0.2)) - 0.6) ** 2)
    return float(sum(parts))


def results(points: Sequence[Point], n_objectives: int, n_fail: int) -> list[Told]:
    """Score points: every ``n_fail``-th fails, and ``x`` above 0.5 is infeasible.

    Args:
        points: A generation.
        n_objectives: 1 to 3; the second pulls ``coarse`` the other way, the third
            ``x``.
        n_fail: 0 for no failures.
    """
    out = []
    for index, point in enumerate(points):
        if n_fail and index % n_fail == 1:
            out.append(Told(point, None))
            continue
        x, coarse = float(point["x"]), float(point["coarse"])
        losses = (distance(point), coarse, (x + 1.0) ** 2)[:n_objectives]
        out.append(Told(point, losses, (x - 0.5,)))
    return out


def dominated_area(
    losses: npt.NDArray[np.float64], reference: tuple[float, float]
) -> float:
    """Return the area that pairs of losses dominate, up to a reference point.

    Args:
        losses: Shape ``(n, 2)``; pairs not below the reference in both add nothing.
        reference: The corner that the area is measured from.
    """
    better = losses[(losses < reference).all(axis=1)]
    # Sorted by the first loss, a front falls in the second: a staircase.
    x, y = np.unique(better[front(better)], axis=0).T
    above = np.concatenate([[reference[1]], y[:-1]])[: len(y)]
    return float(((reference[0] - x) * (above - y)).sum())
