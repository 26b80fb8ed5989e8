"""TIES-Merging (Yadav et al. 2023): trim, elect, merge those who agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from evomerge.merging.constants import CANCELLED
from evomerge.merging.operators.device.fused_device import FUSED, can_fuse_on_device
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.lazy_merge import LazyMerge
from evomerge.merging.operators.loops.onepass import Rule, can_fuse, fused_election
from evomerge.merging.operators.loops.thinning import Thin
from evomerge.merging.operators.thresholds.model_thresholds import trim_in_model
from evomerge.merging.operators.thresholds.sparsify import keep_l1, trim


@dataclass(frozen=True, slots=True)
class Election(LazyMerge):
    """A merge of those who agree, decided and not carried out yet."""

    deltas: Deltas
    thin: Thin
    rule: Rule

    def into(self, out: torch.Tensor) -> bool:
        """See :meth:`LazyMerge.into`."""
        rule = self.rule
        # A majority is known only after all entries were seen. What compiled code finds
        # not finite is left to torch to tell.
        if (
            not rule.majority
            and can_fuse(self.deltas, self.thin, out)
            and fused_election(self.deltas, self.thin, rule, out)
        ):
            return True
        if (
            not rule.majority
            and can_fuse_on_device(self.deltas, self.thin, out)
            and FUSED.elect(self.deltas, self.thin, rule, out, self._step_by_step)
        ):
            return True
        self.by_steps(out, self._step_by_step)
        return False

    def _step_by_step(self, into: torch.Tensor) -> None:
        merged = merged_blocks(self.deltas, self.thin, self.rule, into)
        for _, base, part in merged:
            if base is not None:
                part.add_(base)


def merged_blocks(
    deltas: Deltas, thin: Thin, rule: Rule, into: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor | None, torch.Tensor]]:
    """Merge the differences of those who agree, a block at a time.

    Args:
        deltas: What to merge.
        thin: What each input keeps.
        rule: How.
        into: fp32, flat, as long as the tensor.

    Yields:
        The block, the base's block, and the part of ``into`` that now holds ``scale *
        (merged agreeing differences)``; it may be changed.
    """
    stack = _Stack(deltas, thin, rule)
    plus_on_draw = not rule.majority or _majority(stack) >= 0
    for block in deltas.blocks():
        base, weighted, tally = stack.read(block)
        sign = _signs(tally, plus_on_draw=plus_on_draw)
        part = into[block]
        stack.merge(weighted, sign, part)
        yield block, base, part.mul_(rule.scale)


class _Stack:
    """A block of the thinned, weighted differences of every input."""

    def __init__(self, deltas: Deltas, thin: Thin, rule: Rule) -> None:
        self.deltas = deltas
        self.rule = rule
        self._thin = thin
        self._spaces = [deltas.scratch() for _ in range(len(deltas))]
        self._tally = deltas.scratch()
        self._under = deltas.scratch()
        self._flag = deltas.scratch()

    def read(
        self, block: slice
    ) -> tuple[torch.Tensor | None, list[torch.Tensor], torch.Tensor]:
        """Return the base's block, every input's, and each entry's tally of votes.

        The sign of the tally is the elected one. All are overwritten by the next call.
        """
        base = self.deltas.base(block)
        tally = self._tally[: block.stop - block.start]
        weighted = []
        for index, weight in enumerate(self.rule.weights):
            delta = self.deltas.read(index, block, base, self._spaces[index])
            self._thin(index, block, delta)
            if self.rule.plain:
                self._vote(index, delta, tally)
            delta.mul_(weight)
            if not self.rule.plain:
                self._vote(index, delta, tally)
            weighted.append(delta)
        return base, weighted, tally

    def _vote(self, index: int, values: torch.Tensor, tally: torch.Tensor) -> None:
        if self.rule.count:
            values = torch.sign(values, out=self._flag[: len(tally)])
        if index:
            tally.add_(values)
        else:
            tally.copy_(values)

    def merge(
        self, weighted: Sequence[torch.Tensor], sign: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Write the sum or mean over those who agree with the sign to ``out``.

        Changes the weighted blocks.
        """
        for values in weighted:
            values.mul_(sign)  # positive now means agreeing, zero is no opinion
        if self.rule.normalize:
            self._mean(weighted, out)
        else:
            torch.clamp_min(weighted[0], 0.0, out=out)
            for values in weighted[1:]:
                out.add_(values.clamp_min_(0.0))
        out.mul_(sign)

    def _mean(self, weighted: Sequence[torch.Tensor], out: torch.Tensor) -> None:
        under, flag = self._under[: len(out)].zero_(), self._flag[: len(out)]
        size = torch.zeros_like(under) if min(self.rule.weights) < 0 else under
        out.zero_()
        for values, weight in zip(weighted, self.rule.weights, strict=True):
            torch.gt(values, 0.0, out=flag)
            under.add_(flag, alpha=weight)
            if size is not under:
                size.add_(flag, alpha=abs(weight))
            out.add_(values.clamp_min_(0.0))
        if size is not under:
            # Weights of both signs may cancel: no mean exists, the entry stays zero.
            out.mul_(under.abs() > size.mul_(CANCELLED))
        under.add_(torch.eq(under, 0.0, out=flag))  # nobody agreed: zero over one
        out.div_(under)


def _majority(stack: _Stack) -> int:
    """Return the sum of all elected signs of the tensor."""
    total = 0
    for block in stack.deltas.blocks():
        _, _, tally = stack.read(block)
        total += int(tally.sign_().sum(dtype=torch.float64))
    return total


def _signs(tally: torch.Tensor, *, plus_on_draw: bool) -> torch.Tensor:
    """Turn tallies, in place, into +1 and -1."""
    compare = torch.ge if plus_on_draw else torch.gt
    return compare(tally, 0.0, out=tally).mul_(2.0).sub_(1.0)


def ties(inputs: Inputs) -> Election:
    """Trim each input's differences, elect a sign per entry, average who agrees.

    With the scope ``model`` a tensor is trimmed together with those that it is
    told of; one that is merged alone is the whole model.
    """
    settings = inputs.settings
    densities = settings.numbers("density")
    guard = settings.choice("rounding") != "int"
    deltas = Deltas.of(inputs)
    rule = replace(
        Rule.of(settings),
        count=settings.choice("consensus") == "count",
        majority=settings.choice("zero_rule") == "majority",
    )
    if inputs.in_model is None:
        thin = trim(deltas, densities, guard=guard)
    else:
        shares = [inputs.in_model(name) for name in inputs.operation.inputs]
        thin = trim_in_model(deltas, shares, densities, guard=guard)
    if settings.choice("rescale") == "l1":
        thin = keep_l1(deltas, thin)
    return Election(deltas, thin, rule)
