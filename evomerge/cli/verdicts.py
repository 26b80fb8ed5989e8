"""Show how an exported trial fares against the baselines on held-out items."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from evomerge import api
from evomerge.cli.tables import counted, print_table

if TYPE_CHECKING:
    from evomerge.export.intervals import Estimate
    from evomerge.export.report import BaselineTable


def print_baselines(done: api.Exported) -> None:
    """Print one table for each objective, and what cannot be said in it."""
    for table in done.rivals:
        name = table.objective.name
        measures = list(table.chosen.means)
        by = f" by {done.selected[name]:.3f}" if name in done.selected else ""
        print_table(
            f"{name} on {table.n_items} held-out items (95 % intervals); trial "
            f"{done.trial} was selected{by} on search items",
            ("", name, *_headings(measures), "difference", "p", "verdict"),
            [_row(table, index, measures) for index in range(len(table.rows))],
        )
        if name in done.gaps:
            click.echo(
                f"Winner's gap: {done.gaps[name]:+.3f} (search items minus held-out "
                "ones, less the mean of the same over the others)."
            )
    for name, others in done.alike.items():
        if others:
            few = ", ".join(map(str, others[:10])) + (", ..." if others[10:] else "")
            click.echo(
                f"On {name}, search items do not tell it from "
                f"{counted(len(others), 'other trial')}: {few}."
            )
    for label, reason in done.unscored.items():
        click.echo(f"{label} could not be scored: {reason}")
    click.echo(
        f"The held-out items have been opened {counted(done.openings, 'time')}. "
        "p-values are Holm-adjusted over all comparisons; with ≤, the least a test "
        "can give."
    )


def print_standing(done: api.Exported) -> None:
    """Say so if the export is none of what the search found."""
    if done.standing is not None:
        said = done.standing.said(done.standing.label)
        click.echo(f"Trial {done.trial} is {said}.")


def print_bounds(done: api.Exported) -> None:
    """Print what held-out items say of the study's bounds."""
    if not done.bounds:
        return
    print_table(
        "bounds on held-out items (95 % intervals)",
        ("", "asked for", "value", "verdict"),
        [
            (*b.asked, "" if b.value is None else _interval(b.value), str(b.said))
            for b in done.bounds
        ],
    )


def print_costs(done: api.Exported) -> None:
    """Print what the export and the baselines cost to run, if that differs."""
    kinds = {(row.layers, row.parameters, row.flops) for row in done.costs}
    timed = any(row.tokens_per_second is not None for row in done.costs)
    if len(kinds) == 1 and not timed:
        return
    print_table(
        "what it costs to run (FLOPs for a token that looks at 1024)",
        ("", "layers", "parameters", "FLOPs per token", "tokens per second"),
        [
            (row.label, row.layers, row.parameters, row.flops, row.tokens_per_second)
            for row in done.costs
        ],
    )


def _headings(measures: list[str]) -> list[str]:
    """Name the columns by task alone where all measure the same."""
    parts = [measure.split("/", 1) for measure in measures]
    is_one = len({metric for _, metric in parts}) == 1
    return [task for task, _ in parts] if is_one else measures


def _row(table: BaselineTable, index: int, measures: list[str]) -> tuple[str, ...]:
    from evomerge.export.markup import p_value

    row = table.rows[index]
    means = [f"{row.means[measure].value:.3f}" for measure in measures]
    against = row.against
    if against is None:
        return (row.label, _interval(row.value), *means, "", "", "the export")
    return (
        row.label,
        _interval(row.value),
        *means,
        _interval(against.difference),
        p_value(against.adjusted, against.p_value),
        str(against.verdict),
    )


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
