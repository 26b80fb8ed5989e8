"""A mixture written to disk: experts' blocks beside each other, tensor by tensor."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from evomerge.checkpoints import BUFFER, INDEX, Model
from evomerge.checkpoints.mixtures import (
    BLOCK,
    MIXTURE_FAMILIES,
    OUTPUT,
    mixture_config,
)
from evomerge.core.mixture import Expert, Mixture
from evomerge.core.recipes.recipe import Recipe, Slot
from evomerge.errors import CandidateError
from evomerge.merging.output.atomic_folder import atomic_folder
from evomerge.merging.output.shards import Shape, index_json, plan_shards
from evomerge.merging.output.writer import (
    RECIPE_NAME,
    Planned,
    Written,
    frame_files,
)
from evomerge.merging.sources import Sources
from evomerge.merging.views.merged import Merged
from evomerge.merging.views.stored import Where

Entry = tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]
"""Name and shape of a tensor, and what reads it."""


class Assembly:
    """A mixture with its sources and the rows of its routers."""

    def __init__(self, mixture: Mixture, sources: Sources, rows: torch.Tensor) -> None:
        """Open every source.

        Args:
            mixture: What is assembled.
            sources: Where its inputs lie.
            rows: Of the routers: layers, experts (the shared one last), width.

        Raises:
            CheckpointError: A source cannot be opened.
        """
        self.mixture = mixture
        self._sources = sources
        self._rows = rows
        self._dtype: torch.dtype = getattr(torch, mixture.dtype)
        self._family = MIXTURE_FAMILIES[mixture.family]
        self._models = {
            name: Merged(_copy(name, mixture, self._stored(name).n_layers), sources)
            for name in {mixture.base, *(expert.source for expert in mixture.routed)}
        }

    def _stored(self, name: str) -> Model:
        return self._sources.model(dict(self.mixture.inputs)[name].fingerprint)

    @property
    def recipes(self) -> list[Recipe]:
        """What reads each of its models."""
        return [model.recipe for model in self._models.values()]

    @property
    def base(self) -> Merged:
        """What gives everything but the experts."""
        return self._models[self.mixture.base]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The mixture's ``config.json``."""
        mixture, base = self.mixture, self._stored(self.mixture.base)
        return mixture_config(
            base, self._family, len(mixture.experts), mixture.per_token, mixture.dtype
        )

    @cached_property
    def files(self) -> dict[str, Path | str]:
        """Tokenizer and generation settings: the base's."""
        return frame_files(self.base.recipe, self._sources)

    def describe(self) -> dict[str, Shape]:
        """Tell element type and shape of every tensor of ``stream``, in order."""
        return {name: (self._dtype, shape) for name, shape, _ in self._tensors()}

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Give tensor by tensor; let go of one before asking for the next.

        Raises:
            CandidateError: A tensor is not finite, or does not fit the element type.
        """
        for name, _, read in self._tensors():
            yield name, read()

    def _tensors(self) -> Iterator[Entry]:
        for where in ("embed", *range(self.base.n_layers), "head"):
            yield from self._taken_over(where)
            if isinstance(where, int):
                yield from self._mixed(where)

    def _taken_over(self, where: Where) -> Iterator[Entry]:
        for name, part in self.base.section(where).items():
            if name in BLOCK or part.role == BUFFER:
                continue
            full = self.base.layout.full_name(where, name)
            yield full, part.shape, partial(self._read, self.base, where, name)

    def _mixed(self, layer: int) -> Iterator[Entry]:
        family, mixture = self._family, self.mixture
        n = len(mixture.experts)
        rows = {family.router: self._rows[layer, :n]}
        if mixture.shared is not None:
            rows[family.shared_router] = self._rows[layer, n:]
        for name, row in rows.items():
            full = self.base.layout.full_name(layer, name)
            yield full, tuple(row.shape), partial(row.to, self._dtype)
        for i, expert in enumerate(mixture.routed):
            for name in BLOCK:
                own = family.expert(i, name) if i < n else family.shared(name)
                shape = self._models[expert.source].section(layer)[name].shape
                full = self.base.layout.full_name(layer, own)
                yield full, shape, partial(self._expert, expert, i, layer, name)

    def _read(self, model: Merged, where: Where, name: str) -> torch.Tensor:
        return model.merge(where, name, self._sources.space)

    def _expert(
        self, expert: Expert, index: int, layer: int, name: str
    ) -> torch.Tensor:
        scale = expert.residual_scale if name == OUTPUT else 1.0
        stored = self._read(self._models[expert.source], layer, name)
        if scale == 1.0 and not expert.noise_scale:
            return stored
        wide = stored.float()
        if expert.noise_scale:
            noise = torch.randn(wide.shape, generator=self._drawing(index, layer, name))
            wide = wide + noise.to(wide.device) * expert.noise_scale
        made = (wide * scale).to(self._dtype)
        if not bool(torch.isfinite(made).all()):
            raise CandidateError(
                f"Expert {index} of layer {layer}: {name} is not finite in "
                f"{self.mixture.dtype} after its scale and noise. Choose smaller ones."
            )
        return made

    def _drawing(self, index: int, layer: int, name: str) -> torch.Generator:
        said = f"{self.mixture.seed} {index} {layer} {name}".encode()
        number = int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big")
        return torch.Generator().manual_seed(number >> 1)


def write_mixture(
    assembly: Assembly,
    out: Path,
    *,
    shard_bytes: int,
    texts: Mapping[str, str],
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write a mixture as a model folder, whole or not at all.

    Args:
        assembly: What is written.
        out: Folder to make; must not exist.
        shard_bytes: Largest weight file.
        texts: Further text files, by name: the card.
        progress: Told bytes written and bytes in all, after each tensor.

    Raises:
        ExportError: The folder exists, or cannot be written.
        CheckpointError: A source is broken, or changed since it was recorded.
        CandidateError: The weights are not finite.
    """
    plain = assembly.mixture.to_json()
    files = assembly.files
    written = {
        "config.json": json.dumps(assembly.config, indent=2) + "\n",
        RECIPE_NAME: json.dumps(plain, indent=2) + "\n",
        **texts,
        **{name: file for name, file in files.items() if isinstance(file, str)},
    }
    shards = plan_shards(assembly.describe(), shard_bytes)
    if len(shards) > 1:
        written[INDEX] = index_json(shards)
    copies = {name: file for name, file in files.items() if isinstance(file, Path)}
    planned = Planned(assembly.stream, shards, written, copies)
    with atomic_folder(out, planned.size_bytes) as folder:
        planned.write(folder, progress)
    return planned.written(out)


def _copy(name: str, mixture: Mixture, n_layers: int) -> Recipe:
    """Return one input as a recipe that copies it, in the mixture's element type."""
    return Recipe(
        frame=name,
        dtype=mixture.dtype,
        inputs=((name, dict(mixture.inputs)[name]),),
        embed=Slot.copy_of(name),
        slots=tuple(Slot.copy_of(name, i) for i in range(n_layers)),
        head=Slot.copy_of(name),
    )
