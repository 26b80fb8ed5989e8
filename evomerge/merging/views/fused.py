"""Fused tensors, cut into the pieces they are merged by or put together as one whole.

A piece is merged by itself, as the split model stores it. A recipe with ``fused`` goes
the other way, as mergekit does: all experts of a layer, and a fused tensor as it is
stored, are merged as the one tensor that transformers holds them in; thresholds, norms
and angles are then those of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from evomerge.checkpoints import Piece
from evomerge.checkpoints.layers.pieces import HELD_APART, together
from evomerge.core.recipes.operation import Operation
from evomerge.merging.operators import apply
from evomerge.merging.views.stored import Part, Where


def cut(tensor: torch.Tensor, piece: Piece | None) -> torch.Tensor:
    """Return a piece as the split model would store it; a copy only where it must be.

    Args:
        tensor: As stored: [rows, columns], [rows], or with the experts in front.
        piece: What to take; None for the tensor as it is.

    Returns:
        [out, in] or [out], contiguous.
    """
    if piece is None:
        return tensor
    window = _window(tensor, piece)
    return window.flatten(0, 1).contiguous()


def paste(whole: torch.Tensor, piece: Piece | None, merged: torch.Tensor) -> None:
    """Write a merged piece to its place, cast to the element type there.

    Args:
        whole: As stored, contiguous; written into.
        piece: Where to write; None for the whole tensor.
        merged: [out, in] or [out], or shaped like the whole tensor.
    """
    window = whole if piece is None else _window(whole, piece)
    window.copy_(merged.reshape(window.shape))


def _window(tensor: torch.Tensor, piece: Piece) -> torch.Tensor:
    """Return the piece as a view: [groups, rows in each, ...]."""
    if piece.expert is not None:
        tensor = tensor[piece.expert]
    if piece.transposed:
        tensor = tensor.T
    rows = tensor.unflatten(0, (piece.groups, -1))[:, piece.start : piece.stop]
    return rows.transpose(1, 2) if piece.turned else rows


@dataclass(frozen=True, slots=True)
class Whole:
    """What is merged as one.

    Attributes:
        name: What transformers calls it, within the layer.
        rows: Stored tensor to its first row and the one after its last, in order.
        shape: Of the whole: ``(experts, rows of each, columns)``, or that of a tensor
            stored as it is held.
    """

    name: str
    rows: Mapping[str, tuple[int, int]]
    shape: tuple[int, ...]

    def put_together(self, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
        """Return the whole of one input."""
        return torch.cat([_flat(read(name)) for name in self.rows]).view(self.shape)

    def part(self, whole: torch.Tensor, name: str) -> torch.Tensor:
        """Return the rows of a stored tensor: shape ``(rows, columns)``."""
        first, end = self.rows[name]
        return _flat(whole)[first:end]


def wholes_of(section: Mapping[str, Part], family: str) -> dict[str, Whole]:
    """Return what the tensors of a layer are merged with, by their names within it.

    Args:
        section: The layer.
        family: The ``model_type`` of the configuration.
    """
    alone = {name: (name,) for name, part in section.items() if part.pieces}
    alone = {} if family in HELD_APART else alone
    out: dict[str, Whole] = {}
    for whole, members in (alone | dict(together(section, family))).items():
        rows, first = {}, 0
        for name in members:
            end = first + math.prod(section[name].shape[:-1])
            rows[name], first = (first, end), end
        shape = section[members[0]].shape
        if len(members) > 1:
            n_experts = len({name.rsplit(".", 2)[0] for name in members})
            shape = (n_experts, end // n_experts, shape[-1])
        out |= dict.fromkeys(members, Whole(whole, rows, tuple(shape)))
    return out


Read = Callable[[Where, str, str], torch.Tensor]
"""Layer, tensor and input, to what the input has for it."""


class Wholes:
    """Merges wholes when one of their tensors is asked for, and keeps a layer's."""

    def __init__(
        self,
        of: Mapping[Where, Mapping[str, Whole]],
        read: Read,
        operation: Callable[[Where, Whole], tuple[Operation, str]],
    ) -> None:
        """Remember what is merged as one.

        Args:
            of: By layer and tensor.
            read: Reads a tensor of an input.
            operation: Tells what a whole is merged by, and its key.
        """
        self._of = of
        self._read = read
        self._operation = operation
        self._where: Where | None = None
        self._merged: dict[str, torch.Tensor] = {}

    def find(self, where: Where, name: str) -> Whole | None:
        """Return what a tensor is merged with, if it is not merged alone."""
        return self._of.get(where, {}).get(name)

    def names(self, where: Where, name: str) -> list[str]:
        """Return the tensors that are merged with one, itself among them."""
        whole = self.find(where, name)
        return [name] if whole is None else list(whole.rows)

    def rows(self, where: Where, name: str) -> torch.Tensor:
        """Return the merged rows of a tensor that is part of a whole."""
        if where != self._where:
            self._where, self._merged = where, {}
        whole = self._of[where][name]
        if whole.name not in self._merged:
            self._merged[whole.name] = self._merge(where, whole)
        return whole.part(self._merged[whole.name], name)

    def _merge(self, where: Where, whole: Whole) -> torch.Tensor:
        operation, key = self._operation(where, whole)

        def read(source: str) -> torch.Tensor:
            return whole.put_together(lambda name: self._read(where, name, source))

        tensors = [read(source) for source in operation.inputs]
        base = None if operation.base is None else read(operation.base)
        return apply(operation, tensors, base, key)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1, tensor.shape[-1])
