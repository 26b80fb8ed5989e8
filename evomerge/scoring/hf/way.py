"""The way in which a model's answers may grow: tried before anything is scored.

Some classes of transformers compute something else with their cache than without it:
for several prompts at once, or for text alone. A wrong answer would look like any
other. So the quickest way that the class promises is tried on a few made-up prompts
against the model without a cache, and left for a slower one if it differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch

from evomerge.errors import CheckpointError
from evomerge.scoring.hf.forward import Forward, Way

_LENGTHS = (3, 5, 6, 8)
_STEPS = 3
_MOST = 0.05
"""Difference of logits, as a share of the largest, that rounding does not explain."""
_OFTEN = 0.3
"""Share of tokens that differ by more where a way is wrong."""


@torch.inference_mode()
def find_way(forward: Forward, among: Sequence[Way] = ()) -> Way:
    """Return the quickest way of decoding that is right for a model.

    Args:
        forward: The model.
        among: The only ways that come into question, quickest first; all if empty.
    """
    *quick, slow = among or forward.ways
    return next((way for way in quick if _is_right(forward, way)), slow)


@torch.inference_mode()
def check_batches(forward: Forward) -> None:
    """Make sure that texts scored together score as each does by itself.

    Raises:
        CheckpointError: They do not, as padding behind a text changes it.
    """
    device = forward.model.device
    texts = [_texts(length) for length in _LENGTHS]
    width = max(_LENGTHS)
    ids = [text + text[-1:] * (width - len(text)) for text in texts]
    every = torch.arange(width, device=device)
    together, _ = forward(torch.tensor(ids, device=device), every)
    differences = []
    for text, logits in zip(texts, together, strict=True):
        wanted, _ = forward(torch.tensor([text], device=device), every[: len(text)])
        scale = wanted.abs().max().clamp_min(1e-6)
        off = (logits[: len(text)] - wanted[0]).abs().amax(-1) / scale
        differences.append(off.float())
    if not _is_rare(differences):
        raise CheckpointError(
            f"{type(forward.model).__name__} computes something else for several texts "
            "at once than for each by itself, so it is not scored here."
        )


def _is_rare(differences: list[torch.Tensor]) -> bool:
    return bool((torch.cat(differences) > _MOST).float().mean() < _OFTEN)


def _is_right(forward: Forward, way: Way) -> bool:
    """Compare logits after every token, over all prompts.

    A few may differ by chance, as when experts are chosen by a hair's breadth.
    """
    ended = {length: _texts(length + _STEPS - 1) for length in _LENGTHS}
    read = (
        [texts[:length] for length, texts in ended.items()]
        if way == "padded"
        else [texts[: min(_LENGTHS)] for texts in ended.values()]
    )
    try:
        found = _cached(forward, read, list(ended.values()), way)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):
        return False
    device = forward.model.device
    differences = []
    for text, begun, logits in zip(ended.values(), read, found, strict=True):
        columns = torch.arange(len(begun) - 1, len(begun) + _STEPS - 1, device=device)
        wanted, _ = forward(torch.tensor([text], device=device), columns)
        scale = wanted.abs().max().clamp_min(1e-6)
        off = (logits - wanted[0][: len(logits)]).abs().amax(-1) / scale
        differences.append(off.float())
    return _is_rare(differences)


def _cached(
    forward: Forward, read: list[list[int]], texts: list[list[int]], way: Way
) -> list[torch.Tensor]:
    """Read texts with a cache; logits of each, ``(n_steps, n_vocab)``.

    Where rows that have ended are left out, the last of them ends a step early.
    """
    device = forward.model.device
    width = max(map(len, read))
    gaps = torch.tensor([[width - len(one)] for one in read], device=device)
    ids = torch.tensor(
        [one[:1] * (width - len(one)) + one for one in read], device=device
    )
    cache: Any = None
    steps: list[list[torch.Tensor]] = []
    for step in range(_STEPS):
        told = {}
        places = torch.arange(width + step, device=device) - gaps
        if way in ("padded", "placed"):
            told["position"] = places.clamp_min(0)[:, -ids.shape[1] :]
        if way == "padded" and step == _STEPS - 1:
            ids, places = ids[:-1], places[:-1]
            told["position"] = told["position"][:-1]
            cache.batch_select_indices(torch.arange(len(ids), device=device))
        if way == "padded":
            told["mask"] = (places >= 0).long()
        logits, cache = forward(ids, 1, cache=cache, use_cache=True, **told)
        steps.append(list(logits[:, -1]))
        following = [
            text[len(one) + step] if len(one) + step < len(text) else 0
            for one, text in zip(read, texts, strict=True)
        ]
        ids = torch.tensor([[token] for token in following], device=device)
    return [
        torch.stack([one for one in row if one is not None])
        for row in zip_longest(*steps)
    ]


def _texts(length: int) -> list[int]:
    return [5 + (3 * length + 7 * place) % 60 for place in range(length)]
