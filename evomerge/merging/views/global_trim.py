"""What a tensor of a merge is of all tensors that are trimmed together with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from evomerge.core.digest import digest
from evomerge.core.operators.derived import (
    MODEL_MAGNITUDES,
    MODEL_MAGNITUDES_OFF_GRID,
)
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.settings import resolve
from evomerge.merging.operators.inputs import Memo
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.thresholds.magnitude_thresholds import GRID, Cuts
from evomerge.merging.operators.thresholds.model_thresholds import Share, model_cuts
from evomerge.merging.operators.thresholds.sparsify import keep_count


@dataclass(frozen=True, slots=True)
class Member:
    """A tensor, or a piece of one, that is trimmed together with others.

    Attributes:
        n: Its entries.
        holds: Name of an input to a name for what the input holds here.
        read: Name of an input to its tensor.
    """

    n: int
    holds: Callable[[str], str]
    read: Callable[[str], torch.Tensor]


Members = Callable[[], Iterable[tuple[Operation, Member]]]
"""Gives every tensor that is trimmed with the others, in order, and its operation."""

_Spot = tuple[str, str]
"""What an input and its base hold in one tensor: a layer used twice counts once."""


@dataclass(frozen=True, slots=True)
class _Whole:
    n: int
    starts: dict[_Spot, int]
    cuts: Cuts


class ModelShares:
    """Finds the cuts of an input over a whole merge when they are first asked for."""

    def __init__(self, members: Members, memo: Memo) -> None:
        """Remember where to look.

        Args:
            members: What is trimmed together.
            memo: Where cuts are kept from one candidate to the next.
        """
        self._members = members
        self._memo = memo
        self._known: dict[tuple[str, str], _Whole] = {}

    def share(self, operation: Operation, member: Member, source: str) -> Share:
        """Return what a tensor is of all the differences of an input.

        Args:
            operation: Its own, over a base.
            member: The tensor; one of the members.
            source: Name of the input.
        """
        assert operation.base is not None
        pair = source, operation.base
        if pair not in self._known:
            self._known[pair] = self._whole(*pair)
        whole = self._known[pair]
        return Share(whole.n, whole.starts[_spot(member, *pair)], whole.cuts)

    def _whole(self, source: str, base: str) -> _Whole:
        starts: dict[_Spot, int] = {}
        order: list[Member] = []
        asked: set[tuple[float, bool]] = set()
        total = 0
        for operation, member in self._members():
            if operation.base != base or source not in operation.inputs:
                continue
            asked.add(_asked(operation, source))
            spot = _spot(member, source, base)
            if spot not in starts:
                starts[spot] = total
                order.append(member)
                total += member.n
        usual = {
            keep_count(part / GRID, total, guard=guard)
            for part in range(1, GRID)
            for guard in (False, True)
        }
        others = {keep_count(d, total, guard=guard) for d, guard in asked} - usual
        keeps = [keep for keep in sorted(usual | others) if 0 < keep < total]
        what = digest([list(spot) for spot in starts])
        kind = MODEL_MAGNITUDES
        if others:
            kind = MODEL_MAGNITUDES_OFF_GRID.at(digest(sorted(others)))
        reads = [_reader(member, source, base) for member in order]
        cuts = self._memo.recall(kind, (what,), lambda: model_cuts(reads, keeps))
        return _Whole(total, starts, cuts)


def _asked(operation: Operation, source: str) -> tuple[float, bool]:
    """Return the density of an input, and how it is rounded."""
    settings = resolve(operation)
    density = settings.numbers("density")[operation.inputs.index(source)]
    return density, settings.choice("rounding") != "int"


def _spot(member: Member, source: str, base: str) -> _Spot:
    return member.holds(source), member.holds(base)


def _reader(member: Member, source: str, base: str) -> Callable[[], Deltas]:
    return lambda: Deltas([member.read(source)], member.read(base))
