"""Adam, with Muon for the layers' matrices where a course asks for it.

Written out because torch's own optimisers load its compiler at the first step, which
takes longer than the smallest zoo.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evomerge.zoo.model import EMBED, HEAD, State
from evomerge.zoo.recipes import Course

_BETAS = (0.9, 0.98)
_EPS = 1e-8
_MOMENTUM = 0.95
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


class Optimiser:
    """Updates in place the parameters of one model that need a gradient."""

    def __init__(self, state: State, course: Course) -> None:
        """Sort the parameters to their update rules."""
        trained = {name: value for name, value in state.items() if value.requires_grad}
        matrices = [
            name
            for name, value in trained.items()
            if course.muon_lr and value.ndim == 2 and ".layers." in name
        ]
        ends = [name for name in trained if name in (EMBED, HEAD)]
        body = [name for name in trained if name not in {*matrices, *ends}]
        self._rules: list[tuple[_Adam | _Muon, float]] = [
            (_Adam([trained[name] for name in ends]), course.embed_lr or 0.0),
            (_Adam([trained[name] for name in body]), course.lr),
            (_Muon([trained[name] for name in matrices]), course.muon_lr or 0.0),
        ]
        self._parameters = list(trained.values())

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Apply the gradients and drop them.

        Args:
            factor: Of the peak learning rates, from the schedule.
        """
        for rule, peak in self._rules:
            rule.step(peak * factor)
        for parameter in self._parameters:
            parameter.grad = None


class _Adam:
    """Adam (Kingma & Ba 2015, algorithm 1), without weight decay."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._parameters = parameters
        self._means = [torch.zeros_like(value) for value in parameters]
        self._squares = [torch.zeros_like(value) for value in parameters]
        self._steps = 0

    def step(self, lr: float) -> None:
        self._steps += 1
        beta1, beta2 = _BETAS
        bias1, bias2 = 1 - beta1**self._steps, 1 - beta2**self._steps
        for value, mean, square in zip(
            self._parameters, self._means, self._squares, strict=True
        ):
            gradient = _gradient(value)
            mean.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            size = square.sqrt().div_(math.sqrt(bias2)).add_(_EPS)
            value.addcdiv_(mean, size, value=-lr / bias1)


class _Muon:
    """Muon (Jordan et al. 2024), Nesterov momentum, matrices stacked by shape."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._stacks: dict[torch.Size, list[Tensor]] = {}
        for value in parameters:
            self._stacks.setdefault(value.shape, []).append(value)
        self._momenta = {
            shape: torch.zeros(len(values), *shape)
            for shape, values in self._stacks.items()
        }

    def step(self, lr: float) -> None:
        for shape, values in self._stacks.items():
            gradient = torch.stack([_gradient(value) for value in values])
            momentum = self._momenta[shape].mul_(_MOMENTUM).add_(gradient)
            update = orthogonalise(gradient + _MOMENTUM * momentum)
            scale = math.sqrt(max(1.0, shape[0] / shape[1]))
            for value, change in zip(values, update, strict=True):
                value.sub_(change, alpha=lr * scale)


def _gradient(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad


def orthogonalise(matrices: Tensor) -> Tensor:
    """Push the singular values of each matrix towards one (Newton-Schulz).

    Args:
        matrices: Shape ``(n, rows, columns)``, float32.

    Returns:
        The same shape; singular values lie roughly between 0.7 and 1.2.
    """
    a, b, c = _NEWTON_SCHULZ
    out = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    tall = out.size(-2) > out.size(-1)
    if tall:
        out = out.mT
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = out @ out.mT
        out = a * out + (b * gram + c * gram @ gram) @ out
    return out.mT if tall else out
