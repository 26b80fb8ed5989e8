"""How small a difference the held-out items can show, before anything is scored.

Export compares two candidates by the items at which they differ. Of ``n`` items of a
task let a share ``psi`` come out differently for the two, and let ``d`` be the
difference of their means. The usual sample size of such a paired test (Miettinen 1968,
Connor 1987, for McNemar's test) solved for ``d``, with tasks weighted by ``w``:

    d = z(1 - a/2) sqrt(psi s) + z(power) sqrt((psi - d^2) s),   s = sum(w^2 / n)

where ``a`` is the error that is left for one of several comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

DISCORDANT = 0.2
"""Share of the items that come out differently for two merges of the same models: an
assumption. More of them hide a difference, fewer bring it out."""
POWER = 0.8
ALPHA = 0.05


def smallest_difference(
    tasks: Sequence[tuple[float, int]],
    n_tests: int,
    *,
    discordant: float = DISCORDANT,
    power: float = POWER,
) -> float | None:
    """Return the difference that is found with the given power.

    Args:
        tasks: Weight in the objective's mean and held-out items of each task; weights
            add up to one.
        n_tests: Comparisons that share the error, as Holm's first step divides it.
        discordant: Share of the items at which two candidates differ; at least as many
            differ as make up the difference.
        power: Chance to find it.

    Returns:
        In units of a metric between 0 and 1; None if the items can show none at all.
    """
    alpha = ALPHA / max(1, n_tests)
    n_items = sum(n for weight, n in tasks if weight > 0)
    if any(weight > 0 and n < 1 for weight, n in tasks) or 2 ** (1 - n_items) > alpha:
        return None
    s = sum(weight**2 / n for weight, n in tasks if weight > 0)
    normal = NormalDist()
    error, luck = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)

    def room(d: float) -> float:
        psi = max(discordant, d)
        return d - error * math.sqrt(psi * s) - luck * math.sqrt((psi - d * d) * s)

    if room(1.0) < 0:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if room(middle) >= 0 else (middle, high)
    return high
