"""How far the zoo is: what a builder tells, and a bar that shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

OnStep = Callable[[str, int, int], None]
"""Told the model, its finished steps and all its steps; calls never overlap."""


@contextmanager
def progress_bars(console: Console | None = None) -> Iterator[OnStep]:
    """Show a bar for each model in the terminal while the block runs.

    Args:
        console: Where to; standard error if left out.
    """
    columns = (
        TextColumn("{task.description:>5}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console or Console(stderr=True)) as shown:

        def on_step(model: str, done: int, total: int) -> None:
            if model not in bars:
                bars[model] = shown.add_task(model, total=total)
            shown.update(bars[model], completed=done)

        yield on_step
