"""The catalogue itself: every operator evomerge knows, with its knobs, as data.

One module per family. Names and knob names are mergekit's where mergekit has the
operator, so that people find what they know; where a default differs from mergekit's,
the importer sets the knob. Operators that trim, mask or rotate treat norms, biases and
routers linearly: these few values sit far from zero, and angles or sizes say little
about them.
"""

from collections.abc import Mapping
from dataclasses import replace

from evomerge.core.operators.averages import AVERAGES, MEASURED, SPHERICAL
from evomerge.core.operators.catalogue import Operator
from evomerge.core.operators.selected import PAIRS, SELECTED
from evomerge.core.operators.sparsified import MASKED, TRIMMED
from evomerge.core.operators.spectral import SPECTRAL
from evomerge.core.operators.stages import STAGED
from evomerge.errors import PluginError, RecipeError

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


_STRANGE: dict[str, Operator] = {}
"""Rows of other packages that were asked for, by the names they were asked by."""


def known(name: str) -> Operator | None:
    """Return the operator of this name, perhaps of another package; None if none is.

    Raises:
        PluginError: It is another package's, which may not be loaded or is broken.
    """
    found = CATALOGUE.get(name) or _STRANGE.get(name)
    if found is None:
        from evomerge import plugins

        part = plugins.find("operators", name)
        if part is None:
            return None
        if not isinstance(getattr(part, "row", None), Operator):
            raise PluginError(
                f"{name!r} is no operator: expected a class with `row`, an Operator, "
                "and `merge`, which takes Inputs."
            )
        found = _STRANGE[name] = replace(part.row, name=name)
    return found


def find(name: str) -> Operator:
    """Return the operator of this name, perhaps of another package.

    Raises:
        RecipeError: There is none.
        PluginError: As for :func:`known`.
    """
    found = known(name)
    if found is None:
        raise RecipeError(
            f"Unknown operator {name!r}; the catalogue has {', '.join(CATALOGUE)}."
        )
    return found
