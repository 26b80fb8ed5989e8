"""A base model with a low-rank adapter folded in, one tensor at a time.

Stands where the sources stand, so whatever reads a plain checkpoint (fused tensors and
tied heads included) reads an adapted one the same way. Nothing is kept: a tensor is
folded when it is read, so memory holds one tensor and its factors.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import torch

from evomerge.checkpoints import Model, Place, TensorInfo
from evomerge.checkpoints.adapter import Factors, Folding, fold
from evomerge.core.recipe import Adapted
from evomerge.errors import CheckpointError
from evomerge.merging.inputs import Stored, View
from evomerge.merging.sources import Sources, is_finite


def open_adapted(source: Adapted, sources: Sources) -> View:
    """Return the view of an adapted model, the same one each time it is asked for.

    Raises:
        CheckpointError: Base or adapter cannot be opened or has changed, or the adapter
            is for another base.
    """
    name = f"{source.fingerprint}+{source.adapter}"
    found: View | None = sources.views.get(name)
    if found is None:
        found = Stored(AdaptedSource(sources, source), name)
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
        self._folding = fold(self._adapter, self._base)
        self._model = _folded(self._base, self._folding)

    def model(self, fingerprint: str) -> Model:
        """Return what is known of the folded model; its tensors cannot be mapped."""
        return self._model

    def tensor(self, fingerprint: str, name: str) -> torch.Tensor:
        """Return a tensor of the folded model; never write into it.

        Raises:
            CheckpointError: The adapter holds NaN or infinity there.
        """
        if whole := self._folding.whole.get(name):
            return self._part(whole)
        stored = name
        layout = self._base.layout
        if name == layout.head and self._base.tied:
            stored = layout.embed
        tensor = self._sources.tensor(self._base.fingerprint, stored)
        pair = self._folding.factors.get(name)
        return tensor if pair is None else self._fold(tensor, pair)

    def _fold(self, tensor: torch.Tensor, pair: Factors) -> torch.Tensor:
        a, b = (
            self._part(part).to(tensor.device, torch.float32)
            for part in (pair.a, pair.b)
        )
        left, right = (a.T, b.T) if pair.is_transposed(tuple(tensor.shape)) else (b, a)
        return torch.addmm(tensor.float(), left, right, alpha=pair.scale)

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
