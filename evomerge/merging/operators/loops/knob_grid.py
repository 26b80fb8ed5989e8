"""The values of a knob that candidates ask for again and again."""

from evomerge.core.operators.catalogue import Knob
from evomerge.core.space import GRID_STEPS, FloatAxis

_HUNDREDTHS = 100


def drawn_from(knob: Knob) -> tuple[float, ...]:
    """Return what a search over a knob's usual range draws, and hundredths; ascending.

    Args:
        knob: A part of a whole, with a range.
    """
    assert knob.low is not None
    assert knob.high is not None
    axis = FloatAxis("", knob.low, knob.high, log=knob.log)
    drawn = {axis.value(step / GRID_STEPS) for step in range(GRID_STEPS)}
    return tuple(sorted(drawn | {k / _HUNDREDTHS for k in range(1, _HUNDREDTHS)}))
