"""The counter-based random bits of ``operators.loops.counter``, compiled."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import CERTAIN, FINER, GOLDEN, LAST_SHIFT, MIX
from evomerge.merging.kernels.numbers import ZERO, compiled, unfolded

_GOLDEN = np.uint64(GOLDEN)
(_SHIFT1, _FACTOR1), (_SHIFT2, _FACTOR2) = (
    (np.uint64(shift), np.uint64(factor)) for shift, factor in MIX
)
_SHIFT3 = np.uint64(LAST_SHIFT)
_FLIPS = np.uint64(0x8000000080000000)
"""Lanes compare as numbers without a sign here, and with one in torch."""
_FINER = np.uint32(FINER)
_CERTAIN = np.float32(CERTAIN)


@compiled
def _fill(key, start, words):
    """Fill ``words`` (uint64) with the stream of a key from element ``start`` on.

    Seen as uint32, entry ``i`` belongs to element ``start + i``; ``start`` is even.
    Their highest bits are flipped.
    """
    following = key + np.uint64(start // 2 + 1) * _GOLDEN
    for i in range(len(words)):
        word = following
        following = following + _GOLDEN
        word = (word ^ (word >> _SHIFT1)) * _FACTOR1
        word = (word ^ (word >> _SHIFT2)) * _FACTOR2
        words[i] = word ^ (word >> _SHIFT3) ^ _FLIPS


def _without_chance(coin):
    """Return how a coin is drawn whose worth is read off: by column, or by rank."""
    if len(coin) == 1:

        def tiled(coins, start, n, words):
            found = words[0].view(np.float32)[:n]
            _tile(coins[0][0], start, found)
            return ((found,), *draw(coins[1:], start, n, words[1:]))

        return tiled

    def banded(coins, start, n, words):
        ranks, low, high, factor = coins[0]
        found = words[0].view(np.float32)[:n]
        _stay(ranks[start : start + n], (low, high, factor), found)
        return ((found,), *draw(coins[1:], start, n, words[1:]))

    return banded


@unfolded
def draw(coins, start, n, words):
    """Draw the random lanes of a block of entries for every input's coin.

    Args:
        coins: A tuple per input. Without chance: the factor. Where whole columns go:
            the factor of every column, fp32. With one chance for all: key, highest lane
            that stays, factor. With chances by rank: key, ranks of all entries, how
            much the chance grows from rank to rank and that of rank 0, both fp32 (fp64
            for more ranks than it holds) in units of 2**-24, and the factor (None for
            one over the chance). By rank without chance: ranks of all entries, the
            first that stays and the first above, and the factor.
        start: First entry, even.
        n: How many.
        words: uint64, scratch, shape ``(inputs + 1, half a block)``.

    Returns:
        What :func:`worth` takes, for each input.
    """
    if len(coins) == 0:
        return lambda coins, start, n, words: ()
    if isinstance(coins[0][0], types.Array):
        return _without_chance(coins[0])
    if len(coins[0]) == 1:

        def none(coins, start, n, words):
            return (coins[0], *draw(coins[1:], start, n, words[1:]))

        return none
    if len(coins[0]) == 3:

        def plain(coins, start, n, words):
            key, highest, factor = coins[0]
            mine = words[0][: (n + 1) // 2]
            _fill(key, start, mine)
            drawn = (mine.view(np.uint32), highest, factor)
            return (drawn, *draw(coins[1:], start, n, words[1:]))

        return plain

    def ranked(coins, start, n, words):
        key, ranks, step, least, factor = coins[0]
        lanes = words[-1][: (n + 1) // 2]
        _fill(key, start, lanes)
        mine, chances = ranks[start : start + n], (step, least, factor)
        found = words[0].view(np.float32)[:n]
        _toss(lanes.view(np.uint32), mine, chances, found)
        return ((found,), *draw(coins[1:], start, n, words[1:]))

    return ranked


@compiled
def _tile(row, start, found):
    """Write a row over and over, from the column that an entry stands in."""
    low, at = 0, start % len(row)
    while low < len(found):
        high = min(low + len(row) - at, len(found))
        found[low:high] = row[at : at + high - low]
        low, at = high, 0


@compiled
def _stay(ranks, band, found):
    """Write the factor where a rank lies in a band, and else zero."""
    low, high, factor = band
    for i in range(len(found)):
        rank = np.int32(ranks[i])
        found[i] = factor if (rank >= low) & (rank < high) else ZERO


@compiled
def _toss(lanes, ranks, chances, found):
    """Write what ``worth`` returns for coins with chances by rank.

    A loop of its own, because with that of several inputs in one the processor's
    registers do not suffice.
    """
    step, least, factor = chances
    for i in range(len(found)):
        chance = np.float32(np.rint(_like(step, ranks[i]) * step + least))
        lane = np.float32(np.int32(lanes[i] >> _FINER))
        found[i] = _by_chance(factor, chance) if lane < chance else ZERO


@unfolded
def _like(step, rank):
    """Return a rank as a number of the step's type."""
    if step == types.float32:
        return lambda step, rank: np.float32(rank)
    return lambda step, rank: np.float64(rank)


@unfolded
def worth(drawn, i):
    """Return the factor of an entry that stays, zero of one that goes."""
    if len(drawn) == 3:

        def plain(drawn, i):
            lanes, highest, factor = drawn
            return factor if lanes[i] <= highest else ZERO

        return plain
    if isinstance(drawn[0], types.Array):
        return lambda drawn, i: drawn[0][i]
    return lambda drawn, i: drawn[0]


@unfolded
def _by_chance(factor, chance):
    """Return the factor; for None one over the chance."""
    if isinstance(factor, types.NoneType):
        return lambda factor, chance: _CERTAIN / chance
    return lambda factor, chance: factor
