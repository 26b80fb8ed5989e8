"""One merge on an accelerator as code compiled for its form takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from evomerge.merging.constants import CERTAIN
from evomerge.merging.operators.device.formulas import (
    ROW,
    Entries,
    Formula,
    Tables,
    Thinning,
    Vote,
)
from evomerge.merging.operators.inputs import Cut
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.counter import signed
from evomerge.merging.operators.loops.onepass import Total
from evomerge.merging.operators.loops.thinning import (
    AnyCoin,
    Coin,
    RankedCoin,
    Step,
    Steps,
    Thin,
)

_MOST_ROWS = (1 << 30) // ROW
"""Rows merged at a time: their entries are counted in 32 bits."""
_WORDS = {2: torch.int16, 4: torch.int32}
_EVERYTHING, _NOTHING = Cut(-1.0, -1), Cut(float("inf"), -1)

StepByStep = Callable[[torch.Tensor], None]
"""Writes a merge to a flat fp32 tensor, by the steps that are the reference."""


@dataclass(frozen=True, slots=True)
class Form:
    """What code is compiled for.

    Attributes:
        inputs: Their element types.
        base: Its element type, if there is a base.
        out: Element type of the result.
        device: Where all of them lie.
        thinning: What may drop an entry.
        vote: How signs are elected; None for the sum.
    """

    inputs: tuple[torch.dtype, ...]
    base: torch.dtype | None
    out: torch.dtype
    device: torch.device
    thinning: Thinning | None
    vote: Vote | None


class Job:
    """One merge as compiled code takes it."""

    def __init__(
        self,
        deltas: Deltas,
        thin: Thin | None,
        total: Total,
        vote: Vote | None,
        out: torch.Tensor,
    ) -> None:
        """Take up a merge.

        Args:
            deltas: The inputs.
            thin: What is dropped; says what it does.
            total: The weights, and what becomes of the merged difference.
            vote: How signs are elected; None for the sum.
            out: The result.
        """
        assert thin is None or isinstance(thin, Steps)
        self._deltas = deltas
        self._steps = thin.of if thin else (Step(),) * len(deltas)
        self._thinning = _thinning(thin.of) if thin else None
        self._total = total
        self._vote = vote
        self._out = out.view(-1)

    def form(self) -> Form:
        """Return what code is compiled for."""
        base = self._deltas.start()
        return Form(
            tuple(tensor.dtype for tensor in self._deltas.tensors()),
            None if base is None else base.dtype,
            self._out.dtype,
            self._out.device,
            self._thinning,
            self._vote,
        )

    @property
    def size(self) -> int:
        """How many entries are read, of all inputs."""
        return self._deltas.n * len(self._deltas.sources())

    def run(self, merge: Formula) -> bool:
        """Merge; tell whether everything written is finite."""
        tables, parts = self._tables(), _parts(self._deltas.n)
        with torch.no_grad():
            amiss = [merge(self._part(*ends), tables) for ends in parts]
        return not any(bool(rows.any()) for rows in amiss)

    def agrees(self, steps: StepByStep) -> bool:
        """Tell whether what was written is, to the bit, what single steps give."""
        whole = self._deltas.fresh().view(-1)
        steps(whole)
        words = _WORDS[self._out.dtype.itemsize]
        return all(
            torch.equal(
                whole[block].to(self._out.dtype).view(words),
                self._out[block].view(words),
            )
            for block in self._deltas.blocks()
        )

    def _tables(self) -> Tables:
        """Return what the candidate decides, where the tensors lie."""
        total, steps, device = self._total, self._steps, self._out.device
        lows = [step.cut or _EVERYTHING for step in steps]
        tops = [step.top or _NOTHING for step in steps]
        singles = [
            list(total.factors),
            [cut.threshold for cut in lows],
            [cut.threshold for cut in tops],
            [step.factor for step in steps],
            [total.divisor] * len(steps),
            [total.scale] * len(steps),
            *zip(*(_chances(step.coin) for step in steps), strict=True),
        ]
        wholes = [
            [cut.last for cut in lows],
            [cut.last for cut in tops],
            *zip(*(_toss(step.coin) for step in steps), strict=True),
        ]
        return Tables(
            torch.tensor(singles, dtype=torch.float32, device=device),
            torch.tensor(wholes, dtype=torch.int64, device=device),
        )

    def _part(self, low: int, high: int) -> Entries:
        def rows(tensor: torch.Tensor) -> torch.Tensor:
            part = tensor[low:high].view(-1, ROW)
            torch._dynamo.mark_dynamic(part, 0)
            return part

        base = self._deltas.start()
        return Entries(
            rows(self._out),
            tuple(rows(tensor) for tensor in self._deltas.tensors()),
            None if base is None else rows(base),
            tuple(rows(ranks) for ranks in self._ranks()),
            torch.full((), low, dtype=torch.int64, device=self._out.device),
        )

    def _ranks(self) -> list[torch.Tensor]:
        """Return every input's ranks; for one without, any: its chance is certain."""
        coins = [step.coin for step in self._steps]
        known = [coin.ranks for coin in coins if isinstance(coin, RankedCoin)]
        return [
            coin.ranks if isinstance(coin, RankedCoin) else known[0]
            for coin in (coins if known else [])
        ]


def _parts(n: int) -> Iterator[tuple[int, int]]:
    """Cut entries into parts of whole rows, two at least; the last may overlap.

    One row alone would be compiled anew.
    """
    rows = n // ROW
    for low in range(0, rows, _MOST_ROWS):
        yield min(low, rows - 2) * ROW, min(low + _MOST_ROWS, rows) * ROW
    if n % ROW:
        yield n - 2 * ROW, n


def _thinning(steps: Sequence[Step]) -> Thinning:
    coins = [step.coin for step in steps if step.coin]
    ranked = [coin for coin in coins if isinstance(coin, RankedCoin)]
    assert len(ranked) in (0, len(coins))
    return Thinning(
        top=any(step.top for step in steps),
        coin=bool(coins),
        ranked=bool(ranked),
        inverse=any(coin.inverse for coin in ranked),
    )


def _toss(coin: AnyCoin | None) -> tuple[int, int]:
    """Return the random stream, and the lane from which on an entry goes."""
    share = coin.share if isinstance(coin, Coin) else 1 << 32
    key = coin.key if isinstance(coin, Coin | RankedCoin) else 0
    return signed(key), share - (1 << 31)


def _chances(coin: AnyCoin | None) -> tuple[float, float]:
    """Return how much chances grow from rank to rank, and that of rank 0."""
    if not isinstance(coin, RankedCoin):
        return 0.0, CERTAIN
    return coin.step * CERTAIN, coin.least * CERTAIN
