"""One place of a merged model: operations by tensor role, over source layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from evomerge.core.operators.catalogue import RARE_ROLES, ROLES, UNKNOWN, USUAL_ROLES
from evomerge.core.recipes.canonical import canonical
from evomerge.core.recipes.operation import Operation
from evomerge.errors import RecipeError

ANY_ROLE = "*"

Roles = tuple[tuple[str, Operation], ...]


@dataclass(frozen=True, slots=True)
class Slot:
    """One place of the merged model: which layers feed it, and how they are merged.

    Attributes:
        roles: Tensor role to operation, or a tensor's name within the slot, which goes
            before its role; ``"*"`` serves whatever is not named.
        layers: Input name to layer index; empty for the embedding and the head.
        scale: Factor on the hidden state that enters the layer.
    """

    roles: tuple[tuple[str, Operation], ...]
    layers: tuple[tuple[str, int], ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "roles", tuple(sorted(self.roles, key=lambda r: r[0])))
        object.__setattr__(self, "layers", tuple(sorted(self.layers)))

    @classmethod
    def copy_of(
        cls,
        source: str,
        layer: int | None = None,
        *,
        factor: float | None = None,
        scale: float = 1.0,
    ) -> Slot:
        """Return the place that copies one input, or a layer of it.

        Args:
            source: The input.
            layer: Which of its layers; None for the embedding and the head.
            factor: What its values are multiplied by, if anything.
            scale: Factor on the hidden state that enters the layer.
        """
        roles = ((ANY_ROLE, Operation.copy_of(source, factor)),)
        return cls(roles, () if layer is None else ((source, layer),), scale)

    def operation(self, role: str, name: str = "") -> Operation:
        """Return the operation for a tensor of this role and this name in the slot."""
        found = dict(self.roles)
        named = found.get(name) or found.get(role)
        if named is None and role == UNKNOWN:
            raise RecipeError(
                f"No rule covers tensor {name!r}, and the recipe says nothing of "
                "tensors that were not understood: say `unknown: linear` or "
                "`unknown: from_base` to merge it all the same."
            )
        if named is None and role in RARE_ROLES:
            named = found.get(_stands_for_rare(is_layer=bool(self.layers)))
        try:
            return named or found[ANY_ROLE]
        except KeyError:
            raise RecipeError(
                f"No operation for role {role!r}; this slot has {sorted(found)}."
            ) from None

    def layer_of(self, name: str) -> int:
        """Return which layer of this input feeds the slot."""
        return dict(self.layers)[name]

    @property
    def reads(self) -> frozenset[str]:
        """Every input that any operation reads."""
        return frozenset(name for _, op in self.roles for name in op.reads)

    def shaped_like(self, frame: str) -> str:
        """Return the input whose section gives the names of the result's tensors.

        What is not merged, such as a table of positions, comes from it too: from the
        frame, unless only others feed the slot.
        """
        layers = dict(self.layers)
        return frame if frame in layers or not layers else min(layers)

    def canonical(self, usual: str, frame: str) -> tuple[Slot, bool]:
        """Return the slot in its one form, and whether every bit is kept.

        Args:
            usual: The role whose operation serves whatever is not named.
            frame: The input that tensors come from which are not merged.
        """
        roles, exact = _canonical(self.roles, usual)
        made = Slot(roles, (), self.scale)
        kept = tuple((name, at) for name, at in self.layers if name in made.reads)
        is_fed = frame in dict(self.layers) and frame not in made.reads
        return Slot(roles, kept, self.scale), exact and not is_fed

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        out: dict[str, Any] = {"roles": {r: op.to_json() for r, op in self.roles}}
        if self.layers:
            out["layers"] = dict(self.layers)
        if self.scale != 1.0:
            out["scale"] = self.scale
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Slot:
        """Read the plain form."""
        return cls(
            roles=tuple(
                (r, Operation.from_json(op)) for r, op in data["roles"].items()
            ),
            layers=tuple(data.get("layers", {}).items()),
            scale=float(data.get("scale", 1.0)),
        )


def _stands_for_rare(*, is_layer: bool) -> str:
    """Return the role that rare ones are merged as; the norm around the layers."""
    return "bias" if is_layer else "norm"


@lru_cache(maxsize=4096)
def _canonical(roles: Roles, usual: str) -> tuple[Roles, bool]:
    """Return roles in their one form: those that agree with the usual one left out."""
    steps = {role: canonical(operation) for role, operation in roles}
    exact = all(step.exact for step in steps.values())
    found = {role: step.operation for role, step in steps.items()}
    if ANY_ROLE not in found:
        return tuple(found.items()), exact
    by_role = {role: found.get(role, found[ANY_ROLE]) for role in USUAL_ROLES}
    rest = {role: op for role, op in by_role.items() if op != by_role[usual]}
    stands = by_role[_stands_for_rare(is_layer=usual not in ("embed", "head"))]
    rest |= {r: found[r] for r in RARE_ROLES if found.get(r, stands) != stands}
    for name, operation in found.items():
        known = name == ANY_ROLE or name in ROLES
        kept = name == UNKNOWN or rest or operation != by_role[usual]
        if not known and kept:
            rest[name] = operation
    return ((ANY_ROLE, by_role[usual]), *rest.items()), exact
