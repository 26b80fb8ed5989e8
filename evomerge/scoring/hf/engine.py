"""The reference engine: a transformers model whose tensors are overwritten in place.

Slower than vLLM on long answers, quicker on tiny models, and the judge of both: what
it computes is what an exported folder computes in plain transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.core.work import WorkerSetup
from evomerge.scoring.engine import (
    Completion,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
    check_generate,
    check_loglikelihood,
)
from evomerge.scoring.hf.batches import Generator, loglikelihoods
from evomerge.scoring.hf.forward import Forward
from evomerge.scoring.hf.image_prompts import ImageReader, refuse_text_alone
from evomerge.scoring.hf.living_model import LivingModel
from evomerge.scoring.hf.model import (
    end_tokens,
    machine_faults,
)
from evomerge.scoring.hf.processor import Processor
from evomerge.scoring.hf.way import check_batches, find_way
from evomerge.scoring.self_test import Probe
from evomerge.scoring.stacks.slots import beginnings


class HfEngine(LivingModel):
    """One transformers model in this process; see ``Engine`` for the promises."""

    def __init__(self, setup: WorkerSetup) -> None:
        """Load the frame.

        Raises:
            SpecError: transformers does not know an option.
            CheckpointError: The frame cannot be loaded.
            WorkerError: The machine failed, for example for want of memory.
        """
        super().__init__(setup)
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
            max_length=self._max_length,
        )
        self._images: ImageReader | None = None

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
        self._images = None
        speaker = self._speaker
        gone = replace(speaker.forward, model=None)
        self._speaker = replace(speaker, forward=gone)
        super().close()
