"""The counter-based random bits of ``operators.loops.counter``, compiled."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import CERTAIN, FINER, GOLDEN, LAST_SHIFT, MIX
from evomerge.merging.form import (
    Coin,
    ColumnCoin,
    Given,
    RankBand,
    RankedCoin,
    SizeCoin,
)
from evomerge.merging.kernels.numbers import (
    ZERO,
    compiled,
    inlined,
    load,
    unfolded,
    windows,
)

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


@inlined
def draw(coins, xs, base, start, words):
    """Say what thins a block of entries, for every input's coin.

    Args:
        coins: A pair per input: a coin of ``form``, or None where nothing
            is thrown; and the factor on what stays, fp32. Keys are
            uint64; a share is the highest lane that stays, uint32; chances are in
            units of 2**-24, fp32, or fp64 where fp32 does not hold all ranks or sizes
            decide; tables are arrays, of all entries or rows. ``inverse`` is None if
            what stays is not divided by its chance; if it is, there is no factor.
        xs: The inputs' blocks, a tuple.
        base: The base's, or None.
        start: First entry, even.
        words: uint64, scratch, shape ``(inputs + 1, half a block)``.

    Returns:
        What :func:`worth` takes, for each input.
    """
    if len(coins) == 0:
        return lambda coins, xs, base, start, words: ()

    def more(coins, xs, base, start, words):
        coin, factor = coins[0]
        mine = _drawn(coin, factor, (xs[0], base), start, words)
        return (mine, *draw(coins[1:], xs[1:], base, start, words[1:]))

    return more


@inlined
def _drawn(coin, factor, arrays, start, words):
    if isinstance(coin, types.NoneType):
        return lambda coin, factor, arrays, start, words: (factor,)
    if coin.instance_class is Coin:

        def plain(coin, factor, arrays, start, words):
            lanes = words[0][: (len(arrays[0]) + 1) // 2]
            _fill(coin.key, start, lanes)
            return (lanes.view(np.uint32), coin.share, factor)

        return plain
    if coin.instance_class is SizeCoin:

        def sized(coin, factor, arrays, start, words):
            n = len(arrays[0])
            found = words[0].view(np.float32)[:n]
            _by_size(coin, factor, arrays, start, words[-1][: (n + 1) // 2], found)
            return (found,)

        return sized
    write = _WRITERS[coin.instance_class]

    def written(coin, factor, arrays, start, words):
        n = len(arrays[0])
        found = words[0].view(np.float32)[:n]
        # Without the inputs: threads that pass them count their users, one by one.
        write(coin, factor, start, words[-1][: (n + 1) // 2], found)
        return (found,)

    return written


@compiled
def _by_column(coin, factor, start, lanes, found):
    """Write a row over and over, from the column that an entry stands in."""
    row = coin.mask
    low, at = 0, start % len(row)
    while low < len(found):
        high = min(low + len(row) - at, len(found))
        for i in range(low, high):
            found[i] = row[at + i - low] * factor
        low, at = high, 0


@compiled
def _as_given(coin, factor, start, lanes, found):
    worth = coin.worth.values[start : start + len(found)]
    for i in range(len(found)):
        found[i] = worth[i] * factor


@compiled
def _in_band(coin, factor, start, lanes, found):
    """Write the factor where a rank lies in a band, and else zero."""
    ranks = coin.ranks.values[start : start + len(found)]
    _stay(ranks, (np.int32(coin.low), np.int32(coin.high), factor), found)


@compiled
def _stay(ranks, band, found):
    low, high, factor = band
    for i in range(len(found)):
        rank = np.int32(ranks[i])
        found[i] = factor if (rank >= low) & (rank < high) else ZERO


@compiled
def _by_rank(coin, factor, start, lanes, found):
    """Toss coins with chances by rank.

    A loop of its own, because with that of several inputs in one the processor's
    registers do not suffice.
    """
    _fill(coin.key, start, lanes)
    ranks = coin.ranks.values[start : start + len(found)]
    chances = (coin.step, coin.least, factor, coin.inverse)
    _toss(lanes.view(np.uint32), ranks, chances, found)


@compiled
def _toss(drawn, ranks, chances, found):
    step, least, factor, inverse = chances
    for i in range(len(found)):
        chance = np.float32(np.rint(_like(step, ranks[i]) * step + least))
        found[i] = _tossed(drawn[i], chance, factor, inverse)


@compiled
def _by_size(coin, factor, arrays, start, lanes, found):
    """Toss coins with chances by where sizes lie in their rows."""
    _fill(coin.key, start, lanes)
    drawn = lanes.view(np.uint32)
    row, low = coin.smallest.row, 0
    while low < len(found):
        at = (start + low) // row
        high = min((at + 1) * row - start, len(found))
        ends = (coin.smallest.values[at], coin.width.values[at], coin.share.values[at])
        part = windows((arrays, drawn, found), low, high)
        _toss_row(part, ends, (coin.step, coin.least), (factor, coin.inverse))
        low = high


@compiled
def _toss_row(part, ends, chances, stays):
    (x, base), drawn, found = part
    smallest, width, share = ends
    step, least = chances
    factor, inverse = stays
    for i in range(len(found)):
        size = np.float64(abs(load(x, i) - load(base, i)))
        place = (size - np.float64(smallest)) / width + np.float64(share)
        chance = np.float32(np.rint(place * step + least))
        found[i] = _tossed(drawn[i], chance, factor, inverse)


_WRITERS = {
    ColumnCoin: _by_column,
    Given: _as_given,
    RankBand: _in_band,
    RankedCoin: _by_rank,
}


@unfolded
def _like(step, rank):
    """Return a rank as a number of the step's type."""
    if step == types.float32:
        return lambda step, rank: np.float32(rank)
    return lambda step, rank: np.float64(rank)


@unfolded
def _tossed(lane, chance, factor, inverse):
    """Return the factor of what stays, or one over its chance, else zero."""
    if isinstance(inverse, types.NoneType):

        def plain(lane, chance, factor, inverse):
            drawn = np.float32(np.int32(lane >> _FINER))
            return factor if drawn < chance else ZERO

        return plain

    def divided(lane, chance, factor, inverse):
        drawn = np.float32(np.int32(lane >> _FINER))
        return _CERTAIN / chance if drawn < chance else ZERO

    return divided


@unfolded
def worth(drawn, i):
    """Return the factor of an entry that stays, zero of one that goes.

    Args:
        drawn: Lanes, the highest that stays, and the factor; or the factors of all
            entries, or one factor; or (two arrays) those of the first entries of words
            and of the second ones.
        i: A place.
    """
    if len(drawn) == 3:

        def plain(drawn, i):
            lanes, highest, factor = drawn
            return factor if lanes[i] <= highest else ZERO

        return plain
    if len(drawn) == 2:
        if isinstance(i, types.Integer):
            return lambda drawn, i: drawn[0][i]
        return lambda drawn, i: drawn[1][i[0]] if i[1] else drawn[0][i[0]]
    if isinstance(drawn[0], types.Array):
        return lambda drawn, i: drawn[0][i]
    return lambda drawn, i: drawn[0]
