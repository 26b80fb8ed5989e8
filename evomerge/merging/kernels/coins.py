"""The counter-based random bits of ``operators.counter``, compiled."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types
from numba.extending import overload

from evomerge.merging.kernels.numbers import BLOCK, ZERO, compiled, half, u32

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_FLIP = np.uint32(0x80000000)
_REST = np.uint32(8)
"""Bits of a lane that a chance by rank does not look at."""
_CERTAIN = np.float32(2.0**24)


@compiled
def _fill(key, start, words):
    """Fill ``words`` (uint64) with the stream of a key from element ``start`` on.

    Seen as uint32, entry ``i`` belongs to element ``start + i``; ``start`` is even.
    """
    following = key + np.uint64(start // 2 + 1) * _GOLDEN
    for i in range(len(words)):
        word = following
        following = following + _GOLDEN
        word = (word ^ (word >> np.uint64(30))) * _FIRST
        word = (word ^ (word >> np.uint64(27))) * _SECOND
        words[i] = word ^ (word >> np.uint64(31))


@compiled
def _fill_halves(key, start, lows, highs):
    """As ``_fill``, with even elements' lanes apart from the odd ones': uint32."""
    following = key + np.uint64(start // 2 + 1) * _GOLDEN
    for i in range(len(lows)):
        word = following
        following = following + _GOLDEN
        word = (word ^ (word >> np.uint64(30))) * _FIRST
        word = (word ^ (word >> np.uint64(27))) * _SECOND
        word ^= word >> np.uint64(31)
        lows[i] = np.uint32(word)
        highs[i] = np.uint32(word >> np.uint64(32))


def scratch(coins, out):
    """Return what ``draw`` draws a block of lanes for every coin into."""
    raise NotImplementedError("only in compiled code")


@overload(scratch)
def _scratch_for(coins, out):
    if out.dtype == types.uint32:
        return lambda coins, out: np.empty((len(coins), 2, BLOCK // 2), np.uint32)
    return lambda coins, out: np.empty((len(coins), BLOCK // 2), np.uint64)


def _lanes(key, start, n, space):
    raise NotImplementedError("only in compiled code")


@overload(_lanes)
def _lanes_in(key, start, n, space):
    """Return a block of lanes, uint32: one array, or one for each half of words."""
    if space.ndim == 1:

        def flat(key, start, n, space):
            mine = space[: (n + 1) // 2]
            _fill(key, start, mine)
            return mine.view(np.uint32)

        return flat

    def halves(key, start, n, space):
        lows, highs = space[0][: n // 2], space[1][: n // 2]
        _fill_halves(key, start, lows, highs)
        return lows, highs

    return halves


def _ranks_in(ranks, start, n, space):
    raise NotImplementedError("only in compiled code")


@overload(_ranks_in)
def _ranks_of(ranks, start, n, space):
    """Return a block of ranks: uint16, or pairs of them where lanes come in halves."""
    if space.ndim == 1:
        return lambda ranks, start, n, space: ranks[start : start + n]
    return lambda ranks, start, n, space: ranks[start : start + n].view(np.uint32)


def draw(coins, start, n, space):
    """Draw the random lanes of a block of entries for every input's coin.

    Args:
        coins: A tuple per input. Without chance: the factor. With one chance for all:
            key, highest lane that stays, factor. With chances by rank: key, ranks of
            all entries, how much the chance grows from rank to rank and that of rank 0,
            both fp32 in units of 2**-24, and the factor (None for one over the chance).
        start: First entry, even.
        n: How many; even where words hold two entries.
        space: Of :func:`scratch`.

    Returns:
        What :func:`worth` takes, for each input.
    """
    raise NotImplementedError("only in compiled code")


@overload(draw)
def _draw_each(coins, start, n, space):
    if len(coins) == 0:
        return lambda coins, start, n, space: ()
    if len(coins[0]) == 1:

        def none(coins, start, n, space):
            return (coins[0], *draw(coins[1:], start, n, space[1:]))

        return none
    if len(coins[0]) == 3:

        def plain(coins, start, n, space):
            key, highest, factor = coins[0]
            drawn = (_lanes(key, start, n, space[0]), highest, factor)
            return (drawn, *draw(coins[1:], start, n, space[1:]))

        return plain

    def ranked(coins, start, n, space):
        key, ranks, step, least, factor = coins[0]
        mine = _ranks_in(ranks, start, n, space[0])
        drawn = (_lanes(key, start, n, space[0]), mine, step, least, factor)
        return (drawn, *draw(coins[1:], start, n, space[1:]))

    return ranked


def _lane(lanes, place):
    raise NotImplementedError("only in compiled code")


@overload(_lane)
def _lane_at(lanes, place):
    """Return the lane of a place, as a number that compares like the chances do."""
    if isinstance(lanes, types.Array):
        return lambda lanes, place: u32(lanes[place] ^ _FLIP)

    def halved(lanes, place):
        lows, highs = lanes
        word, which = place
        return u32((highs[word] if which else lows[word]) ^ _FLIP)

    return halved


def _rank(ranks, place):
    raise NotImplementedError("only in compiled code")


@overload(_rank)
def _rank_at(ranks, place):
    if ranks.dtype == types.uint16:
        return lambda ranks, place: np.float32(ranks[place])
    return lambda ranks, place: np.float32(np.int32(half(ranks[place[0]], place[1])))


def worth(drawn, i):
    """Return the factor of an entry that stays, zero of one that goes."""
    raise NotImplementedError("only in compiled code")


@overload(worth)
def _worth_of(drawn, i):
    if len(drawn) == 1:
        return lambda drawn, i: drawn[0]
    if len(drawn) == 3:

        def plain(drawn, i):
            lanes, highest, factor = drawn
            return factor if _lane(lanes, i) <= highest else ZERO

        return plain

    def ranked(drawn, i):
        lanes, ranks, step, least, factor = drawn
        chance = np.rint(_rank(ranks, i) * step + least)
        lane = np.float32(np.int32(_lane(lanes, i) >> _REST))
        return _by_chance(factor, chance) if lane < chance else ZERO

    return ranked


def _by_chance(factor, chance):
    raise NotImplementedError("only in compiled code")


@overload(_by_chance)
def _by_chance_of(factor, chance):
    """Return the factor; for None one over the chance."""
    if isinstance(factor, types.NoneType):
        return lambda factor, chance: _CERTAIN / chance
    return lambda factor, chance: factor
