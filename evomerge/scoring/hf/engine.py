"""The reference engine: a transformers model whose tensors are overwritten in place.

Slower than vLLM on long answers, quicker on tiny models, and the judge of both: what
it computes is what an exported folder computes in plain transformers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.core.recipes.recipe import Recipe
from evomerge.core.work import WorkerSetup
from evomerge.errors import (
    CandidateError,
    RecipeError,
    WorkerError,
)
from evomerge.merging.sources import Sources
from evomerge.scoring.engine import (
    Completion,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
    SelfTest,
    SwapReport,
    check_generate,
    check_loglikelihood,
)
from evomerge.scoring.hf.batches import Generator, loglikelihoods
from evomerge.scoring.hf.forward import Forward
from evomerge.scoring.hf.image_prompts import ImageReader, refuse_text_alone
from evomerge.scoring.hf.in_place import InPlaceLoader
from evomerge.scoring.hf.layer_slots import HfLayerSlots, slot_shapes
from evomerge.scoring.hf.model import (
    end_tokens,
    load_model,
    load_tokenizer,
    machine_faults,
    max_length,
)
from evomerge.scoring.hf.processor import Processor
from evomerge.scoring.hf.way import check_batches, find_way
from evomerge.scoring.self_test import Probe, run_self_test
from evomerge.scoring.stacks.self_test import run_stack_self_test
from evomerge.scoring.stacks.slots import beginnings, home, slot_kinds
from evomerge.scoring.stacks.swap import StackSwap
from evomerge.scoring.weight_stream import WeightStream


class HfEngine:
    """One transformers model in this process; see ``Engine`` for the promises."""

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
        self._whole = not setup.engine.stacks
        self._stack = self._open_stack() if setup.engine.stacks else None
        if not self._whole:
            self.swap(home(setup))
        forward = Forward.of(self._model)
        with machine_faults("ask the frame"):
            forward.check_causal()
            check_batches(forward)
            way = find_way(forward)
        for order in beginnings(setup):
            # Whether a class's cache is right may depend on its first layer's kind.
            self.swap(order)
            with machine_faults("ask a stack of the frame's layers"):
                way = find_way(forward, forward.ways[forward.ways.index(way) :])
        self._speaker = Generator(
            forward=forward,
            way=way,
            tokenizer=self._tokenizer,
            end_tokens=end_tokens(self._model, self._tokenizer),
            max_length=max_length(self._model.config, setup.engine),
        )
        self._images: ImageReader | None = None

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
        return self._speaker.max_length

    @property
    def images(self) -> ImageReader:
        """What shows images to the model.

        Raises:
            CheckpointError: The frame takes none, or its processor cannot be used.
        """
        if self._images is None:
            refuse_text_alone(self._model)
            folder = self._setup.sources[self._setup.frame]
            self._images = ImageReader(self._speaker, Processor(folder))
        return self._images

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

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        """Continue every prompt; answers in the order asked."""
        self._require_whole()
        check_generate(requests, self.max_length)
        rows = self._settings.max_num_seqs
        with machine_faults("generate"):
            said = iter(
                self._speaker.answer([r for r in requests if r.shown is None], rows)
            )
            shown = [r for r in requests if r.shown is not None]
            seen = iter(self.images.answer(shown, rows) if shown else ())
            return [next(said if r.shown is None else seen) for r in requests]

    def loglikelihood(
        self, requests: Sequence[LoglikelihoodRequest]
    ) -> list[Loglikelihood]:
        """Score every continuation; answers in the order asked."""
        self._require_whole()
        check_loglikelihood(requests, self.max_length)
        with machine_faults("compute log-probabilities"):
            text = [request for request in requests if request.shown is None]
            said = iter(
                loglikelihoods(self._speaker.forward, text, self._settings.max_num_seqs)
            )
            return [
                next(said) if r.shown is None else self.images.loglikelihood(r)
                for r in requests
            ]

    @property
    def vocab_size(self) -> int:
        """Tokens that have a probability."""
        return self._speaker.forward.vocab_size

    @torch.inference_mode()
    def distributions(self, tokens: tuple[int, ...]) -> NDArray[np.float32]:
        """Return log-probabilities of the vocabulary after each token but the last."""
        self._require_whole()
        check_loglikelihood(
            [LoglikelihoodRequest(tokens[:1], tokens[1:])], self.max_length
        )
        with machine_faults("compute log-probabilities"):
            ids = torch.tensor([tokens[:-1]], device=self._device)
            columns = torch.arange(len(tokens) - 1, device=self._device)
            logits, _ = self._speaker.forward(ids, columns)
            return logits[0].float().log_softmax(-1).cpu().numpy()

    def self_test(self) -> SelfTest:
        """Compare what was swapped in with what was loaded; see ``self_test``."""
        self._require_open()
        test = run_stack_self_test if self._setup.engine.stacks else run_self_test
        return test(self, self._setup, self._cold_probe)

    def _cold_probe(self, setup: WorkerSetup) -> Probe:
        """Measure a folder in an engine of its own."""
        other = HfEngine(setup)
        try:
            if self._images is not None:  # the same prompts, whatever that folder has
                other._images = ImageReader(other._speaker, self._images.processor)
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
        self._images = None
        speaker = self._speaker
        gone = replace(speaker.forward, model=None)
        self._speaker = replace(speaker, forward=gone)
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
