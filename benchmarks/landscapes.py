"""Toy landscapes that strategies are compared on.

A loss is 0 at the best point and about 1 at a random one. No model is run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evomerge.core.space import (
    Axis,
    ChoiceAxis,
    Condition,
    FloatAxis,
    IntAxis,
    SearchSpace,
    Strand,
)
from evomerge.core.trial import Point

N_PLACES = 24
BLOCK = 4

Judge = Callable[[Point], tuple[float, ...]]


@dataclass(frozen=True)
class Toy:
    """A space and what is good in it.

    Attributes:
        judge: Losses of a point, all smaller is better.
    """

    name: str
    space: SearchSpace
    judge: Judge
    n_objectives: int = 1


def _numbers() -> Toy:
    """Twelve weights that depend on each other: a quadratic in a turned frame."""
    space = SearchSpace(tuple(FloatAxis(f"w{i}", 0.0, 1.0) for i in range(12)))
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    best, scale = rng.uniform(0.2, 0.8, 12), np.geomspace(1.0, 30.0, 12)

    def judge(point: Point) -> tuple[float, ...]:
        x = np.array([float(v) for v in point.values()])
        return (float((scale * (turn @ (x - best)) ** 2).sum()) / 12,)

    return Toy("numbers", space, judge)


def _mixed() -> Toy:
    """A method with a density of its own, six weights, a number of steps."""
    methods = ("linear", "ties", "dare", "slerp")
    space = SearchSpace(
        (
            ChoiceAxis("method", methods),
            FloatAxis("density", 0.1, 1.0, when=Condition("method", ("ties", "dare"))),
            ChoiceAxis("rescale", (True, False), when=Condition("method", ("dare",))),
            IntAxis("groups", 1, 8),
            *(FloatAxis(f"w{i}", 0.0, 1.5) for i in range(6)),
        )
    )
    best = np.random.default_rng(2).uniform(0.2, 1.2, 6)

    def judge(point: Point) -> tuple[float, ...]:
        w = np.array([float(point[f"w{i}"]) for i in range(6)])
        loss = float(((w - best) ** 2).mean()) + 0.05 * abs(int(point["groups"]) - 6)
        loss += {"linear": 0.2, "ties": 0.25, "dare": 0.0, "slerp": 0.4}[
            str(point["method"])
        ]
        loss += abs(float(point.get("density", 0.35)) - 0.35)
        return (loss + 0.2 * (point.get("rescale") is False),)

    return Toy("mixed", space, judge)


def _stack_space() -> SearchSpace:
    run = [Condition(f"gate.{t}", (1,)) for t in range(N_PLACES)]
    gates: list[Axis] = [IntAxis(f"gate.{t}", 0, 1, start=1) for t in range(N_PLACES)]
    donors: list[Axis] = [
        IntAxis(f"donor.{t}", 0, 1, start=0, when=run[t]) for t in range(N_PLACES)
    ]
    scales: list[Axis] = [
        FloatAxis(f"scale.{t}", 0.5, 2.0, start=1.0, log=True, when=run[t])
        for t in range(N_PLACES)
    ]
    sites = tuple((f"gate.{t}", f"donor.{t}", f"scale.{t}") for t in range(N_PLACES))
    return SearchSpace((*gates, *donors, *scales), (Strand(sites),))


def _quality(point: Point) -> float:
    """Loss of a stack: places work in blocks, and a block only as a whole."""
    wanted = "aaaaaabbbbbbbb..aabbbbaa"
    loss = 0.0
    for first in range(0, N_PLACES, BLOCK):
        wrong = 0.0
        for t in range(first, first + BLOCK):
            here = "ab"[int(point[f"donor.{t}"])] if f"donor.{t}" in point else "."
            wrong += here != wanted[t]
            if here != ".":
                wrong += 0.3 * abs(np.log(float(point[f"scale.{t}"])) - 0.2)
        loss += 1.0 - (1.0 - min(wrong / BLOCK, 1.0)) ** 2
    return loss * BLOCK / N_PLACES


def _stack() -> Toy:
    """Gates, donors and scales of 24 layers; half of it is right at the start."""
    return Toy("stack", _stack_space(), lambda point: (_quality(point),))


def _short_stack() -> Toy:
    """The same, as good and as shallow as possible."""

    def judge(point: Point) -> tuple[float, ...]:
        depth = sum(int(point[f"gate.{t}"]) for t in range(N_PLACES))
        return _quality(point), depth / N_PLACES

    return Toy("short stack", _stack_space(), judge, n_objectives=2)


TOYS = (_numbers(), _mixed(), _stack(), _short_stack())
