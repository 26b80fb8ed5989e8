"""The methods of mergekit 0.1.5: what they take, and which parameters they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evomerge.core.digest import Scalar
from evomerge.specs.mergekit.settings import Kind

Scope = Literal["shared", "input", "non_base"]
"""One value; or one for every input; or one for every input but the base."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a method.

    Attributes:
        default: mergekit's; None if it has none, so that it must be given.
        optional: It may be left out although there is no default.
    """

    name: str
    kind: Kind
    scope: Scope
    default: Scalar | None = None
    optional: bool = False

    @property
    def required(self) -> bool:
        """It must be given."""
        return self.default is None and not self.optional


@dataclass(frozen=True, slots=True)
class Method:
    """A method of mergekit.

    Attributes:
        base: What the base is: an input like any other (``ignored``), ``required``, or
            used where it is given (``optional``).
        least: Fewest inputs, the base among them.
        most: Most inputs, the base among them.
        least_others: Fewest inputs without the base.
        most_others: Most inputs without the base.
    """

    name: str
    base: Literal["ignored", "required", "optional"]
    parameters: tuple[Parameter, ...] = ()
    least: int = 1
    most: int | None = None
    least_others: int = 0
    most_others: int | None = None

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of this name, if there is one."""
        return next((p for p in self.parameters if p.name == name), None)

    def count_problem(self, n: int, n_others: int) -> str | None:
        """Say what is wrong with a number of inputs, if anything is."""
        for count, least, most, what in (
            (n, self.least, self.most, "inputs, the base included"),
            (n_others, self.least_others, self.most_others, "inputs beside the base"),
        ):
            if self.base == "ignored":
                what = "inputs"
            if count < least or (most is not None and count > most):
                wanted = f"at least {least}" if most is None else f"exactly {most}"
                return f"{self.name} takes {wanted} {what}, got {count}"
        return None


def _shared(name: str, kind: Kind, default: Scalar | None = None) -> Parameter:
    return Parameter(name, kind, "shared", default)


def _other(name: str, default: Scalar | None = None) -> Parameter:
    return Parameter(name, "float", "non_base", default)


def _arithmetic(
    name: str, *, normalize: bool, rescale: bool, more: tuple[Parameter, ...] = ()
) -> Method:
    return Method(
        name,
        "required",
        (
            _other("weight"),
            _other("density", 1.0),
            *more,
            _shared("lambda", "float", 1.0),
            _shared("normalize", "bool", normalize),
            _shared("rescale", "bool", rescale),
            _shared("int8_mask", "bool", False),
        ),
    )


_GAMMA = (_other("gamma", 0.01),)
_EPSILON = (_other("epsilon", 0.15),)
_ACTIVE = _shared("epsilon", "float", 1e-5)

_ALL = (
    Method(
        "linear",
        "ignored",
        (Parameter("weight", "float", "input"), _shared("normalize", "bool", True)),
    ),
    Method("slerp", "required", (_shared("t", "float"),), least=2, most=2),
    Method(
        "nuslerp",
        "optional",
        (
            _other("weight"),
            _shared("nuslerp_row_wise", "bool", False),
            _shared("nuslerp_flatten", "bool", True),
        ),
        least_others=2,
        most_others=2,
    ),
    Method(
        "multislerp",
        "optional",
        (
            _other("weight"),
            _shared("normalize_weights", "bool", True),
            _shared("eps", "float", 1e-8),
        ),
        least_others=1,
    ),
    Method(
        "karcher",
        "ignored",
        (_shared("max_iter", "int", 10), _shared("tol", "float", 1e-5)),
    ),
    _arithmetic("task_arithmetic", normalize=False, rescale=False),
    _arithmetic("ties", normalize=True, rescale=False),
    _arithmetic("dare_ties", normalize=False, rescale=True),
    _arithmetic("dare_linear", normalize=False, rescale=True),
    _arithmetic("breadcrumbs", normalize=False, rescale=False, more=_GAMMA),
    _arithmetic("breadcrumbs_ties", normalize=False, rescale=False, more=_GAMMA),
    _arithmetic("della", normalize=True, rescale=True, more=_EPSILON),
    _arithmetic("della_linear", normalize=False, rescale=True, more=_EPSILON),
    Method(
        "sce",
        "required",
        (_shared("select_topk", "float", 1.0), _shared("int8_mask", "bool", False)),
    ),
    Method("ram", "required", (_ACTIVE,)),
    Method(
        "ramplus_tl",
        "required",
        (_shared("r", "float", 0.1), _shared("alpha", "float", 0.2), _ACTIVE),
    ),
    Method(
        "model_stock", "required", (_shared("filter_wise", "bool", False),), least=3
    ),
    Method("nearswap", "required", (_shared("t", "float"),), least=2, most=2),
    Method("arcee_fusion", "required", least=2, most=2),
    Method(
        "passthrough",
        "ignored",
        (Parameter("scale", "float", "input", optional=True),),
        most=1,
    ),
)

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}
"""Method name to method."""
