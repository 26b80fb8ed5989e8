"""`evomerge status`, `front` and `trials`: read what the database holds."""

from __future__ import annotations

from collections.abc import Sequence

import click

from evomerge import api
from evomerge.cli.options import db_option, json_option
from evomerge.cli.tables import counted, print_json, print_table

NOTE_LENGTH = 110
"""Most characters of a failure that a table shows; --json has it whole."""


@click.command(
    epilog="Example: evomerge status scalars", short_help="Show how a study stands."
)
@click.argument("name")
@db_option
@json_option
def status(name: str, db: str, as_json: bool) -> None:
    """Show how the study NAME stands; of one with stages, how each of them does."""
    if stages := api.stages(name, db=db):
        _print_stages(name, stages, as_json)
        return
    found = api.status(name, db=db)
    if as_json:
        print_json(found)
        return
    rows: list[tuple[str, object]] = [
        ("state", found.state),
        ("created", found.created),
        ("generation", found.generation),
        *((f"trials {state}", count) for state, count in found.counts.items()),
        ("budget used", found.used),
        ("merges proposed again", found.repeats),
        ("front", counted(found.front_size, "trial")),
        *(
            (
                f"best {best.objective}",
                f"{best.value:.4g} (trial {best.trial}; {best.direction.words})",
            )
            for best in found.best
        ),
        *((f"not scored: {cause}", count) for cause, count in found.causes.items()),
        *([("attempts spoilt by machines", found.faults)] if found.faults else []),
        ("report items opened", counted(found.openings, "time")),
    ]
    print_table(f"study {name}", ("", ""), [(key, str(value)) for key, value in rows])


def _print_stages(name: str, rows: Sequence[api.StageRow], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    print_table(
        f"study {name}",
        ("stage", "state", "trials", "front", "best", "takes"),
        [
            (
                row.name,
                row.state,
                f"{row.trials}" + (f" of {row.allowed}" if row.allowed else ""),
                row.front_size,
                "; ".join(
                    f"{best.objective} {best.value:.4g} (trial {best.trial})"
                    for best in row.best
                ),
                "; ".join(f"{name} ({origin})" for name, origin in row.takes.items()),
            )
            for row in rows
        ],
    )


@click.command(
    epilog="Example: evomerge front scalars --json",
    short_help="List the best trials of a study.",
)
@click.argument("name")
@db_option
@json_option
def front(name: str, db: str, as_json: bool) -> None:
    """List the feasible trials of NAME that no other dominates.

    Scores are those the search saw, on the items it selected on; `evomerge export`
    scores a trial on sealed items.
    """
    rows = api.front(name, db=db)
    if as_json:
        print_json(rows)
        return
    names = list(rows[0].values) if rows else []
    ways = (
        [f"{k}: {way.words}" for k, way in rows[0].directions.items()] if rows else []
    )
    print_table(
        f"front of {name} ({'; '.join(['scores on search items', *ways])})",
        ("trial", "label", *names),
        [(row.number, row.label, *row.values.values()) for row in rows],
    )


def _note(row: api.TrialRow) -> str:
    """Say in one line what is special about a trial; --json has it whole."""
    words = [row.label, _cut(row.failure or ""), "reused" if row.reused else ""]
    return "; ".join(word for word in words if word)


def _cut(message: str) -> str:
    first = message.partition("\n")[0]
    return first if len(first) <= NOTE_LENGTH else f"{first[: NOTE_LENGTH - 1]}…"


@click.command(
    epilog="Example: evomerge trials scalars --json",
    short_help="List every trial of a study.",
)
@click.argument("name")
@db_option
@json_option
def trials(name: str, db: str, as_json: bool) -> None:
    """List every trial of NAME: what was tried, how it ended, what it scored.

    Attempts count every start; faults are those that a machine spoilt.
    """
    rows = api.trials(name, db=db)
    if as_json:
        print_json(rows)
        return
    names = list(rows[0].values) if rows else []
    print_table(
        f"trials of {name}",
        ("trial", "gen", "state", "attempt", "faults", "recipe", *names, "note"),
        [
            (
                row.number,
                row.generation,
                row.state,
                row.attempt,
                row.faults,
                row.recipe[:10],
                *(row.values.get(objective) for objective in names),
                _note(row),
            )
            for row in rows
        ],
    )
