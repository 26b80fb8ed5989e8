"""Print rows as a table for people, or as JSON for programs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from evomerge.api.plain import plain
from evomerge.masking import masked_by_form


def print_json(value: Any) -> None:
    """Print a value of ours as JSON."""
    import json  # costs --help milliseconds

    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Print a table; numbers stand to the right.

    A terminal's width is kept by wrapping cells; a file or pipe gets whole lines.
    """
    has_header = any(columns)
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [_is_numeric([row[i] for row in rows]) for i in range(len(columns))]
    shown = ([list(columns)] if has_header else []) + cells
    if title:
        click.echo(title)
    if sys.stdout.isatty():
        _print_wrapped(columns if has_header else (), cells, numeric)
    elif shown:
        for line in _aligned(shown, numeric):
            click.echo(line)


def _is_numeric(column: Sequence[Any]) -> bool:
    known = [value for value in column if value is not None]
    return bool(known) and all(isinstance(value, int | float) for value in known)


def _aligned(rows: Sequence[Sequence[str]], numeric: Sequence[bool]) -> Iterator[str]:
    """Yield whole lines, columns two blanks apart."""
    from rich.cells import cell_len

    lengths = [
        [len(cell) if cell.isascii() else cell_len(cell) for cell in row]
        for row in rows
    ]
    widths = [max(column) for column in zip(*lengths, strict=True)]
    for row, taken in zip(rows, lengths, strict=True):
        line = ""
        for cell, n, width, right in zip(row, taken, widths, numeric, strict=True):
            blanks = " " * (width - n)
            line += f"{blanks}{cell}  " if right else f"{cell}{blanks}  "
        yield line.rstrip()


def _print_wrapped(
    columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]
) -> None:
    """Print on a terminal, as wide as it is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=bool(columns))
    for name, right in zip(columns or [""] * len(numeric), numeric, strict=True):
        table.add_column(name, justify="right" if right else "left")
    for row in cells:
        # Text, not str: a label with brackets is no markup.
        table.add_row(*map(Text, row))
    console = Console()
    with console.capture() as text:
        console.print(table)
    for line in text.get().splitlines():
        click.echo(line.rstrip())


@contextmanager
def keeping_all() -> Iterator[None]:
    """Look for no garbage meanwhile: a long listing makes much and leaves nothing.

    That takes a sixth of the time of ten thousand trials, what is loaded included.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def counted(n: int, noun: str) -> str:
    """Say how many there are of something."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, int) else masked_by_form(str(value))
