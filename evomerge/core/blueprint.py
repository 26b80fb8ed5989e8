"""From a point of a search space to the recipe it stands for.

A plan says, for every knob of an operator, which value or which axis decides it at each
depth of the model and for each group of tensor roles; the blueprint reads a point
through its plan and writes the decided merge. Nothing here touches tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from evomerge.core.digest import Scalar
from evomerge.core.operators.catalogue import (
    EMBED_ROLES,
    HEAD_ROLES,
    LAYER_ROLES,
    RARE_ROLES,
    UNKNOWN,
    Choices,
    holds,
)
from evomerge.core.recipes.recipe import (
    ANY_ROLE,
    VERSION,
    Input,
    Operation,
    Recipe,
    Slot,
)
from evomerge.core.trial import Point
from evomerge.errors import SpaceError

RoleGroup = Literal["attn", "mlp", "other"]
"""What a knob that is split by role tells apart."""

ROLE_GROUPS: Mapping[str, RoleGroup] = {
    "attn": "attn",
    "mlp": "mlp",
    "expert": "mlp",
    "embed": "other",
    "head": "other",
    "norm": "other",
    "bias": "other",
    "router": "other",
    "state": "other",
    "scalar": "other",
}

PART_POLICIES = ("linear", "same")
"""How a part beside the decoder may be merged, if it is not taken from one input."""

ForRole = Callable[[Operation, str, str | None, str | None], Operation]
"""Gives the operation for tensors of a role: (operation, role, norm policy, embed
policy); a policy that is None is left to the operator."""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A value that is read from the point: the axis of this name."""

    axis: str


Term = Coordinate | Scalar
"""A value, or where to read it."""

_Decided = tuple[tuple[str, Operation], ...]
_Roles = tuple[tuple[str, Operation], ...]
_Policies = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How one knob runs through the depth of the model.

    Attributes:
        terms: Control points spread evenly over the depth with straight lines between
            them, or one value per group of layers; a single term serves every layer.
        every: Layers per group (the last may be short); None for control points.
        embed: Own value of the embedding; None takes the value at depth 0.
        head: Own value of final norm and head; None takes the value at depth 1.
        grid: Step to which values in between control points are rounded, so statistics
            kept per value stay few; None rounds to twelve digits.
        whole: Values are whole numbers.
    """

    terms: tuple[Term, ...]
    every: int | None = None
    embed: Term | None = None
    head: Term | None = None
    grid: float | None = None
    whole: bool = False

    def at_layer(self, layer: int, n_layers: int, point: Point) -> Scalar:
        """Return the value for a layer, counted from 0."""
        if len(self.terms) == 1:
            return read(self.terms[0], point)
        if self.every is not None:
            return read(self.terms[layer // self.every], point)
        # Depth runs from 0 in the first layer to 1 in the last; exact integers keep
        # control points that fall on a layer free of rounding.
        position, rest = divmod(layer * (len(self.terms) - 1), max(n_layers - 1, 1))
        low = read(self.terms[position], point)
        if rest == 0:
            return low
        high = read(self.terms[position + 1], point)
        if low == high:
            return low
        way = rest / (n_layers - 1) * (float(high) - float(low))
        if self.whole:
            return round(float(low) + way)
        if self.grid is not None:
            way = round(way / self.grid) * self.grid
        return float(f"{float(low) + way:.12g}")

    def at_embed(self, point: Point) -> Scalar:
        """Return the value for the token embedding."""
        return read(self.terms[0] if self.embed is None else self.embed, point)

    def at_head(self, point: Point) -> Scalar:
        """Return the value for the final norm and the head."""
        return read(self.terms[-1] if self.head is None else self.head, point)


@dataclass(frozen=True, slots=True)
class KnobPlan:
    """Where the values of one knob come from.

    Attributes:
        name: The knob's name in the catalogue.
        schedules: Role group to one schedule per input (or a single one for all). The
            key ``"*"`` serves every role group that is not named.
        per_input: The knob has one value per merged input.
        only_with: Choices that it needs to mean anything, as in the catalogue.
    """

    name: str
    schedules: tuple[tuple[str, tuple[Schedule, ...]], ...]
    per_input: bool = False
    only_with: Choices = ()

    def of(self, group: str) -> tuple[Schedule, ...]:
        """Return the schedules of a role group."""
        found = dict(self.schedules)
        return found.get(group) or found[ANY_ROLE]


@dataclass(frozen=True, slots=True)
class OperatorPlan:
    """One operator that the space may choose, with all its knobs planned."""

    operator: str
    inputs: tuple[str, ...]
    base: str | None
    knobs: tuple[KnobPlan, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Every input this operator reads."""
        return Operation(self.operator, self.inputs, self.base).reads

    def decide(self, value: Callable[[Schedule], Scalar]) -> _Decided:
        """Return the operation of each role group, or one for all of them.

        Args:
            value: Reads a schedule at one place of the model.
        """
        split = any(len(knob.schedules) > 1 for knob in self.knobs)
        groups = tuple(dict.fromkeys(ROLE_GROUPS.values())) if split else (ANY_ROLE,)
        return tuple((group, self._operation(group, value)) for group in groups)

    def _operation(self, group: str, value: Callable[[Schedule], Scalar]) -> Operation:
        shared: dict[str, Scalar] = {}
        each: dict[str, tuple[Scalar, ...]] = {}
        for knob in self.knobs:
            if not holds(knob.only_with, shared):
                continue  # what means nothing here is not part of the merge's name
            values = tuple(value(schedule) for schedule in knob.of(group))
            if not knob.per_input:
                shared[knob.name] = values[0]
            else:
                many = len(self.inputs) if len(values) == 1 else 1
                each[knob.name] = values * many
        return Operation(
            self.operator,
            self.inputs,
            self.base,
            tuple(shared.items()),
            tuple(each.items()),
        )


