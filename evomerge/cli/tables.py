"""Print rows as a table for people, or as JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from evomerge.api.plain import plain
from evomerge.masking import masked_by_form

if TYPE_CHECKING:
    from rich.text import Text

_NO_WRAP = 10_000
"""Columns where nobody looks at the width."""


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
    from rich.console import Console
    from rich.table import Table

    has_header = any(columns)
    table = Table(box=None, pad_edge=False, show_header=has_header)
    for index, name in enumerate(columns):
        column = [row[index] for row in rows if row[index] is not None]
        numeric = all(isinstance(value, int | float) for value in column)
        table.add_column(name, justify="right" if numeric and column else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console = Console(width=None if sys.stdout.isatty() else _NO_WRAP)
    with console.capture() as text:
        console.print(table)
    if title:
        click.echo(title)
    if rows or has_header:
        for line in text.get().splitlines():
            click.echo(line.rstrip())


def counted(n: int, noun: str) -> str:
    """Say how many there are of something."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def _cell(value: Any) -> Text:
    from rich.text import Text

    # Text, not str: a label with brackets is no markup.
    if value is None:
        return Text("-")
    return Text(
        f"{value:.4g}" if isinstance(value, float) else masked_by_form(str(value))
    )
