"""Model Breadcrumbs (Davari and Belilovsky 2023, 2312.06795).

The smallest differences are noise and the few largest are outliers: both go, and what
lies between them stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.core.recipes.settings import Settings
from evomerge.merging.form import Cut, PerEntry, RankBand, Step
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.order_statistics import row_length, row_ranks
from evomerge.merging.operators.sums.linear import summed
from evomerge.merging.operators.sums.ties import elected
from evomerge.merging.operators.thresholds.magnitude_thresholds import each_size_cuts
from evomerge.merging.operators.thresholds.sparsify import keep_count, keep_l1, whole


def breadcrumbs(inputs: Inputs) -> LazyMerge:
    """Add the weighted sum of middle-sized differences to the base."""
    deltas = _deltas(inputs)
    form = summed(inputs.settings, band(inputs.settings, deltas))
    return LazyMerge(deltas, form, inputs.key)


def breadcrumbs_ties(inputs: Inputs) -> LazyMerge:
    """Elect signs among middle-sized differences and merge those who agree."""
    deltas = _deltas(inputs)
    form = elected(inputs.settings, band(inputs.settings, deltas))
    return LazyMerge(deltas, form, inputs.key)


def _deltas(inputs: Inputs) -> Deltas:
    by_row = inputs.settings.choice("axis") == "row"
    return Deltas.of(inputs, multiple_of=row_length(inputs.shape) if by_row else 1)


@dataclass(frozen=True, slots=True)
class Band:
    """Which entries stay, counted from the largest down: ``top`` go, ``keep`` stay."""

    top: int
    keep: int


def band_of(density: float, gamma: float, n: int, *, guard: bool = True) -> Band:
    """Return the band of ``n`` entries that a density and a top part leave.

    The density comes first: where too few entries would be left, fewer of the largest
    go. Without the guard it is mergekit's band, which may keep nothing.
    """
    keep = keep_count(density, n) if guard else whole(density * n, guard=False)
    return Band(min(whole(gamma * n, guard=guard), n - keep), keep)


def band(settings: Settings, deltas: Deltas) -> tuple[Step, ...]:
    """Return the thinning that the settings ask for.

    Args:
        settings: Read for ``density``, ``gamma``, ``axis``, ``rescale``, ``rounding``.
        deltas: What to thin; for the axis ``row`` its blocks are whole rows.
    """
    by_row = settings.choice("axis") == "row"
    n = row_length(deltas.shape) if by_row else deltas.n
    pairs = zip(settings.numbers("density"), settings.numbers("gamma"), strict=True)
    guard = settings.choice("rounding") != "int"
    bands = [band_of(density, gamma, n, guard=guard) for density, gamma in pairs]
    if by_row:
        thin = tuple(_in_row(at, deltas, i, n) for i, at in enumerate(bands))
    else:
        found = each_size_cuts(deltas, [_wanted(at, n) for at in bands])
        thin = tuple(map(_between, found))
    return keep_l1(deltas, thin) if settings.choice("rescale") == "l1" else thin


def _wanted(at: Band, n: int) -> tuple[int, ...]:
    """Return after how many entries a band is cut off."""
    if at.keep == n:
        return ()
    return (at.top, at.top + at.keep) if at.top else (at.keep,)


def _between(found: Sequence[Cut]) -> Step:
    top = found[0] if len(found) > 1 else None
    return Step(cut=found[-1] if found else None, top=top)


def _in_row(at: Band, deltas: Deltas, index: int, length: int) -> Step:
    if at.keep == length:
        return Step()
    ranks = row_ranks(deltas, index, length)
    first = length - at.top - at.keep
    known = None if ranks is None else PerEntry(ranks)
    return Step(coin=RankBand(known, length, first, first + at.keep))
