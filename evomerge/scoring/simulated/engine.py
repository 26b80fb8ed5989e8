"""An engine without a model, for schedulers, kill tests and the harness's own tests.

Answers are a function of the recipe and the request, so a run repeats exactly. Loads
neither torch nor transformers, so a worker is up at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.core.recipes.recipe import Recipe
from evomerge.core.work import WorkerSetup
from evomerge.scoring.engine import (
    Completion,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
    SelfTest,
    SwapReport,
    check_generate,
    check_loglikelihood,
    room,
)
from evomerge.scoring.simulated.landscape import drawn_by, uniform

_MAX_LENGTH = 4096


class SimulatedEngine:
    """An engine without a model: answers are hashes of recipe and request."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._recipe = f"frame {setup.frame}"
        self._max_length = setup.engine.max_model_len or _MAX_LENGTH
        self._facts = {
            "kind": "simulated",
            "version": "1",
            "dtype": setup.engine.dtype,
            "device": "none",
            "max_length": self._max_length,
        }
        self._tokenizer = ByteTokenizer()

    @property
    def facts(self) -> Mapping[str, Any]:
        """Plain data for the protocol."""
        return self._facts

    @property
    def tokenizer(self) -> ByteTokenizer:
        """A tokenizer of bytes."""
        return self._tokenizer

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence, answer included."""
        return self._max_length

    def swap(self, recipe: Recipe) -> SwapReport:
        """Answer as this recipe from now on."""
        self._recipe = drawn_by(recipe)
        return SwapReport(materialise_s=0.0, swap_s=0.0, size_bytes=0)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        """Answer every prompt with a number from 0 to 99."""
        check_generate(requests, self._max_length)
        answers = []
        for request in requests:
            luck = uniform("answer", self._recipe, repr(request.prompt))
            text = str(int(100 * luck))
            n_tokens = min(room(request, self._max_length), len(text) + 1)
            is_cut = n_tokens <= len(text)
            answers.append(Completion(text[:n_tokens], n_tokens, is_cut))
        return answers

    def loglikelihood(
        self, requests: Sequence[LoglikelihoodRequest]
    ) -> list[Loglikelihood]:
        """Give every continuation between 0 and 3 nats a token."""
        check_loglikelihood(requests, self._max_length)
        answers = []
        for request in requests:
            asked = repr((request.context, request.continuation))
            luck = uniform("likelihood", self._recipe, asked)
            nats = -3.0 * luck * len(request.continuation)
            answers.append(Loglikelihood(nats, is_greedy=luck < 0.1))
        return answers

    def self_test(self) -> SelfTest:
        """Nothing can be stale here."""
        return SelfTest(probe_difference=0.0, return_difference=0.0, swap_s=0.0)

    def close(self) -> None:
        """There is nothing to free."""


class ByteTokenizer:
    """One token for each byte of UTF-8; the part of a tokenizer that scoring needs."""

    bos_token_id = None
    eos_token_id = 256
    eos_token = "<eos>"
    chat_template = None
    name_or_path = "bytes"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return the bytes of a text."""
        del add_special_tokens
        return list(text.encode())

    def decode(
        self, tokens: int | Sequence[int], *, skip_special_tokens: bool = False
    ) -> str:
        """Return the text of some bytes."""
        ids = [tokens] if isinstance(tokens, int) else tokens
        text = bytes(i for i in ids if i != self.eos_token_id).decode(errors="replace")
        is_ended = self.eos_token_id in ids and not skip_special_tokens
        return text + (self.eos_token if is_ended else "")
