"""The counter-based random bits of ``operators.counter``, compiled."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types
from numba.extending import overload

from evomerge.merging.kernels.numbers import ONE, ZERO, compiled, u32

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_FLIP = np.uint32(0x80000000)
_LANES = np.float32(2.0**32)


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
def _toss(key, highest, start, words, flags):
    """Flag entries whose lane is at most ``highest``: 1.0, else 0.0."""
    n = len(flags)
    _fill(key, start, words[: (n + 1) // 2])
    lanes = words.view(np.uint32)
    for i in range(n):
        flags[i] = ONE if u32(lanes[i] ^ _FLIP) <= highest else ZERO


@compiled
def _toss_ranked(coin, start, words, flags):
    """Flag each entry with the probability of its rank, with one or with one over it.

    Shares are the probabilities in units of 2**-32, by rank.
    """
    key, ranks, shares, inverse = coin
    n = len(flags)
    _fill(key, start, words[: (n + 1) // 2])
    lanes = words.view(np.uint32)
    here = ranks[start : start + n]
    for i in range(n):
        share = shares[here[i]]
        factor = _LANES / np.float32(share) if inverse else ONE
        flags[i] = factor if u32(lanes[i] ^ _FLIP) < share else ZERO


def toss(coins, start, words, flags):
    """Toss every input's coin for a block of entries.

    Args:
        coins: A tuple per input: ``()`` for none; key and highest lane that stays; or
            key, ranks of all entries, shares by rank, and whether to divide by them.
        start: First entry, even.
        words: uint64, scratch, half a block.
        flags: A tuple of fp32 arrays, one per input: the result.
    """
    raise NotImplementedError("only in compiled code")


@overload(toss)
def _toss_each(coins, start, words, flags):
    if len(coins) == 0:
        return lambda coins, start, words, flags: None
    if len(coins[0]) == 0:

        def none(coins, start, words, flags):
            flags[0][:] = ONE
            toss(coins[1:], start, words, flags[1:])

        return none
    if len(coins[0]) == 2:

        def plain(coins, start, words, flags):
            key, highest = coins[0]
            _toss(key, highest, start, words, flags[0])
            toss(coins[1:], start, words, flags[1:])

        return plain

    def ranked(coins, start, words, flags):
        _toss_ranked(coins[0], start, words, flags[0])
        toss(coins[1:], start, words, flags[1:])

    return ranked


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
