"""Weights that training procedures give the checkpoints they leave behind.

With the knobs they read. Every function takes the number of inputs and the knobs, and
returns one weight per input, in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from evomerge.core.digest import Scalar
from evomerge.core.operators.catalogue import Knob

Values = Mapping[str, tuple[Scalar, ...]]
"""Knob name to its values: one per input, or just one."""

Weights = Callable[[int, Values], tuple[float, ...]]
"""Number of inputs and knobs to one weight per input; zero leaves an input out."""


STRIDE = Knob(
    "stride",
    "int",
    1,
    "Of the checkpoints every so many is taken.",
    low=1,
    high=64,
    log=True,
    lowest=1,
)
LATEST = Knob(
    "k", "int", 5, "How many of the latest are averaged.", low=2, high=20, lowest=1
)
START = Knob(
    "start",
    "float",
    0.0,
    "Part of the checkpoints that is passed over at the beginning.",
    low=0.0,
    high=0.95,
    lowest=0.0,
    highest=1.0,
)
COUNT = Knob(
    "count",
    "int",
    0,
    "At most how many are averaged; 0 for all there are.",
    low=0,
    high=20,
    lowest=0,
)
DECAY = Knob(
    "decay",
    "float",
    0.99,
    "Part of the moving average that each further checkpoint leaves.",
    low=0.9,
    high=0.9999,
    lowest=0.0,
    highest=1.0,
)
MU = Knob(
    "mu",
    "float",
    None,
    "Preference for each input's reward; they are divided by their sum.",
    low=0.0,
    high=1.0,
    per_input=True,
    lowest=0.0,
)
LORA_SPACE = Knob(
    "lora_space",
    "choice",
    "delta",
    "Of one model with several adapters: average what the adapters add (delta), or "
    "their factors, A and B each on their own (factors).",
    choices=("delta", "factors"),
)
LAMBDA = Knob(
    "lambda",
    "float",
    1.0,
    "Factor on the difference before it is added to the base.",
    low=0.1,
    high=1.5,
)
ALPHA = Knob(
    "alpha",
    "float",
    0.5,
    "Way from the base to the input.",
    low=0.0,
    high=1.0,
    lowest=0.0,
)
BEYOND = Knob(
    "alpha",
    "float",
    0.3,
    "How far to go on from the base past the input.",
    low=0.0,
    high=0.5,
)
SPACING = replace(
    STRIDE, default=4, help="Checkpoints from one that is taken to the next."
)


def uniform(n: int, values: Values) -> tuple[float, ...]:
    """Weigh all alike."""
    return (1.0 / n,) * n


def _equal(chosen: list[int], n: int) -> tuple[float, ...]:
    """Return equal weights for some checkpoints and none for the others."""
    return tuple(1.0 / len(chosen) if i in chosen else 0.0 for i in range(n))


def from_start(n: int, values: Values) -> tuple[float, ...]:
    """Weigh every ``stride``-th checkpoint after the first part of the run."""
    first = min(int(float(values["start"][0]) * n + 1e-9), n - 1)
    chosen = list(range(first, n, int(values["stride"][0])))
    return _equal(chosen[: int(values["count"][0]) or n], n)


def latest(n: int, values: Values) -> tuple[float, ...]:
    """Weigh the ``k`` latest checkpoints, counted back in steps."""
    chosen = range(n - 1, -1, -int(values["stride"][0]))
    return _equal(list(chosen)[: int(values["k"][0])], n)


def moving(n: int, values: Values) -> tuple[float, ...]:
    """Weigh as ``mean <- decay * mean + (1 - decay) * checkpoint`` does."""
    decay = float(values["decay"][0])
    later = [(1.0 - decay) * decay ** (n - 1 - i) for i in range(1, n)]
    return (decay ** (n - 1), *later)


def preferred(n: int, values: Values) -> tuple[float, ...]:
    """Weigh by preference: a point of the simplex, up to its sum."""
    return tuple(float(mu) for mu in values["mu"])


def step(n: int, values: Values) -> tuple[float, ...]:
    """Add ``lambda`` times the mean difference."""
    return (float(values["lambda"][0]) / n,) * n


def part(n: int, values: Values) -> tuple[float, ...]:
    """Go a part of the way from the base."""
    return (float(values["alpha"][0]),)


def beyond(n: int, values: Values) -> tuple[float, ...]:
    """Go on past the input."""
    return (1.0 + float(values["alpha"][0]),)


def away(n: int, values: Values) -> tuple[float, ...]:
    """Take differences away."""
    return (-float(values["lambda"][0]),) * n


def analogous(n: int, values: Values) -> tuple[float, ...]:
    """Add the third difference and what the second has beyond the first."""
    scale = float(values["lambda"][0])
    return (-scale, scale, scale)
