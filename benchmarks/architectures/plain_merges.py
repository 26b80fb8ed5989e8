"""Merges of two plain tensors by five methods, written a second time from the papers.

Slow and simple: nothing of what evomerge merges with is used, random masks included.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

METHODS: Mapping[str, str] = {
    "linear": "operator: linear\nknobs: {weight: {a: 0.25, b: 0.75}}\n",
    "task_arithmetic": "operator: task_arithmetic\nknobs: {weight: {a: 0.4, b: 0.7}}\n",
    "ties": "operator: ties\nknobs: {density: 0.5}\n",
    "slerp": "operator: slerp\nknobs: {t: 0.3}\n",
    "dare_linear": "operator: dare_linear\n"
    "knobs: {weight: {a: 0.4, b: 0.7}, density: 0.25, seed: 5}\n",
}
"""Method to what a file of ``a`` and ``b`` says of it."""
BASED = ("task_arithmetic", "ties", "dare_linear")
"""Those that are told a base."""

Formula = Callable[[Tensor, Tensor, Tensor, str], Tensor]
"""The base, the two inputs, in float64, and the tensor's name, to the result."""


def by_hand(
    method: str, base: Tensor, a: Tensor, b: Tensor, name: str, *, whole: bool
) -> Tensor:
    """Merge a tensor, or its piece.

    Args:
        method: One of ``METHODS``.
        base: In float64, as are the others.
        a: The first input.
        b: The second.
        name: Of the tensor; of a piece, what it would be called if stored split.
        whole: By the method itself, as matrices are; else linearly, as norms are.
    """
    return (_FORMULAS if whole else _SMALL)[method](base, a, b, name)


def _linear(_: Tensor, a: Tensor, b: Tensor, __: str) -> Tensor:
    return 0.25 * a + 0.75 * b


def _arithmetic(base: Tensor, a: Tensor, b: Tensor, _: str) -> Tensor:
    return base + 0.4 * (a - base) + 0.7 * (b - base)


def _ties(base: Tensor, a: Tensor, b: Tensor, _: str) -> Tensor:
    """Trim, elect signs, average those that agree (Yadav et al. 2023)."""
    kept = [_largest(one.float() - base.float()) for one in (a, b)]
    sign = torch.where(kept[0] + kept[1] >= 0, 1.0, -1.0)
    agreeing = [torch.where(delta.sign() == sign, delta, 0.0) for delta in kept]
    count = (agreeing[0] != 0).double() + (agreeing[1] != 0).double()
    return base + (agreeing[0].double() + agreeing[1]) / count.clamp(min=1)


def _largest(delta: Tensor) -> Tensor:
    order = delta.abs().flatten().argsort(descending=True, stable=True)
    out = torch.zeros(delta.numel())
    kept = order[: delta.numel() // 2]
    out[kept] = delta.flatten()[kept]
    return out.view(delta.shape)


def _slerp(_: Tensor, a: Tensor, b: Tensor, __: str) -> Tensor:
    """Go 0.3 of the way on the great circle (Shoemake 1985)."""
    if not a.norm() or not b.norm():
        return 0.7 * a + 0.3 * b
    angle = torch.arccos((a * b).sum() / (a.norm() * b.norm()))
    return ((0.7 * angle).sin() * a + (0.3 * angle).sin() * b) / angle.sin()


def _dare(base: Tensor, a: Tensor, b: Tensor, name: str) -> Tensor:
    """Keep a quarter of each difference, and that four times (Yu et al. 2023)."""
    thin = {
        source: (one - base) * _mask(source, name, one) * 4
        for source, one in (("a", a), ("b", b))
    }
    return base + 0.4 * thin["a"] + 0.7 * thin["b"]


def _mask(source: str, name: str, like: Tensor) -> Tensor:
    """Tell which entries stay, as docs/methods.md defines masks.

    Words of SplitMix64 (Steele et al. 2014) from a state that is a hash of what they
    are for; two entries a word, the low half first, kept where it is in the lowest
    quarter of all signed numbers of 32 bits.
    """
    text = json.dumps([5, "dare_linear", source, name], separators=(",", ":"))
    key = hashlib.blake2b(text.encode(), digest_size=8).digest()
    n = like.numel()
    steps = np.arange(1, n // 2 + 2, dtype=np.uint64)
    words = np.frombuffer(key, "<u8") + steps * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    halves = (words ^ (words >> np.uint64(31))).astype("<u8").view("<i4")[:n]
    return torch.from_numpy(halves < -(2**30)).double().view(like.shape)


_FORMULAS: Mapping[str, Formula] = {
    "linear": _linear,
    "task_arithmetic": _arithmetic,
    "ties": _ties,
    "slerp": _slerp,
    "dare_linear": _dare,
}
_SMALL: Mapping[str, Formula] = {
    "linear": _linear,
    "task_arithmetic": _arithmetic,
    "ties": lambda base, a, b, _: base + ((a - base) + (b - base)) / 2,
    "slerp": lambda _, a, b, __: 0.7 * a + 0.3 * b,
    "dare_linear": _arithmetic,
}
"""What becomes of norms, biases, routers and what is recurrent."""
