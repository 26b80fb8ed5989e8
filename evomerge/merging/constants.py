"""Constants that every form of a merge's arithmetic shares.

The same merge is written as single steps, as compiled loops and as formulas for an
accelerator, and all of them give the same bits.
"""

BLOCK = 2048
"""Entries that compiled loops take at a time: their scratch space stays in the nearest
cache. Random bits are drawn, and sizes are added up, for so many."""
CELLS = 64
"""Of an exact sum of squares: one for every four exponents of fp32; one more counts
what is infinite."""

GOLDEN = 0x9E3779B97F4A7C15
"""By how much the state of SplitMix64 grows from word to word."""
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""SplitMix64's steps from state to word: a shift, and the factor that follows it."""
LAST_SHIFT = 31
"""The shift after those steps."""

CERTAIN = 2**24
"""What is certain, in the units of chances by rank: fp32 holds all of them exactly."""
FINER = 8
"""Bits of a random lane of 32 that are finer than that."""

CANCELLED = 1e-6
"""A sum of weights this much smaller than their sizes is a zero with rounding on it."""
NO_STEP = 1e-6
"""A difference below this counts as this in NearSwap: nothing is divided by zero."""
NO_WEIGHT = 1e-12
"""What an entry's differences won in PCB is divided by this at least."""
