"""The reference engine: a transformers model whose tensors are overwritten in place.

Slower than vLLM on long answers, quicker on tiny models, and the judge of both: what
it computes is what an exported folder computes in plain transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from evomerge.core.recipe import Recipe
from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    EvomergeError,
    Problem,
    RecipeError,
    SpecError,
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
)
from evomerge.scoring.hf_generation import Speaker
from evomerge.scoring.hf_loglikelihood import loglikelihoods
from evomerge.scoring.incoming import Incoming
from evomerge.scoring.requests import check_generate, check_loglikelihood
from evomerge.scoring.self_test import Probe, run_self_test

DEFAULT_LENGTH = 2048
"""Used where neither the study nor the model's config gives a limit."""


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
        self._model = _load(folder, setup.engine)
        self._device: torch.device = self._model.device
        self._tokenizer = _tokenizer(folder)
        self._targets = _distinct(self._model)
        self._sources = Sources(setup.sources, cache_dir=setup.cache_dir)
        stored = self._sources.model(setup.frame).tensors
        # What the cold load left aside, for example old checkpoints' rotary tables.
        self._unused = stored.keys() - self._targets.keys()
        self._whole = True
        self._speaker = Speaker(
            model=self._model,
            tokenizer=self._tokenizer,
            end_tokens=_end_tokens(self._model, self._tokenizer),
            max_length=_max_length(self._model.config, setup.engine),
        )

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

    def swap(self, recipe: Recipe) -> SwapReport:
        """Overwrite every tensor with the merged one of the same name.

        Raises:
            CandidateError: The merged weights are not finite, or do not fit the frame.
            WorkerError: The machine failed.
        """
        self._require_open()
        self._whole = False
        started = perf_counter()
        with _machine_faults("swap a candidate in"):
            try:
                frame = self._setup.frame
                incoming = Incoming.of(
                    recipe, self._sources, frame, self._dtype, reuse=True
                )
                for name, tensor in incoming:
                    self._place(name, tensor)
            except RecipeError as error:
                raise CandidateError(f"The recipe cannot be merged: {error}") from error
        missing = sorted(self._targets.keys() - incoming.names)
        if missing:
            raise CandidateError(
                f"The merge gives no {missing[0]!r} ({len(missing)} tensors missing): "
                "its layers do not match the frame's."
            )
        self._whole = True
        total = perf_counter() - started
        return SwapReport(
            materialise_s=incoming.materialise_s,
            swap_s=total - incoming.materialise_s,
            size_bytes=incoming.size_bytes,
        )

    def _place(self, name: str, tensor: torch.Tensor) -> None:
        target = self._targets.get(name)
        if target is None and name in self._unused:
            return
        if target is None:
            raise CandidateError(
                f"The merge gives a tensor {name!r} that the frame does not have."
            )
        if target.shape != tensor.shape:
            raise CandidateError(
                f"Tensor {name!r} is {tuple(tensor.shape)} in the merge, but "
                f"{tuple(target.shape)} in the frame."
            )
        target.copy_(tensor)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        """Continue every prompt; answers in the order asked."""
        self._require_whole()
        check_generate(requests, self.max_length)
        with _machine_faults("generate"):
            return self._speaker.answer(requests, self._settings.max_num_seqs)

    def loglikelihood(
        self, requests: Sequence[LoglikelihoodRequest]
    ) -> list[Loglikelihood]:
        """Score every continuation; answers in the order asked."""
        self._require_whole()
        check_loglikelihood(requests, self.max_length)
        with _machine_faults("compute log-probabilities"):
            return loglikelihoods(self._model, requests, self._settings.max_num_seqs)

    def self_test(self) -> SelfTest:
        """Compare swapped weights with cold loads; see ``run_self_test``."""
        self._require_open()
        return run_self_test(self, self._setup, self._cold_probe)

    def _cold_probe(self, fingerprint: str) -> Probe:
        """Measure a parent in an engine of its own, loaded from its folder."""
        other = HfEngine(replace(self._setup, frame=fingerprint, probe=None))
        try:
            return Probe.take(other)
        finally:
            other.close()

    def close(self) -> None:
        """Free the model; idempotent."""
        if self._model is None:
            return
        self._model = None
        self._targets = {}
        self._speaker = replace(self._speaker, model=None)
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


def _load(folder: str, settings: EngineSettings) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    options = dict(settings.options)
    default = "cuda" if torch.cuda.is_available() else "cpu"
    device = str(options.pop("device", default))
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, settings.dtype),
            local_files_only=True,
            use_safetensors=True,
            **options,
        )
    except TypeError as error:  # unknown keywords reach the model's constructor
        unknown = [key for key in options if f"'{key}'" in str(error)]
        if not unknown:
            raise
        raise SpecError(
            [
                Problem(
                    f"engine.options.{key}", "transformers does not know this option."
                )
                for key in unknown
            ]
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot load {folder}: {error}") from error
    with _machine_faults("load the frame"):
        return model.to(device).eval().requires_grad_(False)


def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"Cannot load a tokenizer from {folder}: {error}"
        ) from error


def _distinct(model: Any) -> dict[str, torch.Tensor]:
    """Name every stored tensor once; a tied head goes by the embedding's name."""
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    state: Mapping[str, torch.Tensor] = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if name not in tied}


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    found = {tokenizer.eos_token_id}
    declared = getattr(model.generation_config, "eos_token_id", None)
    found |= set(declared) if isinstance(declared, list) else {declared}
    return frozenset(token for token in found if token is not None)


def _max_length(config: Any, settings: EngineSettings) -> int:
    text = config.get_text_config()
    own = getattr(text, "max_position_embeddings", None) or DEFAULT_LENGTH
    return min(own, settings.max_model_len or own)


@contextmanager
def _machine_faults(doing: str) -> Iterator[None]:
    """Turn what torch raises when a machine fails into our own error."""
    try:
        yield
    except EvomergeError:
        raise
    except (RuntimeError, MemoryError, OSError) as error:
        raise WorkerError(f"The hf engine failed to {doing}: {error}") from error
