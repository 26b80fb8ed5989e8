"""What becomes of an operation for tensors that its operator does not suit.

A sign election on four hundred norm gains or an angle between biases means little, so
an operator says in the catalogue which roles it leaves to a plain weighted sum.
"""

from typing import cast, get_args

from evomerge.core.catalogue import ROLES, Policy
from evomerge.core.operators import find
from evomerge.core.recipe import Operation
from evomerge.core.settings import Settings, resolve, slerp_t
from evomerge.errors import RecipeError

_VECTOR_ROLES = ("norm", "bias")
"""Roles that a norm policy speaks for."""


def for_role(
    operation: Operation, role: str, norm_policy: str | None = None
) -> Operation:
    """Return the operation to use for tensors of a role.

    Args:
        operation: What is asked for, for the matrices of the model.
        role: A tensor role of the catalogue.
        norm_policy: ``linear``, ``self`` (or ``same``) or ``base``: what to do with
            norms and biases instead of the operator's own policy.

    Returns:
        The operation itself; its linear form (task arithmetic if it has a base, with
        the same weights, lambda and normalize; else an average); or the base alone.

    Raises:
        RecipeError: The role or policy is unknown, the operation breaks the catalogue's
            rules, or the base is asked for and there is none.
    """
    if role not in ROLES:
        raise RecipeError(f"Unknown role {role!r}; there are {', '.join(ROLES)}.")
    policy = find(operation.operator).policy(role)
    if norm_policy is not None and role in _VECTOR_ROLES:
        policy = _read_policy(norm_policy)
    if policy == "self":
        return operation
    return _base_alone(operation) if policy == "base" else _linear(resolve(operation))


def _read_policy(text: str) -> Policy:
    if text == "same":
        return "self"
    if text not in get_args(Policy):
        raise RecipeError(
            f"norm_policy must be linear, self (or same) or base, but is {text!r}."
        )
    return cast(Policy, text)


def _base_alone(operation: Operation) -> Operation:
    if operation.base is None:
        raise RecipeError(
            f"The policy 'base' needs a base, but operator {operation.operator!r} "
            "names none here. Give it a base or choose the policy 'linear'."
        )
    return Operation("linear", (operation.base,), each=(("weight", (1.0,)),))


def _linear(settings: Settings) -> Operation:
    operation, shared = settings.operation, settings.shared
    kept = {k: shared[k] for k in ("lambda", "normalize") if k in shared}
    if operation.operator in ("slerp", "nuslerp"):
        t = slerp_t(settings)
        weights: tuple[float, ...] = (1.0 - t, t)
    else:
        weights = _weights(settings)
        knob = settings.operator.knob("weight")
        if knob is not None and knob.default is None:
            kept.setdefault("normalize", True)  # shares say the same at any scale
    return Operation(
        "linear" if operation.base is None else "task_arithmetic",
        operation.inputs,
        operation.base,
        shared=tuple(kept.items()),
        each=(("weight", weights),),
    )


def _weights(settings: Settings) -> tuple[float, ...]:
    """Return the weights that the linear form of an operator has."""
    n = len(settings.operation.inputs)
    share = {"whole": 1.0, "mean": 1.0 / n, "half": 0.5}[settings.operator.share]
    own = settings.numbers("weight") if "weight" in settings.each else (1.0,) * n
    return tuple(share * weight for weight in own)
