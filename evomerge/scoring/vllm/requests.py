"""What vLLM is asked, request by request, and its prompt log-probabilities.

vLLM's first model runner computes those request by request, every row of every prompt,
which takes longer than the model itself when models are small. Here the rows that
continuations need are scored together. The driver tells how many those are in the
request's ``extra_args``; without the word, or with another runner, vLLM's own way is
taken and the driver reads the last rows of a longer answer.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evomerge.errors import CandidateError, WorkerError
from evomerge.scoring.engine import (
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
    room,
)

N_ROWS = "evomerge_rows"
"""Key in ``SamplingParams.extra_args``: rows wanted at the end of the prompt."""

BATCH_LOGITS = 1 << 26
"""Most logits of one head computation (256 MiB in float32)."""


def score_in_one_batch(runner: Any) -> bool:
    """Make a model runner score prompts together, if it is of the kind we know.

    Args:
        runner: vLLM's model runner.

    Returns:
        Whether it was changed.
    """
    known = (
        "_get_prompt_logprobs_dict",
        "num_prompt_logprobs",
        "input_batch",
        "query_start_loc",
        "sampler",
    )
    if not all(hasattr(runner, name) for name in known):
        return False
    original = runner._get_prompt_logprobs_dict

    def scored(
        self: Any, hidden_states: torch.Tensor, scheduled: dict[str, int]
    ) -> dict[str, Any]:
        ours = [i for i in self.num_prompt_logprobs if _ours(self, i, scheduled)]
        result = _score(self, hidden_states, ours) if ours else {}
        for request_id in ours:
            del self.num_prompt_logprobs[request_id]
        return result | original(hidden_states, scheduled)

    runner._get_prompt_logprobs_dict = MethodType(scored, runner)
    return True


def _rows(runner: Any, request_id: str) -> int:
    params = runner.requests[request_id].sampling_params
    return int((params.extra_args or {}).get(N_ROWS, 0))


def _ours(runner: Any, request_id: str, scheduled: dict[str, int]) -> bool:
    """The request names its rows, and its whole prompt is in this very step."""
    request = runner.requests[request_id]
    return (
        runner.num_prompt_logprobs[request_id] == 0
        and _rows(runner, request_id) > 0
        and request.num_computed_tokens == 0
        and request.prompt_token_ids is not None
        and scheduled.get(request_id) == len(request.prompt_token_ids)
    )


def _score(runner: Any, hidden: torch.Tensor, ids: list[str]) -> dict[str, Any]:
    from vllm.v1.outputs import LogprobsTensors

    rows: list[int] = []
    targets: list[int] = []
    counts: list[int] = []
    for request_id in ids:
        prompt = runner.requests[request_id].prompt_token_ids
        n = _rows(runner, request_id)
        offset = int(
            runner.query_start_loc.np[runner.input_batch.req_id_to_index[request_id]]
        )
        # The row before a token predicts it.
        end = offset + len(prompt) - 1
        rows += range(end - n, end)
        targets += prompt[-n:]
        counts.append(n)
    logprobs, ranks = _logprobs(runner, hidden, rows, targets)
    chosen = torch.tensor(targets, dtype=torch.int32).unsqueeze(1)
    return {
        request_id: LogprobsTensors(*parts)
        for request_id, *parts in zip(
            ids,
            chosen.split(counts),
            logprobs.split(counts),
            ranks.split(counts),
            strict=True,
        )
    }


def _logprobs(
    runner: Any, hidden: torch.Tensor, rows: list[int], targets: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probability ``(n, 1)`` and rank ``(n,)`` of each row's target."""
    device = hidden.device
    index = torch.tensor(rows, device=device)
    target = torch.tensor(targets, device=device).unsqueeze(1)
    step = max(1, BATCH_LOGITS // int(runner.model_config.get_vocab_size()))
    parts = []
    for start in range(0, len(rows), step):
        here = target[start : start + step]
        logits = runner.model.compute_logits(hidden[index[start : start + step]])
        scores = runner.sampler.compute_logprobs(logits)
        chosen = scores.gather(1, here)
        parts.append((chosen, (scores >= chosen).sum(1)))
    logprobs = torch.cat([chosen for chosen, _ in parts]).cpu()
    ranks = torch.cat([rank for _, rank in parts]).to(torch.int32).cpu()
    return logprobs, ranks


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


def whole_vocabulary() -> Any:
    """Ask for every token's log-probability along the prompt."""
    from vllm import SamplingParams

    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=-1,
        detokenize=False,
        flat_logprobs=True,
        skip_clone=True,
    )


def read_vocabulary(flat: Any, n_tokens: int, n_vocab: int) -> NDArray[np.float32]:
    """Return log-probabilities ``(n_tokens - 1, n_vocab)`` of all tokens but the first.

    Raises:
        WorkerError: vLLM left tokens out.
    """
    told = np.full((n_tokens - 1, n_vocab), np.nan, dtype=np.float32)
    # The first token has none.
    ends = zip(flat.start_indices[1:], flat.end_indices[1:], strict=True)
    for row, (start, end) in zip(told, ends, strict=True):
        row[flat.token_ids[start:end]] = flat.logprobs[start:end]
    if missing := int(np.isnan(told).sum()):
        raise WorkerError(
            f"vLLM left out {missing} of {told.size} log-probabilities, or they are no "
            "numbers; use engine hf for measures of the whole vocabulary."
        )
    return told
