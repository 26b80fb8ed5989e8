"""Stored numbers to fp32 and back, entry by entry, in compiled loops.

A tensor reaches compiled code as an array of fp32, of unsigned words (bf16) or of
signed words (fp16); ``load`` and ``store`` go by that. Compiled loops take several such
entries at a time, in registers.
"""

# numba works types out for itself and has no use for annotations.
# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from functools import wraps
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

ZERO, ONE = np.float32(0.0), np.float32(1.0)
YES, NO = np.uint32(1), np.uint32(0)

_HALF_SCALE = np.float32(2.0**112)
"""Between the exponents of fp16 and fp32, after a shift by 13 bits."""
_HALF_UNIT = np.float32(2.0**24)
"""One over the smallest fp16 number."""
SIGN, _REST = np.uint32(0x80000000), np.uint32(0x7FFFFFFF)
FULL = np.uint32(0x7F800000)
"""The bits of infinity."""
_U13, _U16 = np.uint32(13), np.uint32(16)
_HIGH = np.uint32(0xFFFF0000)


_ALONE = {"no_cfunc_wrapper": True}
"""Nothing in C calls compiled loops; a way in for it takes a while to compile."""


def inner(**options: Any) -> Any:
    """Compile what only compiled code calls: without a way in for Python."""
    return njit(no_cpython_wrapper=True, **_ALONE, **options)


def unfolded(choose: Any) -> Any:
    """Make a function that compiled code unfolds where it calls it.

    Args:
        choose: Is given the types of the arguments, so it sees how long a tuple is and
            whether there is an array at all; returns what is compiled for them.
    """
    return _chosen_by(choose, {})


def inlined(choose: Any) -> Any:
    """As :func:`unfolded`, in loops so long that the compiler would call it.

    No loop with a call takes several entries at a time.
    """
    return _chosen_by(choose, {"forceinline": True})


def _chosen_by(choose: Any, options: dict[str, bool]) -> Any:
    @wraps(choose)
    def only_compiled(*arguments: Any) -> Any:
        raise NotImplementedError("only in compiled code")

    overload(only_compiled, jit_options={**_ALONE, **options})(choose)
    return only_compiled


def compiled(function: Any) -> Any:
    """Compile without relaxed arithmetic: the same bits as one step after another."""
    options = {"nogil": True, "error_model": "numpy", **_ALONE}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep compiled code: compile in every process
        return njit(**options)(function)


@intrinsic
def as_float(_: Any, bits: Any) -> Any:
    """Return the fp32 number that 32 bits stand for."""

    def cast(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), cast


@intrinsic
def as_bits(_: Any, number: Any) -> Any:
    """Return the 32 bits of an fp32 number."""

    def cast(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), cast


@inner()
def u32(number):
    """Cut a number back to 32 bits: compiled arithmetic widens to 64 by itself."""
    return np.uint32(number)


@unfolded
def places(array, index):
    """Return the places of the entries that a word holds; twice the same for one entry.

    Words of 32 bits hold two entries of bf16, the first one in the low half: what works
    on both needs one read and one write where each entry would need its own, and no
    step that widens 16 bits.
    """
    if array.dtype == types.uint32:
        return lambda array, index: ((index, NO), (index, YES))
    return lambda array, index: (index, index)


@unfolded
def load(array, index):
    """Return an entry as fp32; no array at all is full of zeros.

    Args:
        array: Of fp32, bf16 (uint16), fp16 (int16), pairs of bf16 (uint32); or None.
        index: A place, for pairs one that ``places`` gave.
    """
    if isinstance(array, types.NoneType):
        return lambda array, index: ZERO
    if array.dtype == types.float32:
        return lambda array, index: array[index]
    if array.dtype == types.uint16:
        return lambda array, index: as_float(u32(np.uint32(array[index]) << _U16))
    if array.dtype == types.uint32:

        def paired(array, index):
            word, which = index
            moved = u32(array[word] << u32(_U16 * u32(YES - which)))
            return as_float(u32(moved & _HIGH))

        return paired

    def single(array, index):
        word = u32(np.uint32(array[index]) & np.uint32(0xFFFF))
        size = as_float(u32(u32(word & np.uint32(0x7FFF)) << _U13)) * _HALF_SCALE
        special = u32(word & np.uint32(0x7C00)) == np.uint32(0x7C00)
        sign = u32(u32(word & np.uint32(0x8000)) << _U16)
        full = FULL if special else NO
        return as_float(u32(u32(as_bits(size) | sign) | full))

    return single


@inner()
def _brain(value):
    """Round fp32 to nearest, even; the high half of the bits is the bf16 number."""
    bits = as_bits(value)
    even = u32(u32(bits >> _U16) & YES)
    return u32(u32(bits + np.uint32(0x7FFF)) + even)


@unfolded
def store_all(array, index, first, second):
    """Write a word, as ``store`` does; the second entry only where it holds two."""
    if array.dtype != types.uint32:
        return lambda array, index, first, second: store(array, index, first)

    def both(array, index, first, second):
        low, high = u32(_brain(first) >> _U16), u32(_brain(second) & _HIGH)
        array[index] = u32(low | high)

    return both


@unfolded
def store(array, index, value):
    """Write fp32 rounded to nearest, even."""
    if array.dtype == types.float32:

        def single(array, index, value):
            array[index] = value

        return single
    if array.dtype == types.uint16:

        def brain(array, index, value):
            array[index] = np.uint16(u32(_brain(value) >> _U16))

        return brain

    def half(array, index, value):
        bits = as_bits(value)
        sign = u32(u32(bits & SIGN) >> _U16)
        size = u32(bits & _REST)
        even = u32(u32(size >> _U13) & YES)
        # From the exponents of fp32 to those of fp16, with half a unit to round.
        moved = u32(u32(size - np.uint32(0x38000000)) + np.uint32(0xFFF))
        usual = u32(u32(moved + even) >> _U13)
        # Too small for an exponent of its own: count in units of the smallest number.
        tiny = min(as_float(size) * _HALF_UNIT, np.float32(2048.0))
        small = np.uint32(np.rint(tiny))
        word = usual if size >= np.uint32(0x38800000) else small
        word = word if size < np.uint32(0x47800000) else np.uint32(0x7C00)
        array[index] = np.int16(np.uint16(u32(word | sign)))

    return half


@unfolded
def windows(arrays, start, stop):
    """Return a part of every array, also of those in tuples; nothing of nothing."""
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


@inner()
def size_bits(value):
    """Return the bits of a number's size; they are in the order of the sizes."""
    return u32(as_bits(value) & _REST)


@inner(forceinline=True)
def larger(one, other):
    """Return the larger one."""
    return one if one > other else other


@compiled
def is_any_infinite(array):
    """Tell whether any entry is infinite or no number."""
    most = NO
    for i in range(len(array)):
        most = larger(most, size_bits(load(array, i)))
    return most >= FULL


@inner(forceinline=True)
def write(out, i, first, second):
    """Write a word's entries; return the bits of the larger size."""
    store_all(out, i, first, second)
    return larger(size_bits(first), size_bits(second))


def overflow(dtype: np.dtype[Any]) -> int:
    """Return the least :func:`size_bits` that is not finite once it is stored.

    Args:
        dtype: Of the words stored.
    """
    return {"f": 0x7F800000, "u": 0x7F7F8000, "i": 0x477FF000}[dtype.kind]
