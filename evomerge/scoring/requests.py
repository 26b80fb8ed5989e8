"""What every engine does alike: refuse impossible requests, finish answers."""

from collections.abc import Sequence
from typing import Any

from evomerge.errors import RequestError
from evomerge.scoring.engine import GenerateRequest, LoglikelihoodRequest


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
