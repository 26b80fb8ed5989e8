"""Merges from disk to disk, each side by its own command.

A command's start is part of its time. Inputs are read once before every run, so both
sides find them in the page cache; what earlier runs wrote is on the disk by then.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from merging.methods import Merge
from merging.patience import Patience
from merging.processes import Cost, run

_CHUNK = 1 << 24


@dataclass(frozen=True, slots=True)
class Disk:
    """Where checkpoints are, and who merges them.

    Attributes:
        folder: Of the checkpoints.
        evomerge: Its command.
        mergekit: Its command; None without it.
        threads: For each side.
        device: What evomerge merges on.
    """

    folder: Path
    evomerge: Path
    mergekit: Path | None
    threads: int
    device: str

    def measure(self, merge: Merge, patience: Patience) -> tuple[Cost, Cost | None]:
        """Merge in turns.

        Returns:
            The best of evomerge and of mergekit.

        Raises:
            RuntimeError: A command failed, or the two merged different tensors.
        """
        file = self.folder / f"{merge.method.name}.yml"
        file.write_text(merge.config(self.folder))
        merge_command = [
            str(self.evomerge),
            "merge",
            "--device",
            self.device,
            str(file),
        ]
        sides = [Side(merge_command, self._environment)]
        if self.mergekit is not None:
            sides.append(Side([str(self.mergekit), str(file)], self._environment))
        out = self.folder / "out"
        while waiting := [side for side in sides if side.is_wanted(patience)]:
            for side in waiting:
                self._make_even(merge)
                side.merge(out)
        if len({frozenset(side.names) for side in sides}) > 1:
            raise RuntimeError(f"{merge.method.name}: other tensors were merged")
        best = [side.best for side in sides]
        return _there(best[0]), best[1] if len(best) > 1 else None

    def _environment(self) -> Mapping[str, str]:
        # Nothing that an earlier merge found out is there to be used again, but loops
        # stay compiled.
        cache = self.folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        compiled = os.environ.get("NUMBA_CACHE_DIR", str(Path("~/.cache").expanduser()))
        return {
            "XDG_CACHE_HOME": str(cache),
            "NUMBA_CACHE_DIR": compiled,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(self.threads),
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def _make_even(self, merge: Merge) -> None:
        os.sync()
        for name in merge.reads:
            for file in (self.folder / name).iterdir():
                with file.open("rb", buffering=0) as stream:
                    while stream.read(_CHUNK):
                        pass


class Side:
    """One command's runs."""

    def __init__(
        self, command: list[str], environment: Callable[[], Mapping[str, str]]
    ) -> None:
        self.best: Cost | None = None
        self.names: list[str] = []
        self._command = command
        self._environment = environment
        self._rounds = 0
        self._seconds = 0.0

    def is_wanted(self, patience: Patience) -> bool:
        """Tell whether to run it once more."""
        return patience.wants(self._rounds, self._seconds)

    def merge(self, out: Path) -> None:
        """Run it once and delete what it wrote."""
        shutil.rmtree(out, ignore_errors=True)
        cost = run([*self._command, str(out)], self._environment())
        self.names = _names(out)
        shutil.rmtree(out)
        self._rounds += 1
        self._seconds += cost.seconds
        self.best = cost if self.best is None else self.best.at_best(cost)


def _there(cost: Cost | None) -> Cost:
    assert cost is not None
    return cost


def _names(folder: Path) -> list[str]:
    """Return the names of all tensors of a written model."""
    names: list[str] = []
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            names += json.loads(stream.read(length))
    return [name for name in names if name != "__metadata__"]
