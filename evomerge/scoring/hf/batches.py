"""What a transformers model answers, and what it thinks of continuations, in batches.

Answers, greedy and sampled, come by our own loop
instead of ``model.generate``: each row has its own limit and stop strings, and tokens
are counted exactly (``decoding``).

Log-probabilities come from a few right-padded batches. Under causal attention no token
sees what stands after it, so padding on the right needs no mask, and the model takes
its fastest path. Only the rows of logits that continuations need are computed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evomerge.errors import CandidateError
from evomerge.scoring.engine import (
    Completion,
    GenerateRequest,
    Loglikelihood,
    LoglikelihoodRequest,
    answer_text,
    room,
)
from evomerge.scoring.hf.decoding import decode
from evomerge.scoring.hf.forward import Forward, Way

BATCH_TOKENS = 32_768
"""Most tokens, answers included, that one batch may come to hold in its cache."""
MOST_RAGGED = 32
"""Most tokens by which prompts of one batch differ that cannot be padded."""


@dataclass(frozen=True)
class Generator:
    """A model with what it needs to answer in text.

    Attributes:
        forward: The model.
        way: How its answers may grow.
        tokenizer: Its tokenizer.
        end_tokens: Token ids that end an answer.
        max_length: Tokens of the longest sequence, answer included.
    """

    forward: Forward
    way: Way
    tokenizer: Any
    end_tokens: frozenset[int]
    max_length: int

    def answer(
        self, requests: Sequence[GenerateRequest], max_rows: int
    ) -> list[Completion]:
        """Continue every prompt, ``max_rows`` at a time; answers in the order asked.

        Raises:
            CandidateError: The model's logits are not finite.
        """
        answers: dict[int, Completion] = {}
        order = sorted(range(len(requests)), key=lambda p: len(requests[p].prompt))
        batch: list[int] = []
        for place in order:
            request = requests[place]
            longest = len(request.prompt) + room(request, self.max_length)
            rows = len(batch) + 1
            full = rows > max_rows or rows * longest > BATCH_TOKENS
            if batch and self.way in ("placed", "ragged"):
                shortest = len(requests[batch[0]].prompt)
                full |= len(request.prompt) - shortest > MOST_RAGGED
            if batch and full:
                answers |= self._batch(requests, batch)
                batch = []
            batch.append(place)
        if batch:
            answers |= self._batch(requests, batch)
        return [answers[place] for place in range(len(requests))]

    def _batch(
        self, requests: Sequence[GenerateRequest], places: Sequence[int]
    ) -> dict[int, Completion]:
        rows = [Row(requests[place], self) for place in places]
        decode(self.forward, rows, self.way)
        return {place: row.finish() for place, row in zip(places, rows, strict=True)}


@dataclass
class Row:
    """One answer as it grows."""

    request: GenerateRequest
    speaker: Generator
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    def __post_init__(self) -> None:
        self.limit = room(self.request, self.speaker.max_length)
        self.stops = tuple(stop for stop in self.request.stop if stop)
        self.text = _TextStream(self.speaker.tokenizer) if self.stops else None
        self.generator = torch.Generator().manual_seed(self.request.seed)

    @property
    def open(self) -> bool:
        """The answer goes on."""
        return not self.ended and len(self.tokens) < self.limit

    def add(self, token: int) -> None:
        """Take one more token."""
        self.tokens.append(token)
        self.ended = token in self.speaker.end_tokens
        if self.text is not None and not self.ended:
            self.ended = self.text.add(token, self.stops)

    def finish(self) -> Completion:
        """Return the answer as far as it has grown."""
        text = answer_text(self.speaker.tokenizer, self.tokens, self.stops)
        return Completion(text, len(self.tokens), truncated=not self.ended)


class _TextStream:
    """Text of an answer, token by token, watched for stop strings."""

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._fast: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._tail = ""
        self._tokens: list[int] = []

    def add(self, token: int, stops: Sequence[str]) -> bool:
        """Take one more token; tell whether a stop string is now in the text."""
        if self._fast is None:  # a tokenizer in pure Python: decode from the start
            self._tokens.append(token)
            self._tail = self._tokenizer.decode(self._tokens, skip_special_tokens=True)
        else:
            self._tail += self._stream.step(self._fast, token) or ""
        found = any(stop in self._tail for stop in stops)
        self._tail = self._tail[-max(map(len, stops)) :]
        return found


SCORED_TOKENS = 16_384
"""Most padded tokens of one forward pass."""
SCORED_LOGITS = 1 << 26
"""Most logits kept of one forward pass (256 MiB in float32)."""


def loglikelihoods(
    forward: Forward, requests: Sequence[LoglikelihoodRequest], max_rows: int
) -> list[Loglikelihood]:
    """Score every continuation; answers in the order asked.

    Args:
        forward: The model.
        requests: Contexts must not be empty; continuations may be.
        max_rows: Most sequences of one forward pass.

    Raises:
        CandidateError: A log-probability is not finite.
    """
    answers = [Loglikelihood(0.0, True)] * len(requests)
    wanted = [place for place, r in enumerate(requests) if r.continuation]
    wanted.sort(key=lambda p: len(requests[p].context) + len(requests[p].continuation))
    for places in _batches(wanted, requests, max_rows, forward.vocab_size):
        scored = _score(forward, [requests[place] for place in places])
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
            or rows * length > SCORED_TOKENS
            or rows * (length - first) * vocab_size > SCORED_LOGITS
        )
        if full and batch:
            yield batch
            batch, first = [], len(request.context)
        batch.append(place)
    if batch:
        yield batch


@torch.inference_mode()
def _score(
    forward: Forward, requests: Sequence[LoglikelihoodRequest]
) -> list[Loglikelihood]:
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
    device = forward.model.device
    kept, _ = forward(
        torch.tensor(ids, device=device), torch.arange(first, width, device=device)
    )
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
