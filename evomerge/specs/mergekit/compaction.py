"""One operation per tensor, written as few entries of a slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from evomerge.core.blueprint import ROLE_GROUPS
from evomerge.core.recipes.recipe import ANY_ROLE, Operation

ByTensor = Mapping[str, tuple[str, Operation]]
"""Tensor name within the slot, to role and operation."""


def compact(
    tensors: ByTensor, roles: tuple[str, ...]
) -> tuple[tuple[str, Operation], ...]:
    """Return entries of a slot: by role, and by name what its role does not say.

    The first role's operation serves whatever is not named, as in recipes that come
    from a search space; a role without tensors goes with its group.

    Args:
        tensors: At least one tensor.
        roles: Those of the place, the usual one first.
    """
    by_role = _usual(tensors)
    usual = by_role.get(roles[0]) or next(
        by_role[r] for r in (*roles, *by_role) if r in by_role
    )
    entries = {ANY_ROLE: usual}
    for role in dict.fromkeys((*roles, *by_role)):
        operation = by_role.get(role) or _of_group(role, by_role) or usual
        if operation != usual:
            entries[role] = operation
    for name, (role, operation) in tensors.items():
        if operation != by_role[role]:
            entries[name] = operation
    return tuple(entries.items())


def _usual(tensors: ByTensor) -> dict[str, Operation]:
    """Return the most frequent operation of each role; of equals the first."""
    counts: dict[str, Counter[Operation]] = {}
    for _, (role, operation) in sorted(tensors.items()):
        counts.setdefault(role, Counter())[operation] += 1
    return {role: found.most_common(1)[0][0] for role, found in counts.items()}


def _of_group(role: str, by_role: Mapping[str, Operation]) -> Operation | None:
    group = ROLE_GROUPS.get(role)
    for other, operation in by_role.items():
        if ROLE_GROUPS.get(other) == group:
            return operation
    return None
