"""Forms carried out in one pass on an accelerator, compiled by torch.

Taken step by step a merge reads and writes its blocks ten times and more. Here the same
formulas are compiled for a whole tensor, once for each kind of form: element types, and
all of a form that is no number. The numbers of a candidate are given as tensors, so
another candidate is no new kind.

Compiling takes seconds, and an accelerator is fast even step by step: a kind is
compiled once so much was merged by it that it pays. A single merge rarely comes to
that, a search does.

The bits must be those of the single steps. Compilers are told to round as torch does,
and are not trusted: what a kind writes first is compared with the steps, and one that
differs in a bit, or cannot be compiled, is never used again by this process.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from evomerge.merging.form import (
    Coin,
    ColumnCoin,
    Cut,
    Form,
    Given,
    PerEntry,
    PerRow,
    RankBand,
    RankedCoin,
    SizeCoin,
    Step,
)
from evomerge.merging.operators.executors import steps
from evomerge.merging.operators.executors.formulas import merged
from evomerge.merging.operators.loops.arrays import MOST_INPUTS, SMALL
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.counter import lanes_at, signed

_log = logging.getLogger(__name__)

ROW = 1024
"""Tensors come in rows of so many entries; whether one is finite is told row by row."""
_MOST_ROWS = (1 << 30) // ROW
"""Rows merged at a time: their entries are counted in 32 bits."""
_PAYS_FROM = 1 << 35
"""Entries of inputs that take, step by step, about as long as a kind to be compiled."""
_OVERFLOWS = {
    torch.float32: float("inf"),
    torch.bfloat16: 2.0**127 * (2.0 - 2.0**-8),
    torch.float16: 65520.0,
}
"""The smallest size that is not finite once it is rounded."""
_OPTIONS = {
    # No multiply-add in one rounding, and no rounding left out.
    "emulate_precision_casts": True,
    "cpp.enable_floating_point_contract_flag": "off",
    "eager_numerics.division_rounding": True,
    "eager_numerics.disable_ftz": True,
    "compile_threads": 1,  # one kernel is not worth a pool of processes
}
_WORDS = {2: torch.int16, 4: torch.int32}


class Kind(NamedTuple):
    """What code is compiled for.

    Attributes:
        form: A form that says of its leaves where they are found.
        words: The same in words: tuples of different names are equal.
        inputs: Their element types.
        base: Its element type, if there is a base.
        out: Element type of the result.
        device: Where all of them lie.
    """

    form: Any
    words: str
    inputs: tuple[torch.dtype, ...]
    base: torch.dtype | None
    out: torch.dtype
    device: torch.device


class Entries(NamedTuple):
    """Tensors of one merge, or the same part of each, in rows.

    Attributes:
        out: The result.
        inputs: In their types.
        base: What they differ from, if anything.
        own: Numbers of which each entry has its own.
        start: int64, one number: flat index of the first entry.
    """

    out: torch.Tensor
    inputs: tuple[torch.Tensor, ...]
    base: torch.Tensor | None
    own: tuple[torch.Tensor, ...]
    start: torch.Tensor


class Tables(NamedTuple):
    """The numbers of a candidate, in the order of the form.

    Attributes:
        numbers: fp64.
        wholes: int64.
        shared: Tensors of which all entries share the numbers.
    """

    numbers: torch.Tensor
    wholes: torch.Tensor
    shared: tuple[torch.Tensor, ...]


Formula = Callable[[Entries, Tables], torch.Tensor]
"""Writes the merge to ``out``; returns, for every row, whether any is not finite."""
Compiler = Callable[[Kind], Formula]


class _Slot(NamedTuple):
    """Where a leaf of a form is: in which of the four tables, and the how-manieth."""

    table: str
    at: int


class _Leaves:
    """The leaves of a form, taken out of it; what is left says where they were."""

    def __init__(self, form: Form) -> None:
        self.found: dict[str, list[Any]] = {
            "numbers": [],
            "wholes": [],
            "shared": [],
            "own": [],
        }
        self.form = self._emptied(form)

    def _emptied(self, part: Any) -> Any:
        match part:
            case None | bool():
                return part
            case PerEntry():
                return PerEntry(self._put("own", part.values))  # type: ignore[arg-type]
            case tuple():
                return _like(part, map(self._emptied, part))
            case float():
                return self._put("numbers", part)
            case int():
                return self._put("wholes", signed(part))
        return self._put("shared", part)

    def _put(self, table: str, leaf: Any) -> _Slot:
        self.found[table].append(leaf)
        return _Slot(table, len(self.found[table]) - 1)


def _like(part: tuple[Any, ...], parts: Iterable[Any]) -> Any:
    make = getattr(type(part), "_make", tuple)
    return make(parts)


def _filled(part: Any, tables: Mapping[str, Sequence[torch.Tensor]]) -> Any:
    """Put leaves back where they were."""
    if isinstance(part, _Slot):
        return tables[part.table][part.at]
    if not isinstance(part, tuple):
        return part
    return _like(part, [_filled(one, tables) for one in part])


class _Places:
    """Where entries stand that come in rows; see :class:`formulas.Place`."""

    def __init__(self, entries: Entries) -> None:
        device = entries.out.device
        rows = torch.arange(entries.out.shape[0], device=device)
        columns = torch.arange(ROW, device=device)
        self._places = entries.start + (rows[:, None] * ROW + columns)

    def below(self, cut: Cut, scores: torch.Tensor) -> torch.Tensor:
        later = self._places > cut.last
        return (scores < cut.threshold) | ((scores == cut.threshold) & later)

    def lanes(self, key: Any) -> torch.Tensor:
        return lanes_at(key, self._places)

    def per_entry(self, found: PerEntry) -> torch.Tensor:
        return found.values

    def per_row(self, found: PerRow) -> torch.Tensor:
        return found.values[self._places // found.row]

    def by_column(self, row: torch.Tensor) -> torch.Tensor:
        return row[self._places % row.shape[0]]

    def ranks(self, row: int, delta: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("ranks are found before a form is compiled")


def formula(kind: Kind) -> Formula:
    """Return what merges entries by a kind of form."""

    def merge(entries: Entries, tables: Tables) -> torch.Tensor:
        form: Form = _filled(
            kind.form,
            {
                "numbers": tables.numbers.unbind(),
                "wholes": tables.wholes.unbind(),
                "shared": tables.shared,
                "own": entries.own,
            },
        )
        base = None if entries.base is None else entries.base.to(torch.float32)
        deltas = [tensor.to(torch.float32) for tensor in entries.inputs]
        if base is not None:
            deltas = [delta - base for delta in deltas]
        found = merged(form, deltas, _Places(entries))
        if base is not None and not form.bare:
            found = found + base
        entries.out.copy_(found)
        bad = ~(found.abs() < _OVERFLOWS[entries.out.dtype])
        if form.checked:
            for delta in deltas:
                bad = bad | ~torch.isfinite(delta)
        return bad.any(dim=1)

    return merge


def compiled(kind: Kind) -> Formula:
    """Return the formula of a kind as one compiled pass; compiled when first called.

    Raises:
        RuntimeError: torch's compiler is switched off; without it the formula would
            take more memory than single steps.
    """
    if torch._dynamo.config.disable:
        raise RuntimeError("torch's compiler is switched off")
    return torch.compile(  # type: ignore[call-overload] # as torch 2.13 forgot one
        formula(kind), fullgraph=True, options=_OPTIONS, isolate_recompiles=True
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """One merge as compiled code takes it."""

    deltas: Deltas
    kind: Kind
    found: Mapping[str, Sequence[Any]]
    out: torch.Tensor

    @classmethod
    def of(cls, deltas: Deltas, form: Form, out: torch.Tensor) -> _Job:
        if form.thin is not None:
            form = form._replace(thin=_alike(form.thin))
        leaves = _Leaves(form)
        base = deltas.start()
        kind = Kind(
            leaves.form,
            repr(leaves.form),
            tuple(tensor.dtype for tensor in deltas.tensors()),
            None if base is None else base.dtype,
            out.dtype,
            out.device,
        )
        return cls(deltas, kind, leaves.found, out.view(-1))

    @property
    def size(self) -> int:
        """How many entries are read, of all inputs."""
        return self.deltas.n * len(self.deltas.sources())

    def run(self, merge: Formula) -> bool:
        """Merge; tell whether everything written is finite."""
        device = self.out.device
        tables = Tables(
            torch.tensor(self.found["numbers"], dtype=torch.float64, device=device),
            torch.tensor(self.found["wholes"], dtype=torch.int64, device=device),
            tuple(self.found["shared"]),
        )
        with torch.no_grad():
            amiss = [merge(self._part(*ends), tables) for ends in _parts(self.deltas.n)]
        return not any(bool(rows.any()) for rows in amiss)

    def agrees(self, form: Form, key: str) -> bool:
        """Tell whether what was written is, to the bit, what single steps give."""
        whole = self.deltas.fresh().view(-1)
        steps.write(self.deltas, form, key, whole)
        words = _WORDS[self.out.dtype.itemsize]
        return all(
            torch.equal(
                whole[block].to(self.out.dtype).view(words), self.out[block].view(words)
            )
            for block in self.deltas.blocks()
        )

    def _part(self, low: int, high: int) -> Entries:
        def rows(tensor: torch.Tensor) -> torch.Tensor:
            part = tensor[low:high].view(-1, ROW)
            torch._dynamo.mark_dynamic(part, 0)
            return part

        base = self.deltas.start()
        return Entries(
            rows(self.out),
            tuple(rows(tensor) for tensor in self.deltas.tensors()),
            None if base is None else rows(base),
            tuple(rows(own) for own in self.found["own"]),
            torch.full((), low, dtype=torch.int64, device=self.out.device),
        )


def _parts(n: int) -> Iterator[tuple[int, int]]:
    """Cut entries into parts of whole rows, two at least; the last may overlap.

    One row alone would be compiled anew.
    """
    rows = n // ROW
    for low in range(0, rows, _MOST_ROWS):
        yield min(low, rows - 2) * ROW, min(low + _MOST_ROWS, rows) * ROW
    if n % ROW:
        yield n - 2 * ROW, n


def _alike(thin: Sequence[Step]) -> tuple[Step, ...]:
    """Say steps that leave all as steps of the others' kind: no candidate is a new one.

    Tables of ranks are any that there are: where nothing goes they do not matter.
    """
    cut = any(step.cut for step in thin)
    top = any(step.top for step in thin)
    coin = next((step.coin for step in thin if step.coin), None)
    everything, nothing = Cut(-1.0, -1), Cut(float("inf"), -1)
    return tuple(
        Step(
            (step.cut or everything) if cut else None,
            (step.top or nothing) if top else None,
            step.coin or (None if coin is None else _certain(coin)),
            step.factor,
        )
        for step in thin
    )


def _certain(coin: Any) -> Any:
    match coin:
        case Coin():
            return Coin(0, 1 << 32)
        case RankedCoin() | SizeCoin():
            return coin._replace(key=0, step=0.0, least=1.0)
        case RankBand():
            return coin._replace(low=0, high=(1 << 31) - 1)
        case ColumnCoin():
            return ColumnCoin(torch.ones_like(coin.mask))
        case Given():
            return Given(PerEntry(torch.ones_like(coin.worth.values)))
    raise TypeError(f"Expected what thins entries, but got {coin!r}.")


class Accelerator:
    """Merges by compiled forms, each kind of them checked before it is trusted.

    Safe to use from several threads.

    Attributes:
        pays_from: A kind is compiled once merges by it have read so many entries.
    """

    def __init__(
        self, compiler: Compiler = compiled, pays_from: int = _PAYS_FROM
    ) -> None:
        self.pays_from = pays_from
        self._compiler = compiler
        self._read: Counter[Kind] = Counter()
        self._code: dict[Kind, Formula] = {}
        self._trusted: dict[Kind, bool] = {}
        self._lock = threading.Lock()

    @property
    def used(self) -> Mapping[Kind, bool]:
        """Every kind of form that was tried, and whether its code is used."""
        return dict(self._trusted)

    def can(self, deltas: Deltas, form: Form, out: torch.Tensor) -> bool:
        """Tell whether a merge lies on an accelerator and code is compiled for it.

        That is for contiguous tensors of fp32, bf16 and fp16.
        """
        fits = deltas.n >= SMALL and len(deltas) <= MOST_INPUTS
        if not _is_accelerator(deltas.device) or not fits or _lacks_ranks(form):
            return False
        return all(
            tensor.dtype in _OVERFLOWS
            and tensor.device == out.device
            and tensor.is_contiguous()
            for tensor in (*deltas.sources(), out)
        )

    def write(self, deltas: Deltas, form: Form, key: str, out: torch.Tensor) -> bool:
        """Merge.

        Args:
            deltas: What is merged.
            form: How.
            key: Name of the tensor, for messages.
            out: The result.

        Returns:
            Whether the merge is written and every number of it is finite.
        """
        job = _Job.of(deltas, form, out)
        kind = job.kind
        if kind not in self._trusted:
            with self._lock:
                if kind not in self._trusted:
                    self._read[kind] += job.size
                    pays = self._read[kind] > self.pays_from
                    return pays and self._run(job) and self._try(job, form, key)
        return self._trusted[kind] and self._run(job)

    def _run(self, job: _Job) -> bool:
        kind = job.kind
        try:
            if kind not in self._code:
                self._code[kind] = self._compiler(kind)
            return job.run(self._code[kind])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers fail in any way they like
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            self._give_up(kind, f"it fails with {said!r}")
            return False

    def _try(self, job: _Job, form: Form, key: str) -> bool:
        """Find out whether code that has just merged can be trusted."""
        if job.agrees(form, key):
            self._trusted[job.kind] = True
        else:
            self._give_up(job.kind, "its bits are not those of single steps")
        return self._trusted[job.kind]

    def _give_up(self, kind: Kind, why: str) -> None:
        self._trusted[kind] = False
        _log.warning(
            "Code compiled for one form of merge is not used: %s. Such merges go step "
            "by step in this process, which is slower; the results are the same. %s",
            why,
            kind.words,
        )


ACCELERATOR = Accelerator()
"""What was compiled in this process."""


def _lacks_ranks(form: Form) -> bool:
    """Tell whether ranks would have to be found while merging."""
    coins = [step.coin for step in form.thin or ()]
    return any(isinstance(c, RankBand | RankedCoin) and c.ranks is None for c in coins)


def _is_accelerator(device: torch.device) -> bool:
    return device.type != "cpu"
