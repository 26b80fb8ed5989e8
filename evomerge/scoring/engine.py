"""The engine protocol: one living model whose weights are exchanged in place.

And what every engine does alike: refuse impossible requests, finish answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import RequestError
from evomerge.scoring.images import ImagePrompt


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt to be continued.

    Attributes:
        prompt: Token ids.
        max_tokens: Most tokens generated.
        stop: Strings that end the answer; they are not part of it.
        temperature: 0 is greedy.
        top_p: Nucleus size when sampling.
        seed: Of the sampler; used only when ``temperature`` is above 0.
        shown: What ``prompt`` was made of, if there are images in it. Only engines
            that are an ``ImageEngine`` take it.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    shown: ImagePrompt | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer.

    Attributes:
        text: Decoded without special tokens, cut before the first stop string.
        n_tokens: Tokens generated, the end token included.
        truncated: It ended at ``max_tokens`` or at the model's length, not by itself.
    """

    text: str
    n_tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class LoglikelihoodRequest:
    """How likely is this continuation after this context? Both are token ids.

    ``shown`` is as for ``GenerateRequest``.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    shown: ImagePrompt | None = None


@dataclass(frozen=True, slots=True)
class Loglikelihood:
    """Natural log-probability of the continuation, and whether greedy gives it.

    Greedy gives a token only if no other is as likely: a collapsed model whose
    probabilities are all equal gets no credit.
    """

    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True)
class SwapReport:
    """What an exchange of weights took.

    Attributes:
        materialise_s: Seconds in merge arithmetic (reading included).
        swap_s: Seconds in moving the result into the engine.
        size_bytes: Bytes written into the engine.
    """

    materialise_s: float
    swap_s: float
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SelfTest:
    """Proof that swapped weights behave as cold-loaded ones.

    Attributes:
        probe_difference: Largest absolute log-probability difference between the probe
            parent swapped in and the same parent cold-loaded; None where there is no
            second parent to probe with.
        return_difference: The same for the frame after swapping it back.
        swap_s: Seconds the swap to the probe (or, without one, to the frame) took.
    """

    probe_difference: float | None
    return_difference: float
    swap_s: float


class Engine(Protocol):
    """One model in memory, started from the frame, whose weights can be exchanged.

    Not thread-safe. ``close`` frees everything and is idempotent. Whatever depends on
    the old weights (prefix cache, packed copies) is refreshed by ``swap``.
    """

    @property
    def facts(self) -> Mapping[str, Any]:
        """Plain data for the protocol: kind, version, dtype, device type."""

    @property
    def tokenizer(self) -> Any:
        """The frame's tokenizer (a transformers ``PreTrainedTokenizerBase``)."""

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence, answer included."""

    def swap(self, recipe: Recipe) -> SwapReport:
        """Make the engine behave as the merged model.

        Raises:
            CandidateError: The merged weights are not finite, or do not fit the frame.
            WorkerError: The engine or machine failed.
        """

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Completion]:
        """Continue every prompt; answers in the order asked.

        Raises:
            RequestError: A prompt is empty or leaves no room for an answer.
            CandidateError: The model's numbers are not finite.
            WorkerError: The engine or machine failed.
        """

    def loglikelihood(
        self, requests: Sequence[LoglikelihoodRequest]
    ) -> list[Loglikelihood]:
        """Score every continuation; answers in the order asked.

        Raises:
            RequestError: A context is empty, or a pair exceeds ``max_length``.
            CandidateError: The model's numbers are not finite.
            WorkerError: The engine or machine failed.
        """

    def self_test(self) -> SelfTest:
        """Swap the probe parent in and back, comparing with cold loads.

        Raises:
            SelfTestError: A difference is above the engine's tolerance (0 on one type
                of device); the message names which and by how much.
        """

    def close(self) -> None:
        """Free the model; idempotent."""


class DistributionEngine(Engine, Protocol):
    """An engine that gives the probabilities of a whole vocabulary."""

    @property
    def vocab_size(self) -> int:
        """Tokens that have a probability."""

    def distributions(self, tokens: tuple[int, ...]) -> NDArray[np.float32]:
        """Return natural log-probabilities of every token after each but the last.

        Args:
            tokens: Token ids of a text, two at least.

        Returns:
            Shape ``(len(tokens) - 1, vocab_size)``; row ``i`` is of what follows the
            first ``i + 1`` tokens.

        Raises:
            RequestError: The text is longer than ``max_length``.
            WorkerError: The engine or machine failed.
        """


class RewardingEngine(Engine, Protocol):
    """An engine of a reward model, which rates texts and gives no tokens."""

    def rewards(self, texts: Sequence[tuple[int, ...]]) -> list[float]:
        """Return the one output for each text; texts are token ids.

        Raises:
            RequestError: A text is empty or longer than ``max_length``.
            CandidateError: The model's numbers are not finite.
            WorkerError: The engine or machine failed.
        """


class ImageProcessor(Protocol):
    """Prepares prompts with images for one model.

    Attributes:
        image_token: Text that stands for an image.
        chat_template: The template that knows of images; None if there is none.
        digest: Of all that decides how prompts are prepared.
    """

    image_token: str
    chat_template: Any
    digest: str | None

    def encode(self, prompt: ImagePrompt) -> Any:
        """Return what the model reads; its ``tokens`` are the token ids.

        Raises:
            RequestError: The prompt's images do not fit its text.
        """


class ImageReading(Protocol):
    """What an engine that shows images has; see ``ImageEngine``."""

    @property
    def processor(self) -> ImageProcessor:
        """Of the frame's folder."""

    def prompts(self) -> list[ImagePrompt]:
        """Return fixed prompts with made-up images, for self-tests."""


