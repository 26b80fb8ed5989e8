"""Stored models seen as sections of named tensors.

The embedding, each layer and the head are sections; a tensor is found by its section
and its name within it. A merged model offers the same view as a stored one, so recipes
nest without a special case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch

from evomerge.checkpoints import LayerType, Layout, Model, Piece
from evomerge.merging.sources import TORCH_DTYPES

Where = int | Literal["embed", "head", "beside"]
"""A section: the index of a layer, what stands before and after the layers, or what is
no part of the text decoder."""


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of a section.

    Attributes:
        role: One of ``core.catalogue.ROLES``, or ``BUFFER``; beside the decoder the
            kind of part.
        dtype: Element type it is read in.
        pieces: What it is merged by, piece by piece; nothing if as a whole.
    """

    role: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...] = ()


class View(Protocol):
    """A model that tensors can be read from, one at a time."""

    @property
    def n_layers(self) -> int:
        """Layers of the model."""

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding; the head is then not a part."""

    @property
    def config(self) -> dict[str, Any]:
        """A fresh copy of the configuration."""

    @property
    def layout(self) -> Layout:
        """What its parts are called."""

    @property
    def layer_types(self) -> tuple[LayerType, ...]:
        """What each layer computes with its weights."""

    def section(self, where: Where) -> Mapping[str, Part]:
        """Return the tensors of a section by their names within it."""

    def key(self, where: Where, name: str, piece: Piece | None = None) -> str:
        """Return the name that random masks are drawn by.

        It is the stored tensor's; for a piece, the one it would have if stored split.
        """

    def read(self, where: Where, name: str) -> torch.Tensor:
        """Return a tensor; the head of a tied model is its embedding."""


class Reader(Protocol):
    """Gives a checkpoint's tensors by stored names: sources, or an adapted one."""

    def model(self, fingerprint: str) -> Model:
        """Return what is known of the checkpoint."""

    def tensor(self, fingerprint: str, name: str) -> torch.Tensor:
        """Return a tensor; never write into it."""


class Stored:
    """A checkpoint as a view."""

    def __init__(self, sources: Reader, fingerprint: str) -> None:
        self._sources = sources
        self._fingerprint = fingerprint
        model = sources.model(fingerprint)
        self.n_layers = model.n_layers
        self.tied = model.tied
        self.layout = model.layout
        self.layer_types = model.layer_types
        self._sections: dict[Where, dict[str, Part]] = {}
        self._names: dict[tuple[Where, str], str] = {}
        for name, info in model.tensors.items():
            place = model.places[name]
            where: Where = _where(place.section, place.layer)
            part = Part(place.role, info.shape, TORCH_DTYPES[info.dtype], place.pieces)
            self._sections.setdefault(where, {})[place.suffix] = part
            self._names[where, place.suffix] = name
        if self.tied:
            self._names["head", model.layout.head] = model.layout.embed

    @property
    def config(self) -> dict[str, Any]:
        """A fresh copy of the configuration."""
        return dict(self._sources.model(self._fingerprint).config)

    def section(self, where: Where) -> Mapping[str, Part]:
        """Return the tensors of a section by their names within it."""
        return self._sections.get(where, {})

    def key(self, where: Where, name: str, piece: Piece | None = None) -> str:
        """Return the name that random masks are drawn by."""
        if piece is not None:
            return self.layout.full_name(where, piece.name)
        return self._names[where, name]

    def stored_name(self, where: Where, name: str) -> str:
        """Return what a tensor is called where it is stored."""
        return self._names[where, name]

    def read(self, where: Where, name: str) -> torch.Tensor:
        """Return a tensor without copying it; never write into it."""
        return self._sources.tensor(self._fingerprint, self._names[where, name])


def _where(section: str, layer: int | None) -> Where:
    if layer is not None:
        return layer
    return cast("Where", section)