@dataclass(frozen=True)
class MergeBlueprint:
    """Slot i merges layer i of every input; a point decides operator and knobs.

    Attributes:
        frame: Name of the input that gives config and tokenizer.
        dtype: Element type of the merged weights.
        inputs: Name to input, for everything that any plan reads.
        n_layers: Layers of every input and of the result.
        plans: One per operator the space may choose.
        operator: Which plan is followed.
        norm_policy: What happens to norms and biases; None as the operator has it.
        embed_policy: What happens to the embedding and the head; None as the operator
            has it.
        for_role: The catalogue's rule for tensors an operator does not treat itself.
        state_policy: What happens to what recurrent blocks have beside matrices, and
            scalars; None as to norms and biases.
        version: Of the recipes.
        parts: Kind of part beside the text decoder to ``linear``, ``same`` or the input
            it is taken from; the frame's where none is said.
        unknown: The same for tensors that no rule covers; None refuses them.
    """

    frame: str
    dtype: str
    inputs: Mapping[str, Input]
    n_layers: int
    plans: tuple[OperatorPlan, ...]
    operator: Term
    norm_policy: Term | None
    for_role: ForRole
    embed_policy: Term | None = None
    state_policy: Term | None = None
    version: int = VERSION
    parts: tuple[tuple[str, str], ...] = ()
    unknown: str | None = None

    def recipe(self, point: Point) -> Recipe:
        """Return the decided merge.

        Raises:
            SpaceError: The point lacks an axis this blueprint needs.
        """
        plan = self._plan(str(read(self.operator, point)))
        terms = (self.norm_policy, self.embed_policy, self.state_policy)
        norms, embeds, states = (_policy(term, point) for term in terms)
        policies, rare = (norms, embeds), (states, embeds)
        known: dict[_Decided, _Roles] = {}  # layers often agree: decide each case once
        slots = []
        for i in range(self.n_layers):
            decided = plan.decide(_at_layer(i, self.n_layers, point))
            if decided not in known:
                roles = self._roles(decided, policies, LAYER_ROLES)
                if states is not None:
                    roles = (*roles, *self._rare(decided, policies, rare))
                roles = (*roles, *self._unknown(decided))
                known[decided] = roles
            fed = _read_by(known[decided])
            layers = tuple((name, i) for name in sorted(fed))
            slots.append(Slot(known[decided], layers))
        embed = plan.decide(lambda schedule: schedule.at_embed(point))
        head = plan.decide(lambda schedule: schedule.at_head(point))
        ends = {EMBED_ROLES: embed, HEAD_ROLES: head}
        first, last = (
            Slot((*self._roles(said, policies, roles), *self._unknown(said)))
            for roles, said in ends.items()
        )
        parts = tuple((kind, self._part(how, embed)) for kind, how in self.parts)
        used = {self.frame}.union(
            *(_read_by(slot.roles) for slot in (first, *slots, last, Slot(parts)))
        )
        return Recipe(
            frame=self.frame,
            dtype=self.dtype,
            inputs=tuple((name, self.inputs[name]) for name in sorted(used)),
            embed=first,
            slots=tuple(slots),
            head=last,
            version=self.version,
            parts=parts,
        )

    def _unknown(self, decided: _Decided) -> _Roles:
        """Write what becomes of tensors that no rule covers, if that is said."""
        if self.unknown is None:
            return ()
        return ((UNKNOWN, self._part(self.unknown, decided)),)

    def _part(self, how: str, decided: _Decided) -> Operation:
        """Return how a part beside the decoder is merged, as its embedding is."""
        if how not in PART_POLICIES:
            return Operation.copy_of(how)
        groups = dict(decided)
        return self.for_role(groups.get("other") or groups[ANY_ROLE], "norm", how, None)

    def _plan(self, operator: str) -> OperatorPlan:
        for plan in self.plans:
            if plan.operator == operator:
                return plan
        known = ", ".join(plan.operator for plan in self.plans)
        raise SpaceError(f"Operator {operator!r} is not in this space; it has {known}.")

    def _roles(
        self, decided: _Decided, policies: _Policies, roles: tuple[str, ...]
    ) -> _Roles:
        """Write the roles of one place; those that agree share one entry."""
        groups = dict(decided)
        by_role = {
            role: self.for_role(
                groups.get(ROLE_GROUPS[role]) or groups[ANY_ROLE], role, *policies
            )
            for role in roles
        }
        usual = by_role[roles[0]]
        rest = tuple((role, op) for role, op in by_role.items() if op != usual)
        return ((ANY_ROLE, usual), *rest)

    def _rare(self, decided: _Decided, policies: _Policies, rare: _Policies) -> _Roles:
        """Write rare roles where they are not merged as biases are."""
        groups = dict(decided)
        operation = groups.get("other") or groups[ANY_ROLE]
        bias = self.for_role(operation, "bias", *policies)
        found = {role: self.for_role(operation, role, *rare) for role in RARE_ROLES}
        return tuple((role, op) for role, op in found.items() if op != bias)


def _policy(term: Term | None, point: Point) -> str | None:
    return None if term is None else str(read(term, point))


def _read_by(roles: _Roles) -> set[str]:
    """Return the inputs that any operation of a place reads."""
    return {name for _, operation in roles for name in operation.reads}


def read(term: Term, point: Point) -> Scalar:
    """Return a fixed value, or what the point says of its axis.

    Raises:
        SpaceError: The point has no such axis.
    """
    if not isinstance(term, Coordinate):
        return term
    try:
        return point[term.axis]
    except KeyError:
        raise SpaceError(
            f"The point has no axis {term.axis!r}, which its recipe needs; "
            f"it has {', '.join(sorted(point)) or 'none'}."
        ) from None


def _at_layer(layer: int, n_layers: int, point: Point) -> Callable[[Schedule], Scalar]:
    return lambda schedule: schedule.at_layer(layer, n_layers, point)
