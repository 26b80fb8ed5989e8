"""The one loop that merges entries by a form, and sums of sizes, compiled.

Every input is read once and the result is written once; between the two everything
happens in registers. A word may hold two entries (see ``numbers.places``); where it
holds one, the compiler sees that both are the same.

A form comes as: how inputs become one; what is used of it, or None; the scale, fp32, or
None for one; and, None for no, whether differences that are not finite are told of, and
whether the base is left out of the result.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import BLOCK
from evomerge.merging.kernels.bernoulli import draw
from evomerge.merging.kernels.entries import (
    deltas_of,
    largest_bits,
    on_base,
    said,
    scaled,
    thinned,
    users,
)
from evomerge.merging.kernels.numbers import (
    NO,
    ONE,
    YES,
    ZERO,
    compiled,
    inner,
    larger,
    load,
    places,
    u32,
    unfolded,
    windows,
    write,
)
from evomerge.merging.kernels.reductions import n_active, reduced
from evomerge.merging.kernels.variance_histogram import squares, wide_sum

_MOST_AHEAD = 16
"""Blocks that are not guessed after several that could not be."""


@unfolded
def _finished(value, xs, i, z, use):
    """Return a merged value where enough inputs use it; always for None."""
    if isinstance(use, types.NoneType):
        return lambda value, xs, i, z, use: value

    def kept(value, xs, i, z, use):
        number = users(deltas_of(xs, i, z), value, use.share)
        return value * (ONE if number >= use.least else ZERO)

    return kept


@unfolded
def _seen(xs, i, z, checked):
    """Return the bits of the largest difference if they are asked for."""
    if isinstance(checked, types.NoneType):
        return lambda xs, i, z, checked: NO
    return lambda xs, i, z, checked: largest_bits(deltas_of(xs, i, z))


@inner(forceinline=True)
def _entry(xs, base, i, thin, form):
    how, use, scale, checked, bare = form
    z = load(base, i)
    value = _finished(reduced(xs, i, z, thin, how), xs, i, z, use)
    return on_base(base, z, scaled(value, scale), bare), _seen(xs, i, z, checked)


@compiled
def _merge(arrays, thin, form):
    xs, base, out = arrays
    most, widest = NO, NO
    for i in range(len(out)):
        one, two = places(out, i)
        first, mine = _entry(xs, base, one, thin, form)
        second, other = _entry(xs, base, two, thin, form)
        most = larger(most, write(out, i, first, second))
        widest = larger(widest, larger(mine, other))
    return most, widest


@compiled
def merge(arrays, thin, form):
    """Merge entries that all are thinned by the same steps.

    Args:
        arrays: Inputs, a tuple; base, an array or None; and result.
        thin: See ``entries``.
        form: How inputs become one, and what then.

    Returns:
        The bits of the largest size written, or more than those of any number if a
        difference is not finite and the form looks at that.
    """
    most, widest = _merge(arrays, thin, form)
    return said(most, widest)


@compiled
def merge_drawn(arrays, start, coins, form):
    """As ``merge``, with coins (see ``bernoulli.draw``), block by block.

    The arrays begin at entry ``start`` of their tensors, a multiple of the block. Words
    hold one entry: to sort lanes into halves would cost what pairs save.
    """
    n = len(arrays[2])
    most, widest = NO, NO
    words = np.empty((len(coins) + 1, BLOCK // 2), np.uint64)
    for low in range(0, n, BLOCK):
        part = windows(arrays, low, min(low + BLOCK, n))
        drawn = draw(coins, part[0], part[1], start + low, words)
        found = _merge(part, drawn, form)
        most, widest = larger(most, found[0]), larger(widest, found[1])
    return said(most, widest)


@compiled
def merge_rows(arrays, start, factor, threshold, form):
    """As ``merge``, of sizes that reach a threshold times a factor of their row.

    Args:
        arrays: As for ``merge``, of one input.
        start: The entry that they begin at.
        factor: A ``form.PerRow``.
        threshold: fp32.
        form: How inputs become one, and what then.
    """
    n, row = len(arrays[2]), factor.row
    most, widest, low = NO, NO, 0
    while low < n:
        place = start + low
        high = min(low + row - place % row, n)
        thin = ((factor.values[place // row], threshold),)
        found = _merge(windows(arrays, low, high), thin, form)
        most, widest = larger(most, found[0]), larger(widest, found[1])
        low = high
    return said(most, widest)


@inner(forceinline=True)
def _reaches(xs, base, i, edge):
    """Return 1.0 where the squared distances sum to an edge or more, else 0.0."""
    z = load(base, i)
    mean = wide_sum(xs, i, z) / np.float64(len(xs))
    return ONE if squares(xs, i, z, mean) >= edge else ZERO


@compiled
def _mark(xs, base, edge, kept):
    """Write which entries stay: for the first ones of words, and for the second."""
    first, second = kept
    for i in range(len(xs[0])):
        one, two = places(xs[0], i)
        first[i] = _reaches(xs, base, one, edge)
        second[i] = _reaches(xs, base, two, edge)


@unfolded
def _apart(values, first):
    """Return the sums of distances from the first value, and of their squares."""
    if len(values) == 0:
        return lambda values, first: (ZERO, ZERO)

    def more(values, first):
        before, squared = _apart(values[:-1], first)
        apart = values[-1] - first
        return before + apart, squared + apart * apart

    return more


@inner(forceinline=True)
def _guess(deltas, bounds):
    """Tell in fp32 whether squared distances reach an edge, and whether that is sure.

    The rounding of differences from one value, unlike that of those from a mean, stays
    small beside their squares.
    """
    low, middle, high = bounds
    plain, squared = _apart(deltas[1:], deltas[0])
    spread = squared - plain * plain * (ONE / np.float32(len(deltas)))
    kept = ONE if spread >= middle else ZERO
    # So that what is no number is not sure.
    unsure = NO if (spread <= low) | (spread >= high) else YES
    return kept, unsure


@unfolded
def _for_all(xs, what):
    if len(xs) == 0:
        return lambda xs, what: ()
    return lambda xs, what: (what, *_for_all(xs[1:], what))


@inner(forceinline=True)
def _entry_guessed(xs, base, i, bounds, form):
    kept, unsure = _guess(deltas_of(xs, i, load(base, i)), bounds)
    value, seen = _entry(xs, base, i, _for_all(xs, (kept,)), form)
    return value, seen, unsure


@compiled
def _merge_guessed(arrays, bounds, form):
    """As ``_merge``; return also not zero if of an entry nothing is sure."""
    xs, base, out = arrays
    most, widest, unsure = NO, NO, NO
    for i in range(len(out)):
        one, two = places(out, i)
        first, mine, doubt = _entry_guessed(xs, base, one, bounds, form)
        second, other, more = _entry_guessed(xs, base, two, bounds, form)
        unsure = u32(unsure | u32(doubt | more))
        most = larger(most, write(out, i, first, second))
        widest = larger(widest, larger(mine, other))
    return most, widest, unsure


@compiled
def merge_varied(arrays, edge, bounds, form):
    """As ``merge``, of the entries whose squared distances sum to an edge or more.

    Args:
        arrays: As for ``merge``, like the form.
        edge: fp64.
        bounds: fp32: up to where a sum in fp32 is surely below the edge; the edge; and
            from where it is surely above.
        form: How inputs become one, and what then.
    """
    n = len(arrays[2])
    most, widest = NO, NO
    flags = np.empty((2, BLOCK), np.float32)
    ahead, patience = 0, 1
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        part = windows(arrays, low, high)
        unsure = YES
        if ahead == 0:
            written, seen, unsure = _merge_guessed(part, bounds, form)
            # Where one block has entries near the edge, the next ones have them too.
            patience = min(2 * patience, _MOST_AHEAD) if unsure else 1
            ahead = patience
        ahead -= 1
        if unsure:
            kept = (flags[0][: high - low], flags[1][: high - low])
            _mark(part[0], part[1], edge, kept)
            written, seen = _merge(part, _for_all(part[0], kept), form)
        most, widest = larger(most, written), larger(widest, seen)
    return said(most, widest)


@compiled
def _fold(values, n):
    """Return the sum of the first numbers, fp64, halved in length until one is left."""
    while n > 1:
        half = n // 2
        low, high = values[:half], values[n - half : n]
        for i in range(half):
            low[i] += high[i]
        n -= half
    return values[0]


@compiled
def _total(values, space):
    """Return the sum of fp32 numbers in fp64, always in the same order."""
    for i in range(len(values)):
        space[i] = np.float64(values[i])
    return _fold(space, len(values))


@compiled
def _sizes(arrays, thin, found):
    """Write the sizes of a difference, and of what is left of it: fp32."""
    xs, base = arrays
    whole, remaining = found
    for i in range(len(whole)):
        z = load(base, i)
        whole[i] = abs(load(xs[0], i) - z)
        remaining[i] = abs(thinned(xs, i, z, thin)[0])


@compiled
def _add_sizes(arrays, thin, sums):
    """Add the sizes of a difference to one sum, of what is left of it to another."""
    n = len(arrays[0][0])
    whole, remaining = np.empty(n, np.float32), np.empty(n, np.float32)
    _sizes(arrays, thin, (whole, remaining))
    space = np.empty(n, np.float64)
    sums[0] += _total(whole, space)
    sums[1] += _total(remaining, space)


@compiled
def add_sizes_cut(arrays, thin, first, start, sums):
    """Sum sizes block by block, of entries that all have the same steps.

    Args:
        arrays: A tuple of one input; and base, an array or None. They begin at entry
            ``start`` of their tensors.
        thin: See ``entries``.
        first: The entry that the first row of sums begins at, a multiple of the block.
        start: Where the arrays begin.
        sums: fp64, shape ``(blocks, 2)``: of all sizes, and of those left.
    """
    n = len(arrays[0][0])
    low = 0
    while low < n:
        place = (start + low - first) // BLOCK
        high = min(first + (place + 1) * BLOCK - start, n)
        _add_sizes(windows(arrays, low, high), thin, sums[place])
        low = high


@compiled
def add_sizes_drawn(arrays, start, coins, sums):
    """As ``add_sizes_cut``, with coins; ``start`` is a multiple of the block."""
    n = len(arrays[0][0])
    words = np.empty((len(coins) + 1, BLOCK // 2), np.uint64)
    for low in range(0, n, BLOCK):
        part = windows(arrays, low, min(low + BLOCK, n))
        drawn = draw(coins, part[0], part[1], start + low, words)
        _add_sizes(part, drawn, sums[low // BLOCK])


@unfolded
def _flags(values, epsilon):
    if len(values) == 0:
        return lambda values, epsilon: ()

    def more(values, epsilon):
        mine = YES if abs(values[0]) > epsilon else NO
        return (mine, *_flags(values[1:], epsilon))

    return more


@unfolded
def _count_each(counts, flags, count):
    """Add to pairs of counts what inputs share with others and what they have alone."""
    if len(flags) == 0:
        return lambda counts, flags, count: ()

    def more(counts, flags, count):
        shared, alone = counts[0]
        mine = flags[0]
        both = mine if count > ONE else NO
        now = (u32(shared + both), u32(alone + u32(mine - both)))
        return (now, *_count_each(counts[1:], flags[1:], count))

    return more


@compiled
def count_active(arrays, epsilon, counts):
    """Count what each input has above epsilon, shared with others and alone.

    Args:
        arrays: Inputs, a tuple, of less than ``2**32`` entries; base; and result, which
            is not used.
        epsilon: fp32.
        counts: A pair of zeros for each input, uint32.

    Returns:
        The pairs.
    """
    xs, base, _ = arrays
    for i in range(len(xs[0])):
        deltas = deltas_of(xs, i, load(base, i))
        flags = _flags(deltas, epsilon)
        counts = _count_each(counts, flags, n_active(deltas, epsilon))
    return counts
