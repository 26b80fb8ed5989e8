"""The live view of a running search."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from evomerge.search.scoreboard import Progress

LINE_EVERY_S = 15.0
"""How often a line is printed where the output is no terminal."""


@contextmanager
def live_view(objectives: tuple[str, ...]) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows a study's progress while the context lasts."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(stderr=True), refresh_per_second=4) as live:
            yield lambda progress: live.update(Text(describe(progress, objectives)))
        return
    last = [0.0, -1.0]

    def line(progress: Progress) -> None:
        is_due = time.monotonic() - last[0] >= LINE_EVERY_S
        if is_due or progress.generation != last[1]:
            last[:] = [time.monotonic(), progress.generation]
            click.echo(describe(progress, objectives), err=True)

    yield line


def describe(progress: Progress, objectives: tuple[str, ...]) -> str:
    """Put a study's progress into one line."""
    if progress.workers == 0:
        return f"waiting for workers ({progress.seconds:.0f} s)"
    best = ", ".join(
        f"best {name} {standing.values[k]:.4g} (trial {standing.number})"
        for k, (name, standing) in enumerate(
            zip(objectives, progress.best, strict=True)
        )
        if standing is not None
    )
    parts = [
        f"generation {progress.generation}",
        f"{progress.done} trials",
        f"{progress.failed} failed" if progress.failed else "",
        best,
        f"front {progress.front_size}",
        f"{progress.items_per_s:.0f} items/s",
        f"{_clock(progress.left_s)} left" if progress.left_s is not None else "",
    ]
    return " | ".join(part for part in parts if part)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
