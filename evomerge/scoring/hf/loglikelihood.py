"""Log-probabilities of continuations, in a few right-padded batches.

Under causal attention no token sees what stands after it, so padding on the right
needs no mask, and the model takes its fastest path. Only the rows of logits that
continuations need are computed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from evomerge.errors import CandidateError
from evomerge.scoring.engine import Loglikelihood, LoglikelihoodRequest

BATCH_TOKENS = 16_384
"""Most padded tokens of one forward pass."""
BATCH_LOGITS = 1 << 26
"""Most logits kept of one forward pass (256 MiB in float32)."""


def loglikelihoods(
    model: Any, requests: Sequence[LoglikelihoodRequest], max_rows: int
) -> list[Loglikelihood]:
    """Score every continuation; answers in the order asked.

    Args:
        model: A transformers causal language model in evaluation mode.
        requests: Contexts must not be empty; continuations may be.
        max_rows: Most sequences of one forward pass.

    Raises:
        CandidateError: A log-probability is not finite.
    """
    answers = [Loglikelihood(0.0, True)] * len(requests)
    wanted = [place for place, r in enumerate(requests) if r.continuation]
    wanted.sort(key=lambda p: len(requests[p].context) + len(requests[p].continuation))
    for places in _batches(wanted, requests, max_rows, int(model.config.vocab_size)):
        scored = _score(model, [requests[place] for place in places])
        for place, answer in zip(places, scored, strict=True):
            answers[place] = answer
    return answers


def _batches(
    places: Sequence[int],
    requests: Sequence[LoglikelihoodRequest],
    max_rows: int,
    vocab_size: int,
) -> Iterator[list[int]]:
    """Group places, given shortest first, so that no batch outgrows its limits."""
    batch: list[int] = []
    first = 0
    for place in places:
        request = requests[place]
        length = len(request.context) + len(request.continuation)
        first = min(first, len(request.context)) if batch else len(request.context)
        rows = len(batch) + 1
        full = (
            rows > max_rows
            or rows * length > BATCH_TOKENS
            or rows * (length - first) * vocab_size > BATCH_LOGITS
        )
        if full and batch:
            yield batch
            batch, first = [], len(request.context)
        batch.append(place)
    if batch:
        yield batch


@torch.inference_mode()
def _score(model: Any, requests: Sequence[LoglikelihoodRequest]) -> list[Loglikelihood]:
    # The last token is predicted, never read; its place is padded by itself.
    full = [request.context + request.continuation for request in requests]
    width = max(map(len, full)) - 1
    ids = [tokens[:-1] + tokens[-1:] * (width - len(tokens) + 1) for tokens in full]
    first = min(len(request.context) for request in requests) - 1
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, request in enumerate(requests):
        n = len(request.continuation)
        start = len(request.context) - 1 - first
        rows += [row] * n
        columns += range(start, start + n)
        targets += request.continuation
    device = model.device
    kept = model(
        input_ids=torch.tensor(ids, device=device),
        use_cache=False,
        logits_to_keep=torch.arange(first, width, device=device),
    ).logits
    owner = torch.tensor(rows, device=device)
    logits = kept[owner, torch.tensor(columns, device=device)].float()
    target = torch.tensor(targets, device=device).unsqueeze(1)
    chosen = logits.log_softmax(-1).gather(1, target).squeeze(1)
    greedy = (logits >= logits.gather(1, target)).sum(-1) == 1
    zeros = torch.zeros(len(requests), dtype=torch.float64, device=device)
    sums = zeros.index_add(0, owner, chosen.double()).tolist()
    misses = zeros.index_add(0, owner, (~greedy).double()).tolist()
    if not all(map(_is_finite, sums)):
        raise CandidateError(
            "The model's log-probabilities are not finite, although its weights are: "
            "its activations overflow."
        )
    return [Loglikelihood(s, m == 0) for s, m in zip(sums, misses, strict=True)]


def _is_finite(value: float) -> bool:
    return value - value == 0.0
