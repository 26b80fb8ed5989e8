"""How answers grow, token by token, whatever cache a model has.

Models of attention alone read prompts that are padded on the left, all at once. Those
with a recurrent state read what all prompts are long enough for, and then every row its
own next token, from the prompt as long as there is one: no padding ever enters a state.
Models without a cache read everything anew for every token, padded on the right, where
no token looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from evomerge.errors import CandidateError
from evomerge.scoring.engine import GenerateRequest
from evomerge.scoring.hf.forward import Forward, Way


class Row(Protocol):
    """One answer as it grows."""

    request: GenerateRequest
    tokens: list[int]
    generator: torch.Generator

    @property
    def open(self) -> bool:
        """The answer goes on."""

    def add(self, token: int) -> None:
        """Take one more token."""


@torch.inference_mode()
def decode(forward: Forward, rows: Sequence[Row], way: Way) -> None:
    """Grow every row until it ends or is full.

    Args:
        forward: The model.
        rows: Answers that have not begun.
        way: One that is right for the model.

    Raises:
        CandidateError: The model's logits are not finite.
    """
    if way == "padded":
        _decode_padded(forward, list(rows))
    elif way == "anew":
        _decode_anew(forward, list(rows))
    else:
        _decode_ragged(forward, list(rows), placed=way == "placed")


def _decode_padded(forward: Forward, rows: list[Row]) -> None:
    device = forward.model.device
    width = max(len(row.request.prompt) for row in rows)
    gaps = [width - len(row.request.prompt) for row in rows]
    ids = torch.tensor(
        [
            row.request.prompt[:1] * gap + row.request.prompt
            for row, gap in zip(rows, gaps, strict=True)
        ],
        device=device,
    )
    gap = torch.tensor(gaps, device=device).unsqueeze(1)
    places = torch.arange(width, device=device).unsqueeze(0) - gap
    mask = (places >= 0).long()
    position = places.clamp_min(0)
    cache = None
    while rows:
        logits, cache = forward(
            ids, 1, cache=cache, use_cache=True, mask=mask, position=position
        )
        for row, token in zip(rows, choose(logits[:, -1], rows), strict=True):
            row.add(token)
        keep = [place for place, row in enumerate(rows) if row.open]
        if len(keep) < len(rows):
            rows = [rows[place] for place in keep]
            if not rows:
                return
            index = torch.tensor(keep, device=device)
            cache.batch_select_indices(index)
            mask, position = mask[index], position[index]
        ids = torch.tensor([row.tokens[-1:] for row in rows], device=device)
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        position = position[:, -1:] + 1


def _decode_ragged(forward: Forward, rows: list[Row], *, placed: bool) -> None:
    device = forward.model.device
    read = min(len(row.request.prompt) for row in rows)
    ids = torch.tensor([row.request.prompt[:read] for row in rows], device=device)
    cache = None
    while True:
        position = torch.arange(read - ids.shape[1], read, device=device).expand_as(ids)
        told = {"position": position} if placed else {}
        logits, cache = forward(ids, 1, cache=cache, use_cache=True, **told)
        chosen = choose(logits[:, -1], rows)
        following = []
        for row, token in zip(rows, chosen, strict=True):
            if read < len(row.request.prompt):
                following.append(row.request.prompt[read])
                continue
            if row.open:
                row.add(token)
            following.append(row.tokens[-1])
        if not any(row.open for row in rows):
            return
        read += 1
        ids = torch.tensor([[token] for token in following], device=device)


def _decode_anew(forward: Forward, rows: list[Row]) -> None:
    device = forward.model.device
    while rows:
        texts = [[*row.request.prompt, *row.tokens] for row in rows]
        width = max(map(len, texts))
        ids = torch.tensor(
            [text + text[-1:] * (width - len(text)) for text in texts], device=device
        )
        first = min(map(len, texts)) - 1
        logits, _ = forward(ids, torch.arange(first, width, device=device))
        ends = torch.tensor([len(text) - 1 - first for text in texts], device=device)
        last = logits[torch.arange(len(rows), device=device), ends]
        for row, token in zip(rows, choose(last, rows), strict=True):
            row.add(token)
        rows = [row for row in rows if row.open]


def choose(logits: torch.Tensor, rows: Sequence[Row]) -> list[int]:
    """Pick each row's next token from logits of shape ``(n_rows, n_vocab)``."""
    best, greedy = logits.max(dim=-1)
    if not bool(torch.isfinite(best).all()):  # max passes NaN on
        raise CandidateError(
            "The model's logits are not finite, although its weights are: its "
            "activations overflow."
        )
    tokens: list[int] = greedy.tolist()
    for place, row in enumerate(rows):
        if row.request.temperature > 0.0 and row.open:
            tokens[place] = _sample(logits[place], row)
    return tokens


def _sample(logits: torch.Tensor, row: Row) -> int:
    """Draw from the nucleus: the likeliest tokens that hold ``top_p`` of the mass."""
    scaled = logits.float().cpu() / row.request.temperature
    probability, token = scaled.softmax(-1).sort(descending=True, stable=True)
    before = probability.cumsum(-1) - probability
    probability[before >= row.request.top_p] = 0.0
    probability[0] = probability[0].clamp_min(torch.finfo(torch.float32).tiny)
    drawn = torch.multinomial(probability, 1, generator=row.generator)
    return int(token[drawn])
