"""Differences that stand out among all of a tensor, taken over in one pass, compiled.

The steps, and their order, are those of ``elementwise.arcee_fusion``: the bits are the
same.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from evomerge.merging.kernels.entries import windows
from evomerge.merging.kernels.numbers import (
    NO,
    ONE,
    ZERO,
    compiled,
    larger,
    load,
    size_bits,
    store,
)


@compiled
def _take_row(arrays, divergence, threshold):
    xs, base, out = arrays
    most = NO
    for i in range(len(out)):
        z = load(base, i)
        delta = load(xs[0], i) - z
        stands_out = ONE if abs(delta) * divergence >= threshold else ZERO
        value = z + delta * stands_out
        store(out, i, value)
        most = larger(most, size_bits(value))
    return most


@compiled
def take_outstanding(arrays, start, divergences, row, threshold):
    """Add to the base the differences whose importance reaches a threshold.

    Args:
        arrays: Inputs, a tuple of one; base; and result.
        start: The entry that the arrays begin at.
        divergences: fp32, one per row.
        row: Entries of a row.
        threshold: fp32.

    Returns:
        The bits of the largest size written.
    """
    n = len(arrays[2])
    most, low = NO, 0
    while low < n:
        place = start + low
        high = min(low + row - place % row, n)
        part = windows(arrays, low, high)
        most = larger(most, _take_row(part, divergences[place // row], threshold))
        low = high
    return most
