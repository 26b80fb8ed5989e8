"""An operation written as another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.core.digest import Scalar
from evomerge.core.operators import find
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.settings import Settings

Knobs = Mapping[str, Scalar | tuple[Scalar, ...]]


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What an operation is written as, and whether every bit of the merge is kept."""

    operation: Operation
    exact: bool = True


Rule = Callable[[Settings], Rewritten | None]
"""Writes an operation as another one; None where it does not apply."""


def becomes(
    settings: Settings, operator: str, knobs: Knobs, *, exact: bool = True
) -> Rewritten:
    """Write an operation with another operator, or with other knobs.

    Args:
        settings: Gives inputs, base, and those of its stated knobs that the operator
            has too.
        operator: The operator to write.
        knobs: Those that differ; a tuple is one value per input.
        exact: The merge keeps every bit.
    """
    known = {knob.name for knob in find(operator).knobs}
    known &= settings.given
    shared = {k: v for k, v in settings.shared.items() if k in known}
    each = {k: v for k, v in settings.each.items() if k in known}
    for name, value in knobs.items():
        if isinstance(value, tuple):
            each[name] = value
        else:
            shared[name] = value
    operation = settings.operation
    base = operation.base if find(operator).takes_base else None
    return Rewritten(
        Operation(
            operator,
            operation.inputs,
            base,
            tuple(shared.items()),
            tuple(each.items()),
        ),
        exact,
    )


def same_but(settings: Settings, knobs: Knobs, *, exact: bool = True) -> Rewritten:
    """Write an operation with other knobs."""
    return becomes(settings, settings.operator.name, knobs, exact=exact)


def only(settings: Settings, kept: Sequence[int], *, exact: bool = False) -> Rewritten:
    """Write an operation over some of its inputs."""
    operation = settings.operation
    return Rewritten(
        Operation(
            operation.operator,
            tuple(operation.inputs[i] for i in kept),
            operation.base,
            operation.shared,
            tuple((k, tuple(values[i] for i in kept)) for k, values in operation.each),
        ),
        exact,
    )


def copy_of(name: str) -> Rewritten:
    """Write the copy of one input; a zero may lose its sign on the way there."""
    return Rewritten(Operation.copy_of(name), exact=False)


def base_alone(settings: Settings) -> Rewritten:
    """Write the copy of the base."""
    base = settings.operation.base
    assert base is not None
    return copy_of(base)
