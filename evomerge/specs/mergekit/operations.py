"""A method of mergekit with its values decided, as an operation of ours.

Two profiles: ``identical`` sets every knob so that the result is mergekit's; with
``default`` what the file does not say is decided by the catalogue, norms and biases by
the operators' role policies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from evomerge.core.digest import Scalar
from evomerge.core.operators import find
from evomerge.core.operators.catalogue import Knob, Operator
from evomerge.core.recipes.recipe import Operation
from evomerge.core.recipes.settings import resolve
from evomerge.core.roles import for_role

Profile = Literal["identical", "default"]
PROFILES: tuple[str, ...] = get_args(Profile)

Shared = Mapping[str, Scalar]
Each = Mapping[str, tuple[Scalar, ...]]

_OPERATORS = {"passthrough": "linear"}
"""Method to operator, where the names differ."""

_DROPPED = ("int8_mask", "eps")
"""Parameters that change no result (``eps`` is checked to be small)."""

_UNUSED = {"task_arithmetic": ("density", "rescale")}
"""Parameters that mergekit takes and does not use."""

_MERGEKIT: Mapping[str, Shared] = {
    "multislerp": {"log_map": False},
    "ties": {
        "scope": "tensor",
        "consensus": "sum",
        "zero_rule": "plus",
        "rounding": "int",
    },
    "breadcrumbs": {"axis": "tensor", "rounding": "int"},
    "breadcrumbs_ties": {"axis": "tensor", "rounding": "int"},
    "dare_linear": {"unit": "element"},
    "dare_ties": {"unit": "element"},
    "della": {"rank_by": "row_rank"},
    "della_linear": {"rank_by": "row_rank"},
    "sce": {"mask_scope": "all", "lambda": 1.0, "floor": 1e-6, "rounding": "int"},
    "ram": {"lambda": 1.0},
    "ramplus_tl": {"lambda": 1.0},
    "model_stock": {"clamp": False, "t_scale": 1.0},
    "arcee_fusion": {"kappa": 1.5},
}
"""Knobs that mergekit has no parameter for, as it has them built in."""


ENTRYWISE = ("linear", "task_arithmetic", "nearswap", "passthrough")
"""Methods that look at one entry at a time: to them it is the same what is one."""


@dataclass(frozen=True, slots=True)
class Decided:
    """A method with its values for one tensor.

    Attributes:
        method: Its name.
        inputs: Names of the inputs, in order, the base among them where it is one.
        base: The base's name, where the method uses one.
        shared: Parameters with one value; in the profile ``default`` those given.
        each: Parameters with a value for every input, or every input but the base.
    """

    method: str
    inputs: tuple[str, ...]
    base: str | None
    shared: tuple[tuple[str, Scalar], ...]
    each: tuple[tuple[str, tuple[Scalar, ...]], ...]

    @property
    def others(self) -> tuple[str, ...]:
        """The inputs that are not the base."""
        return tuple(name for name in self.inputs if name != self.base)


def operator_of(method: str) -> Operator:
    """Return the operator that carries out a method."""
    return find(_OPERATORS.get(method, method))


def knob_of(method: str, parameter: str) -> Knob | None:
    """Return the knob that takes a parameter's value as it is written, if any does."""
    if parameter in _UNUSED.get(method, ()):
        return None
    if parameter == "rescale":
        return None
    return operator_of(method).knob(parameter)


def operation_of(
    decided: Decided, profile: Profile, *, seed: int = 0, role: str | None = None
) -> Operation:
    """Return the operation, every knob of it stated.

    Args:
        decided: The method and its values.
        profile: Whose defaults count.
        seed: Of random masks.
        role: What the tensor is for; read in the profile ``default``.

    Raises:
        RecipeError: The values contradict each other.
    """
    decided = _without_nothing(decided)
    only = _copied(decided)
    if only is not None:
        return stated(Operation("linear", (only,), None, (("normalize", False),)))
    inputs, base = _inputs(decided)
    operator = operator_of(decided.method)
    shared, each = _knobs(decided, profile)
    if operator.random:
        shared["seed"] = seed
    operation = stated(
        Operation(
            operator.name, inputs, base, tuple(shared.items()), tuple(each.items())
        )
    )
    if profile == "default" and role is not None:
        return for_role(operation, role)
    return operation


