"""Merges as a search makes them: sources in memory, one candidate after another.

Every candidate has other weights and densities than those before. Results are written
to memory that is used again, and go nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from merging.methods import Merge

from evomerge.core.recipes.recipe import Operation, Recipe, Slot
from evomerge.merging.materialise import materialise
from evomerge.merging.sources import Sources
from evomerge.specs.mergekit import Profile
from evomerge.specs.recipes import load_recipe

_DRAWN = {
    "weight": (0.2, 0.8),
    "density": (0.3, 0.7),
    "t": (0.1, 0.9),
    "select_topk": (0.3, 0.7),
    "lambda": (0.3, 1.2),
    "lambda_t": (0.2, 0.8),
    "kappa": (1.0, 2.0),
    "p": (0.3, 0.7),
    "r": (0.05, 0.3),
}
"""What differs between candidates, and between which values; in steps of 0.01."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How candidates are made.

    Attributes:
        profile: What a method does that the configuration does not say.
        device: Where sources and results are.
    """

    profile: Profile
    device: str


class Candidates:
    """Merges of the same sources with other knobs."""

    def __init__(self, recipe: Recipe, sources: Sources) -> None:
        self._recipe = recipe
        self._sources = sources
        self._device = str(sources.device)
        self._rng = np.random.default_rng(0)

    @property
    def n_reads(self) -> int:
        """Checkpoints that are read."""
        return max(len(op.reads) for op in _operations(self._recipe))

    def next(self) -> float:
        """Merge the next candidate; return the seconds it took."""
        recipe = self._draw()
        settle(self._device)
        began = time.perf_counter()
        for _ in materialise(recipe, self._sources, reuse=True):
            pass
        settle(self._device)
        return time.perf_counter() - began

    def _draw(self) -> Recipe:
        known: dict[Operation, Operation] = {}

        def new(slot: Slot) -> Slot:
            roles = []
            for role, operation in slot.roles:
                if operation not in known:
                    known[operation] = self._vary(operation)
                roles.append((role, known[operation]))
            return replace(slot, roles=tuple(roles))

        slots = tuple(new(slot) for slot in self._recipe.slots)
        embed, head = new(self._recipe.embed), new(self._recipe.head)
        return replace(self._recipe, embed=embed, slots=slots, head=head)

    def _vary(self, operation: Operation) -> Operation:
        def draw(name: str) -> float:
            low, high = _DRAWN[name]
            return round(float(self._rng.uniform(low, high)), 2)

        each = tuple(
            (name, tuple(draw(name) for _ in values) if name in _DRAWN else values)
            for name, values in operation.each
        )
        shared = tuple(
            (name, draw(name) if name in _DRAWN else value)
            for name, value in operation.shared
        )
        return replace(operation, each=each, shared=shared)


def settle(device: str) -> None:
    """Wait until a device has done all it was asked for."""
    if device != "cpu":
        torch.cuda.synchronize(device)


@contextmanager
def candidates(
    folder: Path, merge: Merge, setting: Setting, scratch: Path
) -> Iterator[Candidates]:
    """Open the sources of a merge and bring them to memory.

    Args:
        folder: Of the checkpoints.
        merge: What to merge.
        setting: How.
        scratch: Empty folder, for statistics of the sources.
    """
    file = scratch / "recipe.yml"
    file.write_text(merge.config(folder))
    recipe, paths = load_recipe(file, profile=setting.profile)
    with Sources(paths, cache_dir=scratch, device=setting.device) as sources:
        for fingerprint in paths:
            for name in sources.model(fingerprint).tensors:
                sources.tensor(fingerprint, name).view(torch.int16).sum()
        yield Candidates(recipe, sources)


def _operations(recipe: Recipe) -> Iterator[Operation]:
    for _, slot in recipe.places():
        for _, operation in slot.roles:
            yield operation
