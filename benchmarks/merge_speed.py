"""How fast merges are: against mergekit, and against the speed of memory.

    python benchmarks/merge_speed.py [--parameters 1e9] [--experts 2 4] [--methods ...]

Checkpoints are Llama-shaped, of random bf16 weights, made here: a base and experts
close to it. mergekit 0.1.5 is installed into a virtual environment of its own; where
that cannot be, only evomerge's columns are printed. Two parts:

disk: from disk to disk, each side by its own command (``evomerge merge`` and
``mergekit-yaml``) with the same configuration, so the start of either is included.
Inputs are in the page cache. Memory is the peak of the whole process tree, anonymous
pages and, in brackets, with mapped files. Before that each side merges a tiny model by
the same method, so that compiled code is cached on disk.

loop: as in a search. Sources are in memory and results are written to one buffer that
is used again. Every candidate has other weights and densities; the first one finds out
what is then known of the sources, and compiles code. The floor is the bytes of every
source that is read and of the result, over the bandwidth of a large copy measured in
turns with it. mergekit merges one decoder layer by its in-memory API; its time is
scaled to the model by parameters. On a GPU, where torch sees one, the operators run
on tensors there, without mergekit.

Times are the best of some rounds, taken in turns, for both sides alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from merging.disk import Disk
from merging.floor import Copy
from merging.loop import Setting, candidates
from merging.methods import BASE, METHODS, Merge, merges
from merging.patience import Patience
from merging.processes import Cost
from merging.rival import VERSION, MissingError, Server, install
from merging.synthetic import TINY, Shape, shape_of, write_checkpoint

_MIB = 1 << 20
_BF16 = 2


@dataclass(frozen=True, slots=True)
class DiskRow:
    """A merge from disk to disk.

    Attributes:
        parameters: Of each checkpoint.
        bound_bytes: The largest tensor, (experts + 2) times.
    """

    method: str
    experts: int
    parameters: int
    bound_bytes: int
    evomerge: Cost
    mergekit: Cost | None


@dataclass(frozen=True, slots=True)
class LoopRow:
    """A merge in the loop; seconds.

    Attributes:
        first: The first candidate.
        evomerge: A later one.
        floor: Moving the bytes.
        bandwidth: Of the copy, bytes per second.
        mergekit: Scaled to the model.
    """

    method: str
    experts: int
    device: str
    first: float
    evomerge: float
    floor: float
    bandwidth: float
    mergekit: float | None


class Bench:
    """One run."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        self.given = given
        self.shape = shape_of(given.parameters)
        self.commands: Path | None = None
        self.missing = "not wanted"
        self._folder = folder
        self._patience = Patience(given.rounds, given.seconds)
        if given.mergekit:
            try:
                self.commands = install(folder)
                self.missing = ""
            except MissingError as error:
                self.missing = str(error)

    def facts(self) -> dict[str, object]:
        """Describe the machine and what is merged."""
        known = None if self.commands is None else VERSION
        return {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": self.given.threads,
            "memory GB": round(_memory() / 1e9, 1),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mergekit": known or f"none: {self.missing}",
            "devices": _devices(),
            "parameters": self.shape.parameters,
            "layers": self.shape.n_layers,
            "hidden": self.shape.hidden,
            "largest tensor MB": round(_BF16 * self.shape.largest / 1e6, 1),
        }

    def disk(self) -> Iterator[DiskRow]:
        """Merge from disk to disk: the tiny model, then the real one."""
        for n_experts in self.given.experts:
            for merge in merges(self.given.methods, n_experts):
                # The first run compiles; the second one shows what starting costs.
                self._on_disk(merge, TINY, Patience(1, 0.0))
                if merge.method.name == self.given.methods[0]:
                    yield self._on_disk(merge, TINY, Patience(3, 60.0))
                yield self._on_disk(merge, self.shape, self._patience)

    def _on_disk(self, merge: Merge, shape: Shape, patience: Patience) -> DiskRow:
        disk = Disk(
            self._checkpoints(merge, shape),
            Path(sys.executable).with_name("evomerge"),
            self.commands and self.commands / "mergekit-yaml",
            self.given.threads,
        )
        ours, theirs = disk.measure(merge, patience)
        name, n = merge.method.name, len(merge.experts)
        bound = _BF16 * shape.largest * (n + 2)
        return DiskRow(name, n, shape.parameters, bound, ours, theirs)

    def loop(self) -> Iterator[LoopRow]:
        """Merge as a search does, on the CPU and on a GPU."""
        torch.set_num_threads(self.given.threads)
        for device in _devices():
            copy = Copy(self.given.copy_mb * _MIB, device)
            for n_experts in self.given.experts:
                with self._server(device) as server:
                    for merge in merges(self.given.methods, n_experts):
                        yield self._in_loop(merge, copy, server, device)

    @contextmanager
    def _server(self, device: str) -> Iterator[Server | None]:
        if self.commands is None or device != "cpu":
            yield None
            return
        folder = self._folder / str(self.shape.parameters)
        with Server(self.commands, folder, list(self.shape.layer(0))) as server:
            yield server

    def _in_loop(
        self, merge: Merge, copy: Copy, server: Server | None, device: str
    ) -> LoopRow:
        through = self.given.through if device == "cpu" else "operators"
        setting = Setting(self.given.profile, through, device)
        folder = self._checkpoints(merge, self.shape)
        ours: list[float] = []
        theirs: list[float] = []
        bandwidths = [copy.bandwidth()]
        with ExitStack() as stack:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
            made = candidates(folder, merge, setting, Path(scratch))
            stream = stack.enter_context(made)
            moved = _BF16 * self.shape.parameters * (stream.n_reads + 1)
            first = stream.next()
            while self._wants(ours) or (server and self._wants(theirs)):
                bandwidths.append(copy.bandwidth())
                if self._wants(ours):
                    ours.append(stream.next())
                if server and self._wants(theirs):
                    theirs.append(server.merge(merge, self.given.threads))
        part = sum(torch.Size(s).numel() for s in self.shape.layer(0).values())
        rival = min(theirs) * self.shape.parameters / part if theirs else None
        bandwidth = max(bandwidths)
        return LoopRow(
            merge.method.name,
            len(merge.experts),
            device,
            first,
            min(ours),
            moved / bandwidth,
            bandwidth,
            rival,
        )

    def _wants(self, seconds: list[float]) -> bool:
        return self._patience.wants(len(seconds), sum(seconds))

    def _checkpoints(self, merge: Merge, shape: Shape) -> Path:
        folder = self._folder / str(shape.parameters)
        for name in merge.reads:
            number = 0 if name == BASE else int(name.removeprefix("expert"))
            write_checkpoint(folder / name, shape, number)
        return folder


