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
what is then known of the sources. Code was compiled before. The floor is the bytes of
every source that is read and of the result, over the bandwidth of a large copy measured
in turns with it. mergekit merges one decoder layer by its in-memory API; its time is
scaled to the model by parameters.

Where torch sees a GPU, both parts are measured there too, without mergekit; that has
not been tried yet. In the loop every method that has a compiled pass on a GPU takes it
from the start, as a search does after some candidates.

Times are the best of some rounds, taken in turns, for both sides alike.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from merging import machine
from merging.disk import Disk
from merging.floor import Copy
from merging.loop import Candidates, Setting, candidates
from merging.methods import BASE, METHODS, USUAL, Merge, merges
from merging.patience import Patience
from merging.rival import VERSION, MissingError, Server, install
from merging.synthetic import TINY, Shape, shape_of, write_checkpoint
from merging.tables import DiskRow, LoopRow, print_disk, print_loop

from evomerge.merging.operators.executors.accelerator import ACCELERATOR

_MIB = 1 << 20
_BF16 = 2


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
        return {
            **machine.facts(),
            "threads": self.given.threads,
            "mergekit": VERSION if self.commands else "none",
            "parameters": self.shape.parameters,
            "layers": self.shape.n_layers,
            "hidden": self.shape.hidden,
            "largest tensor MB": round(_BF16 * self.shape.largest / 1e6, 1),
        }

    def disk(self) -> Iterator[DiskRow]:
        """Merge from disk to disk: the tiny model, then the real one."""
        for device in machine.devices():
            for n_experts in self.given.experts:
                for merge in merges(self.given.methods, n_experts):
                    # The first run compiles; the next ones show what starting costs.
                    self._on_disk(merge, device, TINY, Patience(1, 0.0))
                    if merge.method.name == self.given.methods[0]:
                        yield self._on_disk(merge, device, TINY, self._patience)
                    yield self._on_disk(merge, device, self.shape, self._patience)

    def _on_disk(
        self, merge: Merge, device: str, shape: Shape, patience: Patience
    ) -> DiskRow:
        has_rival = device == "cpu" and merge.method.has_rival
        commands = self.commands if has_rival else None
        disk = Disk(
            self._checkpoints(merge, shape),
            Path(sys.executable).with_name("evomerge"),
            commands and commands / "mergekit-yaml",
            self.given.threads,
            device,
        )
        ours, theirs = disk.measure(merge, patience)
        name, n = merge.method.name, len(merge.experts)
        bound = _BF16 * shape.largest * (n + 2)
        return DiskRow(name, n, device, shape.parameters, bound, ours, theirs)

    def loop(self) -> Iterator[LoopRow]:
        """Merge as a search does, on the CPU and on a GPU."""
        torch.set_num_threads(self.given.threads)
        ACCELERATOR.pays_from = 0
        for device in machine.devices():
            copy = Copy(self.given.copy_mb * _MIB, device)
            for n_experts in self.given.experts:
                with self._server(device) as server:
                    for merge in merges(self.given.methods, n_experts):
                        rival = server if merge.method.has_rival else None
                        yield self._in_loop(merge, copy, rival, device)

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
        setting = Setting(self.given.profile, device)
        ours: list[float] = []
        theirs: list[float] = []
        bandwidths = [copy.bandwidth()]
        with self._candidates(merge, TINY, setting) as stream:
            stream.next()
        with self._candidates(merge, self.shape, setting) as stream:
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

    @contextmanager
    def _candidates(
        self, merge: Merge, shape: Shape, setting: Setting
    ) -> Iterator[Candidates]:
        folder = self._checkpoints(merge, shape)
        with (
            tempfile.TemporaryDirectory(dir=folder) as scratch,
            candidates(folder, merge, setting, Path(scratch)) as stream,
        ):
            yield stream

    def _wants(self, seconds: list[float]) -> bool:
        return self._patience.wants(len(seconds), sum(seconds))

    def _checkpoints(self, merge: Merge, shape: Shape) -> Path:
        folder = self._folder / str(shape.parameters)
        for name in merge.reads:
            number = 0 if name == BASE else int(name.removeprefix("expert"))
            write_checkpoint(folder / name, shape, number)
        return folder


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
        print(f"mergekit {VERSION} is not measured: {bench.missing}")
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
    known = f"of {', '.join(METHODS)}; the first {len(USUAL)} if not given"
    add("--methods", nargs="+", choices=METHODS, default=USUAL, metavar="M", help=known)
    add("--part", choices=["both", "disk", "loop"], default="both")
    add("--profile", choices=["default", "identical"], default="default")
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
