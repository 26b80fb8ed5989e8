"""A base model with a low-rank adapter folded in, one tensor at a time.

Stands where the sources stand, so whatever reads a plain checkpoint (fused tensors and
tied heads included) reads an adapted one the same way. Nothing is kept: a tensor is
folded when it is read, so memory holds one tensor and its factors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from evomerge.checkpoints import Model, Place, TensorInfo
from evomerge.checkpoints.adapted import fold
from evomerge.checkpoints.adapters.adapter import Folding
from evomerge.core.recipes.recipe import Adapted
from evomerge.errors import CheckpointError
from evomerge.merging.operators.loops.arrays import is_finite
from evomerge.merging.sources import Sources
from evomerge.merging.views.stored import Stored, Where


@dataclass(frozen=True, slots=True)
class LowRank:
    """A tensor of the base, and what an adapter adds to it: ``scale * left @ right``.

    Attributes:
        base: Shape ``(rows, columns)``, or any where there are no factors.
        factors: Shapes ``(rows, rank)`` and ``(rank, columns)``, fp32; None where the
            adapter leaves the tensor alone.
    """

    base: torch.Tensor
    factors: tuple[torch.Tensor, torch.Tensor] | None = None
    scale: float = 1.0

    def folded(self) -> torch.Tensor:
        """Return the sum, rounded once: fp32, or the base itself."""
        if self.factors is None:
            return self.base
        return torch.addmm(self.base.float(), *self.factors, alpha=self.scale)


class AdaptedModel(Stored):
    """A base with an adapter folded in as a view, of which the factors can be had."""

    def __init__(self, source: AdaptedSource, name: str) -> None:
        super().__init__(source, name)
        self._source = source

    @property
    def folding(self) -> Folding:
        """What the adapter changes in the base."""
        return self._source.folding

    def change(self, where: Where, name: str) -> LowRank | None:
        """Return what the adapter adds to a tensor; None if it takes its place.

        Raises:
            CheckpointError: The adapter holds NaN or infinity there.
        """
        return self._source.change(self.stored_name(where, name))


def open_adapted(source: Adapted, sources: Sources) -> AdaptedModel:
    """Return the view of an adapted model, the same one each time it is asked for.

    Raises:
        CheckpointError: Base or adapter cannot be opened or has changed, or the adapter
            is for another base.
    """
    name = f"{source.fingerprint}+{source.adapter}"
    found: AdaptedModel | None = sources.views.get(name)
    if found is None:
        found = AdaptedModel(AdaptedSource(sources, source), name)
        sources.views[name] = found
    sources.check_unchanged(source.fingerprint)
    sources.check_unchanged(source.adapter)
    return found


class AdaptedSource:
    """Reads ``W + s B A`` (2106.09685, section 4.1) where sources read ``W``.

    Changed tensors come in float32, the sum rounded once: what PEFT's
    ``merge_and_unload`` gives for a base in float32, and for a narrower base the same
    without its rounding. Tensors that the adapter leaves alone, and those it replaces,
    come as they are stored.
    """

    def __init__(self, sources: Sources, source: Adapted) -> None:
        """Open base and adapter and lay one over the other.

        Raises:
            CheckpointError: Either cannot be opened, or the adapter is for another
                base.
        """
        self._sources = sources
        self._base = sources.model(source.fingerprint)
        self._adapter = sources.adapter(source.adapter)
        self.folding = fold(self._adapter, self._base)
        self._model = _folded(self._base, self.folding)

    def model(self, fingerprint: str) -> Model:
        """Return what is known of the folded model; its tensors cannot be mapped."""
        return self._model

    def tensor(self, fingerprint: str, name: str) -> torch.Tensor:
        """Return a tensor of the folded model; never write into it.

        Raises:
            CheckpointError: The adapter holds NaN or infinity there.
        """
        change = self.change(name)
        if change is None:
            return self._part(self.folding.whole[name])
        return change.folded()

    def change(self, name: str) -> LowRank | None:
        """Return what the adapter adds to a tensor; None if it takes its place.

        Raises:
            CheckpointError: The adapter holds NaN or infinity there.
        """
        if name in self.folding.whole:
            return None
        stored = name
        layout = self._base.layout
        if name == layout.head and self._base.tied:
            stored = layout.embed
        tensor = self._sources.tensor(self._base.fingerprint, stored)
        pair = self.folding.factors.get(name)
        if pair is None:
            return LowRank(tensor)
        a, b = (
            self._part(part).to(tensor.device, torch.float32)
            for part in (pair.a, pair.b)
        )
        turned = pair.is_transposed(tuple(tensor.shape))
        return LowRank(tensor, (a.T, b.T) if turned else (b, a), pair.scale)

    def _part(self, info: TensorInfo) -> torch.Tensor:
        part = self._sources.adapter_tensor(self._adapter.fingerprint, info.name)
        if not is_finite(part):
            raise CheckpointError(
                f"{self._adapter.path}: tensor {info.name!r} holds NaN or infinity. "
                "Use another copy of this adapter."
            )
        return part


def _folded(base: Model, folding: Folding) -> Model:
    """Return the base as the adapter leaves it: element types, and whether tied."""
    tensors: dict[str, TensorInfo] = dict(base.tensors)
    places = dict(base.places)
    if folding.unties:
        embed, head = base.layout.embed, base.layout.head
        tensors[head] = replace(tensors[embed], name=head)
        places[head] = Place("head", None, "head", head)
    for name in folding.factors:
        tensors[name] = replace(tensors[name], dtype="F32")
    for name, info in folding.whole.items():
        tensors[name] = replace(tensors[name], dtype=info.dtype)
    return replace(
        base,
        tensors=MappingProxyType(tensors),
        places=MappingProxyType(places),
        tied=base.tied and not folding.unties,
    )
