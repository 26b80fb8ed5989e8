"""Rows of what was measured, and their tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from merging.processes import Cost

_NOTHING = "–"


@dataclass(frozen=True, slots=True)
class DiskRow:
    """A merge from disk to disk.

    Attributes:
        parameters: Of each checkpoint.
        bound_bytes: The largest tensor, (experts + 2) times.
        mergekit: None where it was not measured.
    """

    method: str
    experts: int
    device: str
    parameters: int
    bound_bytes: int
    evomerge: Cost
    mergekit: Cost | None


@dataclass(frozen=True, slots=True)
class LoopRow:
    """A merge in the loop; all times in seconds.

    Attributes:
        first: The first candidate.
        evomerge: A later one.
        floor: Moving the bytes.
        bandwidth: Of the copy, bytes per second.
        mergekit: Scaled to the model; None where it was not measured.
    """

    method: str
    experts: int
    device: str
    first: float
    evomerge: float
    floor: float
    bandwidth: float
    mergekit: float | None


def print_disk(rows: Iterable[DiskRow]) -> None:
    """Print rows as they come."""
    print("\nDisk to disk; memory: anonymous (resident)\n")
    names = ["method", "experts", "device", "M parameters"]
    _print_head(*names, "evomerge s", "MB", "mergekit s", "MB", "times")
    for row in rows:
        rival, times = [_NOTHING, _NOTHING], _NOTHING
        if row.mergekit is not None:
            rival = _cells(row.mergekit)
            times = f"{row.mergekit.seconds / row.evomerge.seconds:.1f}"
        size = f"{row.parameters / 1e6:.1f}"
        ours = _cells(row.evomerge)
        _print_row(row.method, row.experts, row.device, size, *ours, *rival, times)


def print_loop(rows: Iterable[LoopRow]) -> None:
    """Print rows as they come."""
    print("\nIn the loop\n")
    names = ["method", "experts", "device", "first s", "evomerge ms", "floor ms"]
    _print_head(*names, "times floor", "copy GB/s", "mergekit s", "times")
    for row in rows:
        rival, times = _NOTHING, _NOTHING
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


def _cells(cost: Cost) -> list[str]:
    if cost.anonymous_bytes is None or cost.resident_bytes is None:
        return [f"{cost.seconds:.2f}", _NOTHING]
    anonymous, resident = cost.anonymous_bytes / 1e6, cost.resident_bytes / 1e6
    return [f"{cost.seconds:.2f}", f"{anonymous:.0f} ({resident:.0f})"]


def _print_head(*names: str) -> None:
    _print_row(*names)
    print("|---" + "|---:" * (len(names) - 1) + "|")


def _print_row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)
