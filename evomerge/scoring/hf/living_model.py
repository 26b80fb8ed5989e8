"""A transformers model in this process whose tensors are overwritten in place.

What every engine that runs one has in common, whatever it is asked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

import torch

from evomerge.core.recipes.recipe import Recipe
from evomerge.core.work import WorkerSetup
from evomerge.errors import CandidateError, RecipeError, WorkerError
from evomerge.merging.sources import Sources
from evomerge.scoring.engine import (
    Completion,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
    SelfTest,
    SwapReport,
)
from evomerge.scoring.hf.in_place import InPlaceLoader
from evomerge.scoring.hf.layer_slots import HfLayerSlots, slot_shapes
from evomerge.scoring.hf.model import (
    load_model,
    load_tokenizer,
    machine_faults,
    max_length,
)
from evomerge.scoring.self_test import Probe, run_self_test
from evomerge.scoring.stacks.self_test import run_stack_self_test
from evomerge.scoring.stacks.slots import home, slot_kinds
from evomerge.scoring.stacks.swap import StackSwap
from evomerge.scoring.weight_stream import WeightStream


class LivingModel(ABC):
    """A loaded frame, and how candidates are swapped into it."""

    def __init__(self, setup: WorkerSetup) -> None:
        """Load the frame.

        Raises:
            SpecError: transformers does not know an option.
            CheckpointError: The frame cannot be loaded.
            WorkerError: The machine failed, for example for want of memory.
        """
        self._setup = setup
        self._settings = setup.engine
        self._dtype: torch.dtype = getattr(torch, setup.engine.dtype)
        folder = setup.sources[setup.frame]
        self._model = load_model(setup)
        self._device: torch.device = self._model.device
        self._tokenizer = load_tokenizer(folder)
        self._sources = Sources(setup.sources, cache_dir=setup.cache_dir)
        self._loader: Any = InPlaceLoader(
            self._model,
            slot_shapes(setup, self._sources),
            setup.engine.options.get("key_mapping"),
        )
        self._max_length = max_length(self._model.config, setup.engine)
        self._whole = not setup.engine.stacks
        self._stack = self._open_stack() if setup.engine.stacks else None
        if not self._whole:
            self.swap(home(setup))

    def _open_stack(self) -> StackSwap:
        rack = HfLayerSlots(self._model, self._loader, slot_kinds(self._setup))
        return StackSwap(rack, self._sources, self._setup.frame, self._dtype)

    @property
    def facts(self) -> Mapping[str, Any]:
        """Kind, versions, element type and device."""
        import transformers

        device = self._device
        return {
            "kind": "hf",
            "version": transformers.__version__,
            "torch": torch.__version__.partition("+")[0],
            "dtype": self._settings.dtype,
            "device": torch.cuda.get_device_name(device)
            if device.type == "cuda"
            else device.type,
        }

    @property
    def tokenizer(self) -> Any:
        """The frame's tokenizer."""
        return self._tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence, answer included."""
        return self._max_length

    def swap(self, recipe: Recipe) -> SwapReport:
        """Overwrite tensors with the merged ones of the same names.

        All of them, or, where stacks are run, those of the layers that are new.

        Raises:
            CandidateError: The merged weights are not finite, or do not fit the frame.
            WorkerError: The machine failed.
        """
        self._require_open()
        self._whole = False
        with machine_faults("swap a candidate in"):
            try:
                write = self._overwrite if self._stack is None else self._stack.swap
                report = write(recipe)
            except RecipeError as error:
                raise CandidateError(f"The recipe cannot be merged: {error}") from error
        self._whole = True
        return report

    def _overwrite(self, recipe: Recipe) -> SwapReport:
        started = perf_counter()
        frame = self._setup.frame
        incoming = WeightStream.of(
            recipe, self._sources, frame, self._dtype, reuse=True
        )
        self._loader.begin()
        for name, tensor in incoming:
            self._loader.put(name, tensor)
        missing = sorted(self._loader.needed - incoming.names)
        if missing:
            raise CandidateError(
                f"The merge gives no {missing[0]!r} ({len(missing)} tensors missing): "
                "its layers do not match the frame's."
            )
        total = perf_counter() - started
        return SwapReport(
            materialise_s=incoming.materialise_s,
            swap_s=total - incoming.materialise_s,
            size_bytes=incoming.size_bytes,
        )

    @abstractmethod
    def generate(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        """Continue every prompt; see ``Engine``."""

    @abstractmethod
    def loglikelihood(
        self, requests: Sequence[LoglikelihoodRequest]
    ) -> list[Loglikelihood]:
        """Score every continuation; see ``Engine``."""

    def self_test(self) -> SelfTest:
        """Compare what was swapped in with what was loaded; see ``self_test``."""
        self._require_open()
        test = run_stack_self_test if self._setup.engine.stacks else run_self_test
        return test(self, self._setup, self._cold_probe)

    def _cold_probe(self, setup: WorkerSetup) -> Probe:
        """Measure a folder in an engine of its own."""
        other = type(self)(setup)
        try:
            return Probe.take(other)
        finally:
            other.close()

    def close(self) -> None:
        """Free the model; idempotent."""
        if self._model is None:
            return
        self._model = None
        self._loader = None
        self._stack = None
        self._sources.close()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _require_open(self) -> None:
        if self._model is None:
            raise WorkerError("This engine is closed; open another one.")

    def _require_whole(self) -> None:
        self._require_open()
        if not self._whole:
            raise WorkerError(
                "The last swap failed half-way, so the weights are of no model; swap "
                "a recipe in first."
            )
