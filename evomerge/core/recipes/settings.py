"""An operation checked against the catalogue, with every default filled in.

Whoever builds an operation can check it here before any tensor is read; the arithmetic
reads its knobs from the same place, so a default is written once, in the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from evomerge.core.digest import Scalar
from evomerge.core.operators import find
from evomerge.core.operators.catalogue import Knob, Operator
from evomerge.core.recipes.operation import Operation
from evomerge.errors import RecipeError

_NO_WEIGHT = 1e-6
"""Two weights that sum to less than this give no direction: the middle is taken."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every knob of one operation.

    Attributes:
        shared: Knob name to its one value.
        each: Knob name to one value per input, in the operation's order.
        given: Names of the knobs the operation itself sets; the others are defaults.
    """

    operator: Operator
    operation: Operation
    shared: Mapping[str, Scalar]
    each: Mapping[str, tuple[Scalar, ...]]
    given: frozenset[str]

    def number(self, name: str) -> float:
        """Return a shared knob as a float."""
        return float(self.shared[name])

    def numbers(self, name: str) -> tuple[float, ...]:
        """Return a per-input knob as floats."""
        return tuple(float(value) for value in self.each[name])

    def choice(self, name: str) -> str:
        """Return a shared knob that picks among words."""
        return str(self.shared[name])

    @property
    def takes_model(self) -> bool:
        """Whether the tensors of all layers are taken as one."""
        return self.operator.takes_model(self.shared)

    def flag(self, name: str) -> bool:
        """Return a shared knob that is on or off."""
        return bool(self.shared[name])


@lru_cache(maxsize=4096)
def resolve(operation: Operation) -> Settings:
    """Check an operation against the catalogue and fill in its defaults.

    Remembered per operation, so asking again for every tensor costs next to nothing.

    Raises:
        RecipeError: The operator or a knob is unknown, a value is not allowed, or the
            inputs or the base are not what the operator takes.
    """
    operator = find(operation.operator)
    _check_inputs(operator, operation)
    shared = dict(operation.shared)
    each = dict(operation.each)
    _check_names(operator, shared, each)
    n = len(operation.inputs)
    for knob in operator.knobs:
        given = each.get(knob.name) if knob.per_input else _one(shared, knob.name)
        for value in given or ():
            if not knob.allows(value):
                raise RecipeError(
                    f"Knob {knob.name!r} of {operator.name!r} must be {knob.allowed}, "
                    f"but is {value!r}."
                )
        if given is None and knob.per_input:
            each[knob.name] = (_default(knob, n),) * n
        elif given is None:
            shared[knob.name] = _default(knob, n)
    names = frozenset(dict(operation.shared)) | frozenset(dict(operation.each))
    if operator.either is not None and set(operator.either) <= names:
        raise RecipeError(
            f"Operator {operator.name!r} takes {' or '.join(operator.either)}, not "
            "both: each says what the other is. Leave one of them out."
        )
    settings = Settings(operator, operation, shared, each, names)
    if operator.ranked:
        spreads(settings)
    return settings


def _one(shared: Mapping[str, Scalar], name: str) -> tuple[Scalar, ...] | None:
    return (shared[name],) if name in shared else None


def _default(knob: Knob, n: int) -> Scalar:
    return 1.0 / n if knob.default is None else knob.default


def _check_inputs(operator: Operator, operation: Operation) -> None:
    n = len(operation.inputs)
    if not operator.takes(n):
        raise RecipeError(
            f"Operator {operator.name!r} merges {operator.wanted_inputs} input(s), "
            f"but got {n}: "
            f"{list(operation.inputs)}."
        )
    if operator.needs_base and operation.base is None:
        raise RecipeError(
            f"Operator {operator.name!r} works on differences from a base, but the "
            "operation names none. Set base to one of the recipe's inputs."
        )
    if operation.base is not None and not operator.takes_base:
        raise RecipeError(
            f"Operator {operator.name!r} has no use for the base {operation.base!r}. "
            "List it among the inputs, or leave it out."
        )


def _check_names(
    operator: Operator,
    shared: Mapping[str, Scalar],
    each: Mapping[str, tuple[Scalar, ...]],
) -> None:
    for name in (*shared, *each):
        knob = operator.knob(name)
        if knob is None:
            known = ", ".join(knob.name for knob in operator.knobs)
            raise RecipeError(
                f"Operator {operator.name!r} has no knob {name!r}; it has {known}."
            )
        if knob.per_input != (name in each):
            wanted = "one value per input" if knob.per_input else "a single value"
            raise RecipeError(f"Knob {name!r} of {operator.name!r} takes {wanted}.")


def slerp_t(settings: Settings) -> float:
    """Return where on the arc a spherical operator stands: t, or w2 / (w1 + w2)."""
    if "weight" not in settings.given:
        return settings.number("t")
    first, second = settings.numbers("weight")
    total = first + second
    return 0.5 if abs(total) < _NO_WEIGHT else second / total


def spreads(settings: Settings) -> tuple[float, ...]:
    """Return by how much each input's keep probabilities differ from its density.

    Raises:
        RecipeError: A probability would not lie between 0 and 1.
    """
    densities = settings.numbers("density")
    if "epsilon" not in settings.given:
        parts = settings.numbers("eps_frac")
        pairs = zip(densities, parts, strict=True)
        return tuple(part * min(d, 1.0 - d) for d, part in pairs)
    epsilons = settings.numbers("epsilon")
    for d, epsilon in zip(densities, epsilons, strict=True):
        if d < 1.0 and (d - epsilon <= 0.0 or d + epsilon >= 1.0):
            raise RecipeError(
                f"Operator {settings.operator.name!r} keeps entries with probabilities "
                f"from density - epsilon to density + epsilon, which must lie between "
                f"0 and 1, but are {d - epsilon:g} and {d + epsilon:g}. Use a smaller "
                "epsilon, or eps_frac."
            )
    return epsilons
