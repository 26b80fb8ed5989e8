"""The catalogue itself: every operator evomerge knows, with its knobs, as data.

One module per family. Names and knob names are mergekit's where mergekit has the
operator, so that people find what they know; where a default differs from mergekit's,
the importer sets the knob. Operators that trim, mask or rotate treat norms, biases and
routers linearly: these few values sit far from zero, and angles or sizes say little
about them.
"""

from collections.abc import Mapping

from evomerge.core.operators.averages import AVERAGES, MEASURED, SPHERICAL
from evomerge.core.operators.catalogue import Operator
from evomerge.core.operators.selected import PAIRS, SELECTED
from evomerge.core.operators.sparsified import MASKED, TRIMMED
from evomerge.core.operators.spectral import SPECTRAL
from evomerge.core.operators.stages import STAGED
from evomerge.errors import RecipeError

_FAMILIES = (
    AVERAGES,
    MEASURED,
    TRIMMED,
    MASKED,
    SELECTED,
    PAIRS,
    SPHERICAL,
    SPECTRAL,
    STAGED,
)

CATALOGUE: Mapping[str, Operator] = {
    operator.name: operator for family in _FAMILIES for operator in family
}
"""Operator name to operator."""


def find(name: str) -> Operator:
    """Return the operator of this name.

    Raises:
        RecipeError: There is none.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise RecipeError(
            f"Unknown operator {name!r}; the catalogue has {', '.join(CATALOGUE)}."
        ) from None
