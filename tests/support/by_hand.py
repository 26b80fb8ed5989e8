"""Merges of plain state dicts, written a second time from the papers.

Slow and simple: what the engine must agree with. Tensors are cut by hand where a family
fuses them, and norms, biases and routers are merged linearly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from evomerge.core.recipes.operation import Operation
from support.operations import operation

METHODS: Mapping[str, Operation] = {
    "linear": operation("linear", weight=(0.25, 0.75)),
    "task_arithmetic": operation("task_arithmetic", weight=(0.5, -0.25), lambda_=0.75),
    "ties": operation("ties", density=(0.5, 0.25), lambda_=1.25),
    "breadcrumbs": operation(
        "breadcrumbs",
        density=(0.6, 0.3),
        gamma=(0.1, 0.05),
        weight=(1.0, 0.5),
        lambda_=0.5,
    ),
    "slerp": operation("slerp", t=0.3),
}
"""Operations on ``m1`` and ``m2``; three of them on ``base`` besides."""

State = Mapping[str, Tensor]
Formula = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The two inputs and the base, in float64, to the result."""


def merged_by_hand(
    method: str,
    config: Any,
    one: State,
    other: State,
    base: State,
    *,
    whole: bool = False,
) -> dict[str, Tensor]:
    """Merge state dicts as one of ``METHODS`` says.

    Args:
        method: Its name.
        config: The transformers configuration.
        one: State dict of ``m1``.
        other: Of ``m2``.
        base: Of ``base``.
        whole: Cut no tensor, which is enough for methods that go entry by entry.

    Returns:
        A state dict in float32.
    """
    out: dict[str, Tensor] = {}
    for name, start in base.items():
        out[name] = torch.empty(start.shape)
        small = start.ndim == 1 or name.endswith(("gate.weight", "router.weight"))
        formula = (_SMALL if small else _FORMULAS)[method]
        for index in (...,) if whole else _cuts(name, start, config):
            inputs = [state[name][index].double() for state in (one, other, base)]
            out[name][index] = formula(*inputs).float()
    return out


def _cuts(name: str, tensor: Tensor, config: Any) -> Iterator[Any]:
    """Yield an index for each matrix that a stored tensor holds."""
    if tensor.ndim == 3:
        for expert in range(tensor.shape[0]):
            halves = 2 if "gate_up" in name else 1
            yield from ((expert, rows) for rows in _equal(tensor.shape[1], halves))
    elif "gate_up_proj" in name:
        yield from _equal(tensor.shape[0], 2)
    elif "qkv_proj" in name:
        head = config.hidden_size // config.num_attention_heads
        q, kv = config.num_attention_heads * head, config.num_key_value_heads * head
        yield slice(0, q)
        yield slice(q, q + kv)
        yield slice(q + kv, q + 2 * kv)
    else:
        yield ...


def _equal(rows: int, n: int) -> list[slice]:
    return [slice(i * rows // n, (i + 1) * rows // n) for i in range(n)]


def _linear(a: Tensor, b: Tensor, base: Tensor) -> Tensor:
    return 0.25 * a + 0.75 * b


def _task_arithmetic(a: Tensor, b: Tensor, base: Tensor) -> Tensor:
    return base + 0.75 * (0.5 * (a - base) - 0.25 * (b - base))


def _ties(a: Tensor, b: Tensor, base: Tensor) -> Tensor:
    kept = [_largest(a - base, 0.5), _largest(b - base, 0.25)]
    sign = torch.where(kept[0] + kept[1] >= 0, 1.0, -1.0)
    agreeing = [torch.where(delta.sign() == sign, delta, 0.0) for delta in kept]
    count = (agreeing[0] != 0).double() + (agreeing[1] != 0).double()
    return base + 1.25 * (agreeing[0] + agreeing[1]) / count.clamp(min=1)


def _breadcrumbs(a: Tensor, b: Tensor, base: Tensor) -> Tensor:
    crumbs = _middle(a - base, 0.6, 0.1) + 0.5 * _middle(b - base, 0.3, 0.05)
    return base + 0.5 * crumbs


def _slerp(a: Tensor, b: Tensor, base: Tensor) -> Tensor:
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    if abs(cosine) > 0.9995:
        return 0.7 * a + 0.3 * b
    angle = torch.tensor(cosine, dtype=torch.float64).acos()
    near, far = (0.7 * angle).sin(), (0.3 * angle).sin()
    return (near * a + far * b) / angle.sin()


def _largest(delta: Tensor, density: float) -> Tensor:
    n = int(density * delta.numel() + 1e-9)
    order = delta.abs().flatten().argsort(descending=True, stable=True)
    return _only(delta, order[:n])


def _middle(delta: Tensor, density: float, gamma: float) -> Tensor:
    n = delta.numel()
    top, keep = int(gamma * n), int(density * n + 1e-9)
    order = delta.abs().flatten().argsort(descending=True, stable=True)
    return _only(delta, order[top : top + keep])


def _only(delta: Tensor, places: Tensor) -> Tensor:
    out = torch.zeros_like(delta).flatten()
    out[places] = delta.flatten()[places]
    return out.view(delta.shape)


_FORMULAS: Mapping[str, Formula] = {
    "linear": _linear,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
    "breadcrumbs": _breadcrumbs,
    "slerp": _slerp,
}
_SMALL: Mapping[str, Formula] = {
    "linear": _linear,
    "task_arithmetic": _task_arithmetic,
    "ties": lambda a, b, base: base + 1.25 * ((a - base) + (b - base)) / 2,
    "breadcrumbs": lambda a, b, base: base + 0.5 * ((a - base) + 0.5 * (b - base)),
    "slerp": lambda a, b, base: 0.7 * a + 0.3 * b,
}
"""What becomes of norms, biases and routers."""
