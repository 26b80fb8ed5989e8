"""Merges as a search makes them: sources in memory, one candidate after another.

Every candidate has other weights and densities than those before. Results are written
to memory that is used again, and go nowhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from merging.methods import Merge

from evomerge.core.recipe import Operation, Recipe, Slot
from evomerge.merging.materialise import materialise
from evomerge.merging.operators import apply_into
from evomerge.merging.sources import Sources
from evomerge.specs.mergekit import Profile
from evomerge.specs.recipes import load_recipe
from evomerge.testing.memos import CountingMemo

Through = Literal["recipe", "operators"]
Run = Callable[[Recipe], None]

_DRAWN = {"weight": (0.2, 0.8), "density": (0.3, 0.7), "t": (0.1, 0.9)} | {
    "select_topk": (0.3, 0.7)
}
"""What differs between candidates, and between which values; in steps of 0.01."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How candidates are made.

    Attributes:
        profile: What a method does that the configuration does not say.
        through: ``recipe``: the materialiser, CPU only; ``operators``: the operators
            alone, one tensor after another.
        device: Where sources and results are.
    """

    profile: Profile
    through: Through
    device: str


class Candidates:
    """Merges of the same sources with other knobs."""

    def __init__(self, recipe: Recipe, run: Run, device: str) -> None:
        self._recipe = recipe
        self._run = run
        self._device = device
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
        self._run(recipe)
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
    with Sources(paths, cache_dir=scratch) as sources:
        for fingerprint in paths:
            for name in sources.model(fingerprint).tensors:
                sources.tensor(fingerprint, name).view(torch.int16).sum()
        if setting.through == "recipe":
            run = _through_recipe(sources)
        else:
            run = _through_operators(recipe, sources, setting.device)
        yield Candidates(recipe, run, setting.device)


def _through_recipe(sources: Sources) -> Run:
    def run(recipe: Recipe) -> None:
        for _ in materialise(recipe, sources, reuse=True):
            pass

    return run


def _through_operators(recipe: Recipe, sources: Sources, device: str) -> Run:
    prints = {name: source.to_json()["checkpoint"] for name, source in recipe.inputs}
    model = sources.model(prints[recipe.frame])
    tensors = {
        (name, key): sources.tensor(fingerprint, key).to(device)
        for name, fingerprint in prints.items()
        for key in model.tensors
    }
    largest = max(tensor.numel() for tensor in tensors.values())
    space = torch.empty(largest, dtype=torch.bfloat16, device=device)
    memo = CountingMemo()

    def run(candidate: Recipe) -> None:
        ends = {"embed": candidate.embed, "head": candidate.head}
        for key in model.tensors:
            place = model.places[key]
            slot = ends.get(place.section)
            if slot is None:
                assert place.layer is not None
                slot = candidate.slots[place.layer]
            operation = slot.operation(place.role, place.suffix)
            inputs = [tensors[name, key] for name in operation.inputs]
            base = None if operation.base is None else tensors[operation.base, key]
            out = space[: inputs[0].numel()].view(inputs[0].shape)
            apply_into(out, operation, inputs, base, key, memo)

    return run


def _operations(recipe: Recipe) -> Iterator[Operation]:
    for _, slot in recipe.places():
        for _, operation in slot.roles:
            yield operation
