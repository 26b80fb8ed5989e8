"""Forms carried out step by step, a block at a time: the reference, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from evomerge.merging.form import Cut, Form, PerEntry, PerRow, Step
from evomerge.merging.operators.executors.formulas import left, merged, thinned
from evomerge.merging.operators.loops.blocks import Deltas, check_finite, stacks
from evomerge.merging.operators.loops.counter import Coins
from evomerge.merging.operators.loops.order_statistics import MOST_RANKS, ranks


class Block:
    """Where a block stands; see :class:`formulas.Place`.

    Args:
        deltas: What blocks are of.
    """

    def __init__(self, deltas: Deltas) -> None:
        self._deltas = deltas
        self._coins: Coins | None = None
        self._block = slice(0, 0)

    def at(self, block: slice) -> Block:
        """Go to a block."""
        self._block = block
        return self

    def below(self, cut: Cut, scores: torch.Tensor) -> torch.Tensor:
        """See :class:`formulas.Place`."""
        middle = min(max(cut.last + 1 - self._block.start, 0), len(scores))
        gone = torch.empty_like(scores, dtype=torch.bool)
        torch.lt(scores[:middle], cut.threshold, out=gone[:middle])
        torch.le(scores[middle:], cut.threshold, out=gone[middle:])
        return gone

    def lanes(self, key: int) -> torch.Tensor:
        """See :class:`formulas.Place`."""
        if self._coins is None:
            size = min(self._deltas.n, self._deltas.block_size)
            self._coins = Coins(size, self._deltas.device)
        return self._coins.lanes(key, self._block)

    def per_entry(self, found: PerEntry) -> torch.Tensor:
        """See :class:`formulas.Place`."""
        return found.values[self._block]

    def per_row(self, found: PerRow) -> torch.Tensor:
        """See :class:`formulas.Place`."""
        low, high = self._block.start, self._block.stop
        first, last = low // found.row, -(-high // found.row)
        whole = found.values[first:last].repeat_interleave(found.row)
        skipped = low - first * found.row
        return whole[skipped : skipped + high - low]

    def by_column(self, row: torch.Tensor) -> torch.Tensor:
        """See :class:`formulas.Place`."""
        low, n = self._block.start % len(row), self._block.stop - self._block.start
        return row.repeat(-(-(low + n) // len(row)))[low : low + n]

    def ranks(self, row: int, delta: torch.Tensor) -> torch.Tensor:
        """See :class:`formulas.Place`."""
        found = ranks(delta.abs().view(-1, row)).view(-1)
        return found.to(torch.uint16) if row <= MOST_RANKS else found


def write(deltas: Deltas, form: Form, key: str, into: torch.Tensor) -> None:
    """Write a merge to a flat fp32 tensor.

    Args:
        deltas: What is merged.
        form: How.
        key: Name of the tensor, for messages.
        into: As long as the tensor.

    Raises:
        CandidateError: A difference is not finite where the form looks at that.
    """
    place = Block(deltas)
    for block, base, read in stacks(deltas):
        if form.checked:
            check_finite(read, key)
        found = merged(form, read, place.at(block))
        into[block] = found if base is None or form.bare else found.add_(base)


def thinned_blocks(
    deltas: Deltas, form: Form
) -> Iterator[tuple[slice, Sequence[torch.Tensor]]]:
    """Yield blocks with what is left of every input's differences."""
    place = Block(deltas)
    for block, _, read in stacks(deltas):
        yield block, thinned(form, read, place.at(block))


def left_blocks(
    deltas: Deltas, step: Step, index: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield blocks of one input's differences, and of what a step leaves of them."""
    place, space = Block(deltas), deltas.scratch()
    for block in deltas.blocks():
        delta = deltas.read(index, block, deltas.base(block), space)
        yield delta, left(step, delta, place.at(block))