def _without_nothing(decided: Decided) -> Decided:
    """Leave out inputs of random methods of which nothing is kept.

    Their weights still count where a plain sum is divided by the sum of the weights.
    """
    each, shared = dict(decided.each), dict(decided.shared)
    densities = each.get("density", ())
    if not operator_of(decided.method).random or 0.0 not in densities:
        return decided
    kept = [i for i, density in enumerate(densities) if density != 0.0]
    weights = [float(weight) for weight in each["weight"]]
    if decided.method.endswith("_linear") and shared.get("normalize") and kept:
        part = sum(weights[i] for i in kept) / sum(weights)
        shared["lambda"] = float(shared.get("lambda", 1.0)) * part
    left = [decided.others[i] for i in kept]
    return replace(
        decided,
        inputs=tuple(n for n in decided.inputs if n in left or n == decided.base),
        shared=tuple(shared.items()),
        each=tuple((k, tuple(v[i] for i in kept)) for k, v in each.items()),
    )


def _copied(decided: Decided) -> str | None:
    """Return the input that mergekit copies where there is nothing to merge."""
    if not decided.others:
        return decided.base
    one = len(decided.others) == 1
    if one and decided.method in ("multislerp", "karcher"):
        return decided.others[0]
    return None


def _inputs(decided: Decided) -> tuple[tuple[str, ...], str | None]:
    if decided.method == "slerp":
        assert decided.base is not None
        return (decided.base, *decided.others), None
    return decided.others, decided.base


def _knobs(
    decided: Decided, profile: Profile
) -> tuple[dict[str, Scalar], dict[str, tuple[Scalar, ...]]]:
    method = decided.method
    dropped = (*_DROPPED, *_UNUSED.get(method, ()))
    shared: dict[str, Scalar] = {}
    if profile == "identical":
        shared |= _MERGEKIT.get(method, {})
    given = {k: v for k, v in decided.shared if k not in dropped}
    each = {k: v for k, v in decided.each if k not in dropped}
    translate = _TRANSLATED.get(method)
    if translate is not None:
        given = translate(given)
    if "rescale" in given:
        given["rescale"] = _rescale(method, given["rescale"], profile)
    if method == "passthrough":
        given["normalize"] = False
        each = {"weight": each.get("scale", (1.0,))}
    return shared | given, each


def _rescale(method: str, wanted: Scalar, profile: Profile) -> str:
    if not wanted:
        return "none"
    knob = operator_of(method).knob("rescale")
    own = knob is not None and "inverse" in knob.choices and profile == "default"
    return "inverse" if own else "l1"


def _nuslerp(given: dict[str, Scalar]) -> dict[str, Scalar]:
    flat = given.pop("nuslerp_flatten", True)
    by_column = given.pop("nuslerp_row_wise", False)
    return given | {"axis": "flat" if flat else "out" if by_column else "in"}


def _multislerp(given: dict[str, Scalar]) -> dict[str, Scalar]:
    if "normalize_weights" in given:
        given["normalize"] = given.pop("normalize_weights")
    return given


_TRANSLATED: Mapping[str, Callable[[dict[str, Scalar]], dict[str, Scalar]]] = {
    "nuslerp": _nuslerp,
    "multislerp": _multislerp,
}


def stated(operation: Operation) -> Operation:
    """Return an operation with every knob of it stated.

    Of two knobs that say the same it is the one that is given.

    Raises:
        RecipeError: The operation breaks the catalogue's rules.
    """
    settings = resolve(operation)
    operator = settings.operator
    spare = None
    if operator.either is not None:
        usual, instead = operator.either
        spare = usual if instead in settings.given else instead
    names = [knob.name for knob in operator.knobs if knob.name != spare]
    return Operation(
        operation.operator,
        operation.inputs,
        operation.base,
        tuple((k, settings.shared[k]) for k in names if k in settings.shared),
        tuple((k, settings.each[k]) for k in names if k in settings.each),
    )
