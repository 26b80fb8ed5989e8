"""What becomes of an operation for tensors that its operator does not suit.

A sign election on four hundred norm gains or an angle between biases means little, so
an operator says in the catalogue which roles it leaves to a plain weighted sum.
"""

from typing import cast, get_args

from evomerge.core.operators import find
from evomerge.core.operators.catalogue import ROLES, Operator, Policy
from evomerge.core.presets import PRESETS, expand
from evomerge.core.recipes.recipe import Operation
from evomerge.core.recipes.settings import Settings, resolve, slerp_t
from evomerge.errors import RecipeError

_SPOKEN_FOR = {
    "norm": "norm_policy",
    "bias": "norm_policy",
    "state": "norm_policy",
    "scalar": "norm_policy",
    "embed": "embed_policy",
    "head": "embed_policy",
}
"""Role to the policy that speaks for it."""


def for_role(
    operation: Operation,
    role: str,
    norm_policy: str | None = None,
    embed_policy: str | None = None,
) -> Operation:
    """Return the operation to use for tensors of a role.

    Args:
        operation: What is asked for, for the matrices of the model; may be a preset.
        role: A tensor role of the catalogue.
        norm_policy: ``linear``, ``self`` (or ``same``) or ``base``: what to do with
            norms and biases instead of the operator's own policy.
        embed_policy: The same for the embedding and the head.

    Returns:
        The operation itself, a preset expanded; its linear form (task arithmetic if it
        has a base, with the same weights, lambda and normalize; else an average); or
        the base alone.

    Raises:
        RecipeError: The role or policy is unknown, the operation breaks the catalogue's
            rules, or the base is asked for and there is none.
    """
    if role not in ROLES:
        raise RecipeError(f"Unknown role {role!r}; there are {', '.join(ROLES)}.")
    preset = PRESETS.get(operation.operator)
    operator = find(operation.operator) if preset is None else preset.operator
    policy = _usual_policy(operator, operation, role)
    asked = {"norm_policy": norm_policy, "embed_policy": embed_policy}
    name = _SPOKEN_FOR.get(role)
    if name is not None and (text := asked[name]) is not None:
        policy = _read_policy(text, name)
    if policy == "base":
        return _base_alone(operation)
    # A preset, and an operator that suits every role, is a weighted sum itself.
    if policy == "self" or preset is not None or not operator.policies:
        return expand(operation)
    return _linear(resolve(operation))


def _usual_policy(operator: Operator, operation: Operation, role: str) -> Policy:
    """Return what the catalogue says of a role, given the operation's knobs."""
    if (
        _SPOKEN_FOR.get(role) == "embed_policy"
        and operator.spectral_with
        and operator.is_spectral(resolve(operation).shared)
    ):
        return "linear"
    return operator.policy(role)


def _read_policy(text: str, name: str) -> Policy:
    if text == "same":
        return "self"
    if text not in get_args(Policy):
        raise RecipeError(
            f"{name} must be linear, self (or same) or base, but is {text!r}."
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
    if settings.operator.share == "stages":
        kept["normalize"] = not _adds_up(settings)
    if settings.operator.share == "arc":
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
    shares = {"whole": 1.0, "mean": 1.0 / n, "half": 0.5, "stages": 1.0}
    share = shares[settings.operator.share]
    own = settings.numbers("weight") if "weight" in settings.each else (1.0,) * n
    return tuple(share * weight for weight in own)


def _adds_up(settings: Settings) -> bool:
    """Tell whether the stages give the size of a sum and not that of one input."""
    return settings.choice("reduce") == "sum" and settings.choice("post") == "none"
