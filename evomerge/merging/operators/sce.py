"""SCE (Wan et al. 2024, 2408.07990): select by variance, weigh by energy, erase."""

from collections.abc import Sequence

import torch

from evomerge.core.settings import Settings
from evomerge.merging.operators.blocks import Deltas, total
from evomerge.merging.operators.combine import stacks
from evomerge.merging.operators.consensus import Election, Rule
from evomerge.merging.operators.memo import NOTHING_KEPT, Known, Memo
from evomerge.merging.operators.order import Cut, Score, cuts, in_blocks, keep_block
from evomerge.merging.operators.sparsify import whole
from evomerge.merging.operators.thinning import Step, Steps, Thin


def sce(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> Election:
    """Average those who agree, by their energy where the inputs differ most.

    The selection of entries decides the weights; with the scope ``all``, as mergekit
    has it, it drops the other entries as well.
    """
    known = Known(memo, settings.operation, key)
    deltas = Deltas(tensors, base, known=known)
    thin = select(deltas, settings)
    floor = settings.number("floor")
    what = f"energies {settings.number('select_topk')} {settings.choice('rounding')}"
    what += f" {floor}"
    shares = deltas.recall(
        what, range(len(deltas)), lambda: energies(deltas, thin, floor)
    )
    rule = Rule(shares, settings.number("lambda"), plain=True)
    everywhere = settings.choice("mask_scope") == "all"
    return Election(deltas, thin if everywhere else nothing(deltas), rule)


def nothing(deltas: Deltas) -> Thin:
    """Return the thinning that drops nothing."""
    return Steps(leave, (Step(),) * len(deltas))


def leave(index: int, block: slice, delta: torch.Tensor) -> None:
    """Drop nothing."""


def select(deltas: Deltas, settings: Settings) -> Thin:
    """Keep the entries, the same of every input, in which the inputs vary most.

    Args:
        deltas: What to thin.
        settings: Read for ``select_topk`` and ``rounding``.
    """
    part = settings.number("select_topk")
    if part >= 1.0:
        return nothing(deltas)
    variance = _variance(deltas)
    guard = settings.choice("rounding") != "int"

    def find() -> Cut:
        varied = sum(int(torch.count_nonzero(variance(b))) for b in deltas.blocks())
        keep = whole(part * varied, guard=guard)
        return cuts(deltas, in_blocks(deltas, variance), (keep,))[0]

    at = deltas.recall(f"varied {part} {guard}", range(len(deltas)), find)
    return _Selection(deltas, variance, at)


class _Selection:
    """Zeroes what a cut by variance drops; finds it once for all inputs of a block."""

    def __init__(self, deltas: Deltas, variance: Score, at: Cut) -> None:
        self._variance = variance
        self._at = at
        self._kept = deltas.scratch()
        self._block = slice(0, 0)

    def __call__(self, index: int, block: slice, delta: torch.Tensor) -> None:
        kept = self._kept[: len(delta)]
        if block != self._block:
            keep_block(self._at, block, self._variance(block), kept)
            self._block = block
        delta.mul_(kept)


def _variance(deltas: Deltas) -> Score:
    """Score an entry by the variance of its differences over the inputs.

    In fp64, rounded once: the order of the inputs does not decide between entries.
    """
    space = deltas.scratch()
    wide = [torch.empty_like(space, dtype=torch.float64) for _ in range(2)]

    def score(block: slice) -> torch.Tensor:
        base, length = deltas.base(block), block.stop - block.start
        mean, spread = (values[:length].zero_() for values in wide)
        for index in range(len(deltas)):
            mean.add_(deltas.read(index, block, base, space))
        mean.div_(len(deltas))
        for index in range(len(deltas)):
            delta = deltas.read(index, block, base, space)
            spread.add_(torch.sub(delta, mean).square_())
        # What is no number may carry a sign, and scores are told apart by their bits.
        return space[:length].copy_(spread.div_(len(deltas))).abs_()

    return score


def energies(deltas: Deltas, thin: Thin, floor: float = 0.0) -> tuple[float, ...]:
    """Return each input's share of the squares of what a thinning leaves.

    Where their means over the tensor sum to less than ``floor``, all are alike.
    """
    sums = torch.zeros(len(deltas), dtype=torch.float64, device=deltas.device)
    for block, _, read in stacks(deltas):
        for index, delta in enumerate(read):
            thin(index, block, delta)
            sums[index] += total(delta.square_())
    whole_sum = float(sums.sum())
    if whole_sum == 0.0 or whole_sum < floor * deltas.n:
        return (1.0 / len(deltas),) * len(deltas)
    return tuple((sums / whole_sum).tolist())
