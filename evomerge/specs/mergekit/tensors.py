"""The tensors of a merge before it is made: names, roles and shapes of every part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from evomerge.checkpoints import BUFFER, Model
from evomerge.checkpoints.layers.pieces import called, together
from evomerge.core.recipes.recipe import DTYPES, STORED, Slot
from evomerge.specs.sources import element_types

Where = int | str
"""A layer's index, or ``embed`` or ``head``."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a model.

    Attributes:
        name: In the model.
        suffix: Within its part; the whole name outside the layers.
        family: The model's.
    """

    name: str
    suffix: str
    role: str
    shape: tuple[int, ...]
    family: str

    @property
    def called(self) -> str:
        """The name mergekit has for it: the one of transformers."""
        return called(self.name, self.family)

    def called_in(self, layer: int | str) -> str:
        """Return the name mergekit has for it in another layer."""
        return called(self.in_layer(layer), self.family)

    def in_layer(self, layer: int | str) -> str:
        """Return the name it has in another layer."""
        prefix = self.name.removesuffix(f".{self.suffix}").rpartition(".")[0]
        return f"{prefix}.{layer}.{self.suffix}"


@dataclass(frozen=True)
class Parts:
    """A model's tensors by the part they belong to."""

    model: Model

    @property
    def _family(self) -> str:
        return str(self.model.config.get("model_type", ""))

    @cached_property
    def _parts(self) -> Mapping[Where, dict[str, Tensor]]:
        out: dict[Where, dict[str, Tensor]] = {}
        for name, place in self.model.places.items():
            info = self.model.tensors.get(name)
            if place.role == BUFFER or info is None:  # a tied head is not stored
                continue
            where: Where = place.section if place.layer is None else place.layer
            tensor = Tensor(name, place.suffix, place.role, info.shape, self._family)
            out.setdefault(where, {})[place.suffix] = tensor
        return out

    def of(self, where: Where) -> Mapping[str, Tensor]:
        """Return the tensors of a part by their suffix; a tied head is not listed."""
        return self._parts.get(where, {})

    def get(self, where: Where, suffix: str) -> Tensor | None:
        """Return a tensor; the head of a tied model is its embedding."""
        found = self.of(where).get(suffix)
        if found is None and where == "head" and suffix == self.model.layout.head:
            embed = self.of("embed").get(self.model.layout.embed)
            if self.model.tied and embed is not None:
                return Tensor(suffix, suffix, "head", embed.shape, self._family)
        return found

    @cached_property
    def types(self) -> frozenset[str]:
        """The element types that its weights are stored in."""
        return frozenset(element_types(self.model))


def holds_fused(model: Model) -> bool:
    """Tell whether transformers holds tensors as one that are merged one by one."""
    family = str(model.config.get("model_type", ""))
    return any(
        place.pieces or together([place.suffix], family)
        for place in model.places.values()
        if place.layer is not None
    )


def kept_type(models: Mapping[str, Parts], slots: Iterable[Slot]) -> str:
    """Return the element type of a merge where a file says none.

    Each tensor has the type that holds those of all that it is merged from; that is
    one name where it is one type for all.
    """
    found: set[str] = set()
    for operation in {op for slot in slots for _, op in slot.roles}:
        types = {one for name in operation.reads for one in models[name].types}
        if any(len(models[name].types) > 1 for name in operation.reads):
            return STORED
        found |= types if len(types) == 1 else {DTYPES[0]}
    (kept, *others) = sorted(found) or DTYPES[:1]
    if others:
        return STORED
    return kept if kept in DTYPES else DTYPES[0]
