"""What vLLM is asked, request by request, and how its scores are read."""

from __future__ import annotations

from typing import Any

from evomerge.errors import CandidateError, WorkerError
from evomerge.scoring.engine import (
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
)
from evomerge.scoring.requests import room
from evomerge.scoring.vllm.prompt_logprobs import N_ROWS


def sampling(request: GenerateRequest, max_length: int) -> Any:
    """Return vLLM's parameters for continuing a prompt."""
    from vllm import SamplingParams

    sampled = request.temperature > 0.0
    stops = [stop for stop in request.stop if stop]
    return SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p if sampled else 1.0,
        seed=request.seed if sampled else None,
        max_tokens=room(request, max_length),
        stop=stops or None,
        # Without stop strings the text is decoded once, at the end.
        detokenize=bool(stops),
        skip_clone=True,
    )


def scoring(n_rows: int) -> Any:
    """Ask for the last rows of the prompt; the one token generated is thrown away."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=0,
        detokenize=False,
        flat_logprobs=True,
        extra_args={N_ROWS: n_rows},
        skip_clone=True,
    )


def read_scores(request: LoglikelihoodRequest, flat: Any) -> Loglikelihood:
    """Sum the continuation's log-probabilities, natural.

    Raises:
        CandidateError: They are not finite.
        WorkerError: vLLM answered about other tokens.
    """
    n = len(request.continuation)
    if tuple(flat.token_ids[-n:]) != request.continuation:
        raise WorkerError("vLLM scored other tokens than were asked for.")
    total = sum(flat.logprobs[-n:])
    if total - total != 0.0:
        raise CandidateError(
            "The model's log-probabilities are not finite, although its weights are: "
            "its activations overflow."
        )
    return Loglikelihood(total, all(rank == 1 for rank in flat.ranks[-n:]))
