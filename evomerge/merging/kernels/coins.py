"""The counter-based random bits of ``operators.counter``, compiled."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types
from numba.extending import overload

from evomerge.merging.kernels.numbers import ZERO, compiled, u32

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
    first = key + np.uint64(start // 2 + 1) * _GOLDEN
    for i in range(len(words)):
        word = first + np.uint64(i) * _GOLDEN
        word = (word ^ (word >> np.uint64(30))) * _FIRST
        word = (word ^ (word >> np.uint64(27))) * _SECOND
        words[i] = word ^ (word >> np.uint64(31))


@compiled
def _toss(coin, start, words, flags):
    """Flag entries whose lane is at most the highest: the factor, else 0.0."""
    key, highest, factor = coin
    n = len(flags)
    _fill(key, start, words[: (n + 1) // 2])
    lanes = words.view(np.uint32)
    for i in range(n):
        flags[i] = factor if u32(lanes[i] ^ _FLIP) <= highest else ZERO


@compiled
def _toss_ranked(coin, start, words, flags):
    """Flag each entry with the chance of its rank: a factor, else 0.0."""
    key, ranks, step, least, factor = coin
    n = len(flags)
    _fill(key, start, words[: (n + 1) // 2])
    lanes = words.view(np.uint32)
    here = ranks[start : start + n]
    for i in range(n):
        chance = np.float32(np.rint(np.float64(here[i]) * step + least))
        lane = np.float32(np.int32(u32(lanes[i] ^ _FLIP) >> _REST))
        flags[i] = _worth(factor, chance) if lane < chance else ZERO


def _worth(factor, chance):
    raise NotImplementedError("only in compiled code")


@overload(_worth)
def _worth_of(factor, chance):
    """Return the factor; for None one over the chance."""
    if isinstance(factor, types.NoneType):
        return lambda factor, chance: _CERTAIN / chance
    return lambda factor, chance: factor


def toss(coins, start, words, flags):
    """Toss every input's coin for a block of entries.

    Args:
        coins: A tuple per input. Without chance: the factor. With one chance for all:
            key, highest lane that stays, factor. With chances by rank: key, ranks of
            all entries, how much the chance grows from rank to rank and that of rank 0,
            both fp64 in units of 2**-24, and the factor (None for one over the chance).
        start: First entry, even.
        words: uint64, scratch, half a block.
        flags: A tuple of fp32 arrays, one per input, for the result: the factor of each
            entry that stays, zero for each that goes.
    """
    raise NotImplementedError("only in compiled code")


@overload(toss)
def _toss_each(coins, start, words, flags):
    if len(coins) == 0:
        return lambda coins, start, words, flags: None
    if len(coins[0]) == 1:

        def none(coins, start, words, flags):
            flags[0][:] = coins[0][0]
            toss(coins[1:], start, words, flags[1:])

        return none
    one = _toss if len(coins[0]) == 3 else _toss_ranked

    def more(coins, start, words, flags):
        one(coins[0], start, words, flags[0])
        toss(coins[1:], start, words, flags[1:])

    return more


def windows(arrays, start, stop):
    """Return a part of every array, also of those in tuples; nothing of nothing."""
    raise NotImplementedError("only in compiled code")


@overload(windows)
def _windows_of(arrays, start, stop):
    if isinstance(arrays, types.NoneType):
        return lambda arrays, start, stop: None
    if isinstance(arrays, types.Array):
        return lambda arrays, start, stop: arrays[start:stop]
    if len(arrays) == 0:
        return lambda arrays, start, stop: ()

    def more(arrays, start, stop):
        first = windows(arrays[0], start, stop)
        return (first, *windows(arrays[1:], start, stop))

    return more


def rows(table, like, n):
    """Return the first ``n`` entries of a row for each entry of a tuple."""
    raise NotImplementedError("only in compiled code")


@overload(rows)
def _rows_of(table, like, n):
    if len(like) == 0:
        return lambda table, like, n: ()
    return lambda table, like, n: (table[0][:n], *rows(table[1:], like[1:], n))