def _devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def print_disk(rows: Iterator[DiskRow]) -> list[DiskRow]:
    """Print the rows of the first table as they come."""
    print("\nDisk to disk; memory: anonymous (resident), MB\n")
    print(
        "| method | experts | parameters | evomerge s | MB | mergekit s | MB | times |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    done = []
    for row in rows:
        done.append(row)
        cells = [*_cells(row.evomerge), "–", "–", "–"]
        if row.mergekit is not None:
            times = f"{row.mergekit.seconds / row.evomerge.seconds:.1f}"
            cells[2:] = [*_cells(row.mergekit), times]
        size = f"{row.parameters / 1e6:.1f} M"
        _print_row(row.method, row.experts, size, *cells)
    return done


def _cells(cost: Cost) -> list[str]:
    if cost.anonymous_bytes is None or cost.resident_bytes is None:
        return [f"{cost.seconds:.2f}", "–"]
    anonymous, resident = cost.anonymous_bytes / 1e6, cost.resident_bytes / 1e6
    return [f"{cost.seconds:.2f}", f"{anonymous:.0f} ({resident:.0f})"]


def print_loop(rows: Iterator[LoopRow]) -> list[LoopRow]:
    """Print the rows of the second table as they come."""
    print("\nIn the loop; ms, but the first candidate and mergekit s\n")
    print(
        "| method | experts | device | first s | evomerge ms | floor ms | times floor "
        "| copy GB/s | mergekit s | times |"
    )
    print("|---|---:|---|---:|---:|---:|---:|---:|---:|---:|")
    done = []
    for row in rows:
        done.append(row)
        rival, times = "–", "–"
        if row.mergekit is not None:
            rival, times = f"{row.mergekit:.2f}", f"{row.mergekit / row.evomerge:.0f}"
        _print_row(
            row.method,
            row.experts,
            row.device,
            f"{row.first:.2f}",
            f"{1000 * row.evomerge:.1f}",
            f"{1000 * row.floor:.1f}",
            f"{row.evomerge / row.floor:.2f}",
            f"{row.bandwidth / 1e9:.1f}",
            rival,
            times,
        )
    return done


def _print_row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def measure(given: argparse.Namespace, folder: Path) -> None:
    """Measure what is wanted, and print it."""
    bench = Bench(given, folder)
    facts = bench.facts()
    if given.json:
        disk = list(bench.disk()) if given.part != "loop" else []
        loop = list(bench.loop()) if given.part != "disk" else []
        rows = {
            "disk": [asdict(row) for row in disk],
            "loop": [asdict(row) for row in loop],
        }
        print(json.dumps({"facts": facts, **rows}, indent=1))
        return
    for name, value in facts.items():
        print(f"{name}: {value}")
    if bench.commands is None:
        print(f"mergekit {VERSION} is not measured ({bench.missing})")
    if given.part != "loop":
        print_disk(bench.disk())
    if given.part != "disk":
        print_loop(bench.loop())


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parameters", type=float, default=1e9, help="of each checkpoint, about")
    add("--experts", type=int, nargs="+", default=[2, 4], metavar="N")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    add("--part", choices=["both", "disk", "loop"], default="both")
    add("--profile", choices=["default", "identical"], default="default")
    add("--through", choices=["recipe", "operators"], default="recipe")
    add("--threads", type=int, default=os.cpu_count() or 1)
    add("--rounds", type=int, default=5, help="at most so often")
    add("--seconds", type=float, default=30.0, help="not again after so much time")
    add("--copy-mb", type=int, default=1024, help="size of the copy")
    add("--folder", type=Path, help="keep checkpoints and mergekit here")
    add("--no-mergekit", dest="mergekit", action="store_false")
    add("--json", action="store_true")
    given = parser.parse_args()
    if given.folder is not None:
        measure(given, given.folder.resolve())
        return
    with tempfile.TemporaryDirectory() as name:
        measure(given, Path(name))


if __name__ == "__main__":
    main()
