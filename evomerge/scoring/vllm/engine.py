"""One vLLM engine kept alive, whose weights are exchanged in place.

vLLM is started once, from the frame; every candidate is merged inside its worker and
written over the weights it computes with (``worker``). Works in this process,
inside a Ray actor, and with vLLM's engine in a process of its own
(``VLLM_ENABLE_V1_MULTIPROCESSING=1``, vLLM's default on GPU).
"""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.core.recipes.recipe import Recipe
from evomerge.core.work import WorkerSetup
from evomerge.errors import (
    CandidateError,
    EvomergeError,
    WorkerError,
)
from evomerge.scoring.engine import (
    Completion,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
    SelfTest,
    SwapReport,
    answer_text,
    check_generate,
    check_loglikelihood,
    cut_at_stop,
)
from evomerge.scoring.self_test import Probe, kept_probe, run_self_test
from evomerge.scoring.stacks.self_test import kept_stack_probe, run_stack_self_test
from evomerge.scoring.stacks.slots import home
from evomerge.scoring.vllm import startup
from evomerge.scoring.vllm.requests import (
    read_scores,
    read_vocabulary,
    sampling,
    scoring,
    whole_vocabulary,
)


class VllmEngine:
    """One living ``vllm.LLM``; see ``Engine`` for the promises."""

    def __init__(self, setup: WorkerSetup) -> None:
        """Start vLLM from the frame.

        If the set-up names a probe whose cold measurement is not kept yet, the probe
        is started, measured and stopped first, while nothing else holds memory.

        Raises:
            SpecError: vLLM is not installed, or does not know an option.
            CheckpointError: The frame cannot be loaded.
            WorkerError: vLLM or the machine failed.
        """
        startup.prepare_environment()
        self._setup = setup
        self._llm: Any = None
        self._closed = False
        self._whole = True
        self._facts = startup.facts(setup.engine)
        self._arguments = startup.arguments(setup)
        if setup.engine.stacks:
            kept_stack_probe(self._facts, setup, self._cold_probe)
        elif setup.probe not in (None, setup.frame):
            kept_probe(self._facts, setup, self._cold_probe)
        self._start()

    def _start(self) -> None:
        from vllm import LLM

        from evomerge.scoring.vllm.classes import serve_without_torchvision

        serve_without_torchvision()
        with _machine_faults("start"):
            self._llm = LLM(**self._arguments)
            setup = self._setup
            self._llm.collective_rpc(
                "evomerge_prepare",
                args=(dict(setup.sources), setup.frame, setup.cache_dir),
                kwargs={
                    "stacks": setup.engine.stacks,
                    "in_place": setup.engine.in_place,
                },
            )
        self._whole = not (setup.engine.stacks or setup.engine.in_place)
        if not self._whole:
            self.swap(home(setup))
        # One token less than vLLM holds: scoring a pair makes it generate one more.
        limit = int(self._llm.llm_engine.model_config.max_model_len) - 1
        self._max_length = min(limit, setup.engine.max_model_len or limit)
        self._tokenizer = self._llm.get_tokenizer()

    def _stop(self) -> None:
        llm, self._llm = self._llm, None
        if llm is None:
            return
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def facts(self) -> Mapping[str, Any]:
        """Kind, versions, element type and device."""
        return self._facts

    @property
    def tokenizer(self) -> Any:
        """The frame's tokenizer."""
        return self._tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence, answer included."""
        return self._max_length

    def swap(self, recipe: Recipe) -> SwapReport:
        """Merge a recipe into the living model.

        Raises:
            CandidateError: The merged weights are not finite, or do not fit the frame.
            WorkerError: vLLM or the machine failed.
        """
        self._require_open()
        self._whole = False
        with _machine_faults("swap a candidate in"):
            reports = self._llm.collective_rpc(
                "evomerge_swap", args=(recipe.to_json(),)
            )
            # Cached prefixes hold what the old weights thought.
            forgotten = self._llm.reset_prefix_cache()
        for report in reports:
            if "candidate_error" in report:
                raise CandidateError(report["candidate_error"])
            if "machine_error" in report:
                raise WorkerError(report["machine_error"])
        if not forgotten:
            raise WorkerError(
                "vLLM kept its prefix cache over a swap, because requests are still "
                "running; start a new engine."
            )
        self._whole = True
        return SwapReport(
            materialise_s=max(report["materialise_s"] for report in reports),
            swap_s=max(report["swap_s"] for report in reports),
            size_bytes=reports[0]["size_bytes"],
        )

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        """Continue every prompt; answers in the order asked."""
        self._require_whole()
        check_generate(requests, self.max_length)
        if not requests:
            return []
        params = [sampling(request, self.max_length) for request in requests]
        outputs = self._ask([request.prompt for request in requests], params)
        return [
            self._completion(request, output.outputs[0])
            for request, output in zip(requests, outputs, strict=True)
        ]

    def _completion(self, request: GenerateRequest, answer: Any) -> Completion:
        text = answer_text(self._tokenizer, answer.token_ids, request.stop)
        stopped_by = answer.stop_reason
        if isinstance(stopped_by, str) and len(text) > len(answer.text):
            # Decoded in one go the text may lack the stop string vLLM saw.
            text = cut_at_stop(answer.text, request.stop)
        return Completion(
            text, len(answer.token_ids), truncated=answer.finish_reason == "length"
        )

    def loglikelihood(
        self, requests: Sequence[LoglikelihoodRequest]
    ) -> list[Loglikelihood]:
        """Score every continuation; answers in the order asked."""
        self._require_whole()
        check_loglikelihood(requests, self.max_length)
        wanted = [place for place, r in enumerate(requests) if r.continuation]
        answers = [Loglikelihood(0.0, True)] * len(requests)
        if not wanted:
            return answers
        lengths = {len(requests[place].continuation) for place in wanted}
        params = {n: scoring(n) for n in lengths}
        outputs = self._ask(
            [requests[p].context + requests[p].continuation for p in wanted],
            [params[len(requests[p].continuation)] for p in wanted],
        )
        for place, output in zip(wanted, outputs, strict=True):
            answers[place] = read_scores(requests[place], output.prompt_logprobs)
        return answers

    @property
    def vocab_size(self) -> int:
        """Tokens that have a probability."""
        return int(self._llm.llm_engine.model_config.get_vocab_size())

    def distributions(self, tokens: tuple[int, ...]) -> NDArray[np.float32]:
        """Return log-probabilities of the vocabulary after each token but the last."""
        self._require_whole()
        check_loglikelihood(
            [LoglikelihoodRequest(tokens[:1], tokens[1:])], self.max_length
        )
        (output,) = self._ask([tokens], [whole_vocabulary()])
        return read_vocabulary(output.prompt_logprobs, len(tokens), self.vocab_size)

    def _ask(self, prompts: Sequence[tuple[int, ...]], params: Sequence[Any]) -> Any:
        with _machine_faults("score a candidate"):
            return self._llm.generate(
                [{"prompt_token_ids": list(prompt)} for prompt in prompts],
                params,
                use_tqdm=False,
            )

    def self_test(self) -> SelfTest:
        """Compare what was swapped in with what was loaded; see ``self_test``."""
        self._require_open()
        test = run_stack_self_test if self._setup.engine.stacks else run_self_test
        return test(self, self._setup, self._cold_probe)

    def _cold_probe(self, setup: WorkerSetup) -> Probe:
        """Measure a folder in an engine of its own, while this one is stopped."""
        was_running = self._llm is not None
        self._stop()
        if self._setup.engine.stacks:
            options = dict(setup.engine.options) | {"enforce_eager": True}
            setup = replace(setup, engine=replace(setup.engine, options=options))
        other = VllmEngine(setup)
        try:
            probe = Probe.take(other)
        finally:
            other.close()
        if was_running:
            self._start()
        return probe

    def close(self) -> None:
        """Stop vLLM and free its memory; idempotent."""
        self._closed = True
        self._stop()

    def _require_open(self) -> None:
        if self._closed or self._llm is None:
            raise WorkerError("This engine is closed; open another one.")

    def _require_whole(self) -> None:
        self._require_open()
        if not self._whole:
            raise WorkerError(
                "The last swap failed half-way, so the weights are of no model; swap "
                "a recipe in first."
            )


@contextmanager
def _machine_faults(doing: str) -> Iterator[None]:
    """Turn whatever vLLM raises into our own error."""
    try:
        yield
    except EvomergeError:
        raise
    except Exception as error:
        # vLLM has no root of its own errors; they reach us as almost anything.
        raise WorkerError(
            f"The vllm engine failed to {doing}: {type(error).__name__}: {_said(error)}"
        ) from error


def _said(error: Exception) -> str:
    """Return an error's message; where it has none, the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return str(error) or f"{last.line} ({Path(last.filename).name}:{last.lineno})"
