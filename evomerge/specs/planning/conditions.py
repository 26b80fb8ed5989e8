"""Knobs that only mean something beside certain choices of other knobs.

Where such a choice is open, the knob's axis is conditional on it; where it is decided
otherwise, the knob opens no axis at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.core.blueprint import Coordinate, Term
from evomerge.core.operators.catalogue import Choices, Operator
from evomerge.core.space import Condition
from evomerge.specs.planning.knobs import Draft


@dataclass(frozen=True, slots=True)
class Never:
    """The knob means nothing here.

    Attributes:
        because: What it would need, in words.
    """

    because: str


Guard = Condition | Never | None
"""When a knob means something; None for always."""


def guard(needs: Choices, drafts: Mapping[str, Draft]) -> Guard:
    """Return when something is as a knob needs it to mean something.

    Of several open choices the first guards the axes; a choice that varies over the
    model guards nothing, as the knob may matter somewhere.

    Args:
        needs: Choices of other knobs that must hold.
        drafts: Plans of the operator's knobs that were planned before it.
    """
    found: Condition | None = None
    for name, values in needs:
        term = _single(drafts[name])
        if isinstance(term, Coordinate):
            found = found or Condition(term.axis, values)
        elif term is not None and term not in values:
            wanted = " or ".join(str(value) for value in values)
            return Never(f"{name}: {wanted}, which is {term}")
    return found


def in_order(operators: Sequence[Operator]) -> list[str]:
    """Return the names of all knobs, those that others depend on before them."""
    needs: dict[str, list[str]] = {}
    for operator in operators:
        for knob in operator.knobs:
            needs.setdefault(knob.name, []).extend(name for name, _ in knob.only_with)
    return list(_visited(needs, needs))


def _visited(names: Iterable[str], needs: Mapping[str, list[str]]) -> dict[str, None]:
    out: dict[str, None] = {}
    for name in names:
        out |= _visited(needs[name], needs)
        out[name] = None
    return out


def _single(draft: Draft) -> Term | None:
    """Return the one term of a knob; None where it varies over the model."""
    schedules = {schedule for _, each in draft.plan.schedules for schedule in each}
    (first, *others) = schedules
    if others or len(first.terms) > 1 or first.embed != first.head:
        return None
    return first.terms[0] if first.embed is None else None