class ImageEngine(Engine, Protocol):
    """An engine whose requests may show images (``shown``)."""

    @property
    def images(self) -> ImageReading:
        """What shows images to the model.

        Raises:
            CheckpointError: The frame takes none, or its processor cannot be used.
        """


def check_generate(requests: Sequence[GenerateRequest], max_length: int) -> None:
    """Refuse prompts that no candidate could continue.

    Raises:
        RequestError: A prompt is empty, or leaves no room for one more token.
    """
    for place, request in enumerate(requests):
        if not request.prompt:
            raise RequestError(
                f"Prompt {place} is empty; start it with the tokenizer's begin token."
            )
        if request.max_tokens < 1:
            raise RequestError(
                f"Prompt {place} asks for {request.max_tokens} tokens; at least 1 is "
                "needed."
            )
        if len(request.prompt) >= max_length:
            raise RequestError(
                f"Prompt {place} has {len(request.prompt)} tokens, but this engine "
                f"holds {max_length}, answer included; truncate the prompt or raise "
                "engine.max_model_len."
            )


def check_loglikelihood(
    requests: Sequence[LoglikelihoodRequest], max_length: int
) -> None:
    """Refuse pairs whose probability is not defined, or does not fit.

    Raises:
        RequestError: A context is empty, or a pair is longer than ``max_length``.
    """
    for place, request in enumerate(requests):
        if not request.context:
            raise RequestError(
                f"Context {place} is empty, so its first token has no probability; "
                "start it with the tokenizer's begin token."
            )
        total = len(request.context) + len(request.continuation)
        if total > max_length:
            raise RequestError(
                f"Context and continuation {place} have {total} tokens, but this "
                f"engine holds {max_length}; truncate the context or raise "
                "engine.max_model_len."
            )


def room(request: GenerateRequest, max_length: int) -> int:
    """Return how many tokens the answer may have."""
    return min(request.max_tokens, max_length - len(request.prompt))


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """Return the text before the first stop string in it."""
    places = [text.find(stop) for stop in stops if stop]
    return text[: min((p for p in places if p >= 0), default=len(text))]


def answer_text(tokenizer: Any, tokens: Sequence[int], stops: Sequence[str]) -> str:
    """Decode an answer as every engine does: no special tokens, cut at a stop."""
    return cut_at_stop(tokenizer.decode(tokens, skip_special_tokens=True), stops)
