"""Who of a population survives, by NSGA-II and by NSGA-III."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evomerge.core.trial import Point
from evomerge.strategies.base import Told
from evomerge.strategies.genetic.genomes import Genome
from evomerge.strategies.ranks import crowding, fronts, violation

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Member:
    """A scored candidate of a population.

    Attributes:
        genome: All its values.
        point: Those that exist.
        losses: One per objective.
        missed: Sum of its violations; 0 is feasible.
    """

    genome: Genome
    point: Point
    losses: tuple[float, ...]
    missed: float

    @classmethod
    def of(cls, genome: Genome, told: Told) -> Member | None:
        """Make a member of a result; None for a failed candidate."""
        if told.losses is None:
            return None
        return cls(genome, told.point, told.losses, violation(told))


def losses_of(members: Sequence[Member]) -> Numbers:
    """Return losses, shape ``(n, m)``."""
    return np.array([member.losses for member in members], dtype=np.float64)


def ranks(members: Sequence[Member]) -> npt.NDArray[np.int64]:
    """Sort into fronts by constrained domination (Deb et al. 2002, section VI).

    Feasible members are sorted by their losses; every infeasible one follows, by how
    much it misses.

    Returns:
        Shape ``(n,)``, int64: 0 for the best.
    """
    out = np.zeros(len(members), dtype=np.int64)
    fit = [i for i, member in enumerate(members) if member.missed == 0.0]
    n_fronts = 0
    if fit:
        out[fit] = fronts(losses_of([members[i] for i in fit]))
        n_fronts = int(out[fit].max()) + 1
    missed = sorted({member.missed for member in members} - {0.0})
    for i, member in enumerate(members):
        if member.missed > 0.0:
            out[i] = n_fronts + missed.index(member.missed)
    return out


class Crowded:
    """NSGA-II (Deb et al. 2002): the last front that fits loses its most crowded."""

    def survivors(
        self, rng: np.random.Generator, members: Sequence[Member], n: int
    ) -> list[Member]:
        """Choose at most ``n`` members, the best first."""
        keys = self.keys(members)
        best = sorted(range(len(members)), key=keys.__getitem__)
        return [members[i] for i in best[:n]]

    def keys(self, members: Sequence[Member]) -> list[tuple[float, ...]]:
        """Return what tournaments compare; the smaller wins."""
        rank = ranks(members)
        alone = np.zeros(len(members))
        losses = losses_of(members)
        for level in np.unique(rank):
            alone[rank == level] = crowding(losses[rank == level])
        return [(float(r), -float(a)) for r, a in zip(rank, alone, strict=True)]


class Referenced:
    """NSGA-III (Deb and Jain 2014): survivors spread along directions in loss space.

    Args:
        n_objectives: Losses a member.
        size: Members that shall survive: the directions are as many as fit in it.
    """

    def __init__(self, n_objectives: int, size: int) -> None:
        self.directions = directions(n_objectives, size)

    def survivors(
        self, rng: np.random.Generator, members: Sequence[Member], n: int
    ) -> list[Member]:
        """Choose at most ``n`` members (Deb and Jain 2014, algorithms 1 to 4)."""
        if len(members) <= n:
            return list(members)
        rank = ranks(members)
        cut = int(np.sort(rank)[n - 1])
        kept = [i for i in range(len(members)) if rank[i] < cut]
        last = [i for i in range(len(members)) if rank[i] == cut]
        if members[last[0]].missed > 0.0 or len(kept) + len(last) == n:
            return [members[i] for i in (*kept, *last)[:n]]
        chosen = kept + self._niched(rng, members, kept, last, n - len(kept))
        return [members[i] for i in chosen]

    def keys(self, members: Sequence[Member]) -> list[tuple[float, ...]]:
        """Return what tournaments compare: among feasible members none wins."""
        return [(member.missed,) for member in members]

    def _niched(
        self,
        rng: np.random.Generator,
        members: Sequence[Member],
        kept: list[int],
        last: list[int],
        n: int,
    ) -> list[int]:
        """Fill up from the last front, the emptiest direction first."""
        losses = losses_of([members[i] for i in (*kept, *last)])
        nearest, far = self._associated(losses)
        count = np.bincount(nearest[: len(kept)], minlength=len(self.directions))
        left = list(range(len(kept), len(nearest)))
        out: list[int] = []
        while len(out) < n:
            open_ = np.unique(nearest[left])
            least = open_[count[open_] == count[open_].min()]
            niche = int(least[rng.integers(len(least))])
            there = [i for i in left if nearest[i] == niche]
            if count[niche] == 0:
                pick = min(there, key=far.__getitem__)
            else:
                pick = there[int(rng.integers(len(there)))]
            left.remove(pick)
            count[niche] += 1
            out.append(last[pick - len(kept)])
        return out

    def _associated(self, losses: Numbers) -> tuple[npt.NDArray[np.int64], Numbers]:
        """Return each member's direction, and its distance from that line."""
        scaled = normalised(losses)
        units = self.directions / np.linalg.norm(self.directions, axis=1, keepdims=True)
        along = scaled @ units.T
        across = (scaled**2).sum(axis=1, keepdims=True) - along**2
        distance = np.sqrt(np.maximum(across, 0.0))
        nearest = distance.argmin(axis=1)
        return nearest, distance[np.arange(len(losses)), nearest]


def directions(n_objectives: int, size: int) -> Numbers:
    """Return evenly spread directions (Das and Dennis 1998), about ``size`` of them.

    Returns:
        Shape ``(n, n_objectives)``, rows sum to 1: the finest lattice with at most
        ``size`` points, or the corners if these are more already.
    """
    steps = 1
    while (
        n_objectives > 1 and math.comb(steps + n_objectives, n_objectives - 1) <= size
    ):
        steps += 1
    cuts = itertools.combinations(range(steps + n_objectives - 1), n_objectives - 1)
    rows = [np.diff([-1, *cut, steps + n_objectives - 1]) - 1 for cut in cuts]
    return np.array(rows, dtype=np.float64) / steps


def normalised(losses: Numbers) -> Numbers:
    """Shift and scale losses so that the front meets every axis at 1.

    The intercepts of the plane through the extreme points (Deb and Jain 2014, section
    IV.C); where these do not span one, the largest loss of each objective.

    Args:
        losses: Shape ``(n, m)``.
    """
    ideal = losses.min(axis=0)
    moved = losses - ideal
    front = moved[fronts(losses) == 0]
    nadir = front.max(axis=0)
    weights = np.where(np.eye(losses.shape[1]) == 1.0, 1.0, 1e-6)
    extremes = front[[(front / w).max(axis=1).argmin() for w in weights]]
    try:
        intercepts = 1.0 / np.linalg.solve(extremes, np.ones(len(extremes)))
    except np.linalg.LinAlgError:
        intercepts = nadir
    fair = np.isfinite(intercepts) & (intercepts > 1e-9) & (intercepts <= moved.max(0))
    scale = np.where(fair.all(), intercepts, nadir)
    scaled: Numbers = moved / np.where(scale > 1e-12, scale, 1.0)
    return scaled
