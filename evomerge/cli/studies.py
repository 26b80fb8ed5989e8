"""`evomerge status`, `front` and `trials`: how a study stands, here or on a cluster."""

from __future__ import annotations

from typing import Any

import click

from evomerge import api
from evomerge.api.plain import plain
from evomerge.cli.options import cluster_option, db_option, json_option
from evomerge.cli.tables import counted, print_json, print_table
from evomerge.cli.verbs.meant import clean, meant, remote, understood

NOTE_LENGTH = 110
"""Most characters of a failure that a table shows; --json has it whole."""

_Row = dict[str, Any]


@click.command(
    epilog="Example: evomerge status scalars", short_help="Show how a study stands."
)
@click.argument("name")
@cluster_option
@db_option
@json_option
def status(name: str, cluster: str | None, db: str, as_json: bool) -> None:
    """Show how the study NAME stands; of one with stages, how each of them does."""
    if (urls := meant(cluster)) is not None:
        with remote(urls) as asked:
            found = asked.status(name)
    else:
        found = plain(api.stages(name, db=db) or api.status(name, db=db))
    if as_json:
        print_json(found)
    elif isinstance(found, list):
        understood(lambda rows: _print_stages(name, rows), found)
    else:
        understood(lambda found: _print_status(name, found), found)


def _print_status(name: str, found: _Row) -> None:
    rows: list[tuple[str, object]] = [
        ("state", found["state"]),
        ("created", found["created"]),
        *([("workers", words)] if (words := found.get("workers")) else []),
        *(("node set aside", words) for words in found.get("aside", ())),
        ("generation", found["generation"]),
        *((f"trials {state}", count) for state, count in found["counts"].items()),
        ("budget used", found["used"]),
        ("merges proposed again", _repeats(found["repeats"])),
        ("front", counted(found["front_size"], "trial")),
        *(
            (
                f"best {best['objective']}",
                f"{_best(best)[:-1]}; {_way(best['direction'])})",
            )
            for best in found["best"]
        ),
        *((f"not scored: {cause}", n) for cause, n in found["causes"].items()),
        *([("attempts spoilt by machines", n)] if (n := found["faults"]) else []),
        ("report items opened", counted(found["openings"], "time")),
    ]
    print_table(
        f"study {name}", ("", ""), [(key, clean(str(value))) for key, value in rows]
    )


def _best(best: _Row) -> str:
    return f"{best['value']:.4g} (trial {best['trial']})"


def _repeats(found: _Row) -> str:
    again = found["asked"] - found["distinct"]
    return f"{again} of {found['asked']} ({found['share']:.1%})"


def _way(direction: str) -> str:
    from evomerge.core.study import Direction  # costs --help milliseconds

    return Direction(direction).words


def _print_stages(name: str, rows: list[_Row]) -> None:
    print_table(
        f"study {name}",
        ("stage", "state", "trials", "front", "best", "takes"),
        [
            (
                row["name"],
                clean(row["state"]),
                f"{row['trials']}" + (f" of {n}" if (n := row["allowed"]) else ""),
                row["front_size"],
                "; ".join(f"{best['objective']} {_best(best)}" for best in row["best"]),
                "; ".join(f"{name} ({of})" for name, of in row["takes"].items()),
            )
            for row in rows
        ],
    )


@click.command(
    epilog="Example: evomerge front scalars --json",
    short_help="List the best trials of a study.",
)
@click.argument("name")
@cluster_option
@db_option
@json_option
def front(name: str, cluster: str | None, db: str, as_json: bool) -> None:
    """List the feasible trials of NAME that no other dominates.

    Scores are those the search saw, on the items it selected on; `evomerge export`
    scores a trial on sealed items.
    """
    if (urls := meant(cluster)) is not None:
        with remote(urls) as asked:
            rows = asked.front(name)
    else:
        rows = plain(api.front(name, db=db))
    if as_json:
        print_json(rows)
    else:
        understood(lambda rows: _print_front(name, rows), rows)


def _print_front(name: str, rows: list[_Row]) -> None:
    names = list(rows[0]["values"]) if rows else []
    directions = rows[0]["directions"].items() if rows else ()
    ways = [f"{k}: {_way(way)}" for k, way in directions]
    print_table(
        f"front of {name} ({'; '.join(['scores on search items', *ways])})",
        ("trial", "label", *names),
        [(row["number"], row["label"], *row["values"].values()) for row in rows],
    )


def _note(row: _Row) -> str:
    """Say in one line what is special about a trial; --json has it whole."""
    reused = "reused" if row["reused"] else ""
    words = [row["label"], _cut(row["failure"] or ""), reused]
    return "; ".join(word for word in words if word)


def _cut(message: str) -> str:
    first = clean(message.partition("\n")[0])
    return first if len(first) <= NOTE_LENGTH else f"{first[: NOTE_LENGTH - 1]}…"


@click.command(
    epilog="Example: evomerge trials scalars --json",
    short_help="List every trial of a study.",
)
@click.argument("name")
@cluster_option
@db_option
@json_option
def trials(name: str, cluster: str | None, db: str, as_json: bool) -> None:
    """List every trial of NAME: what was tried, how it ended, what it scored.

    Attempts count every start; faults are those that a machine spoilt.
    """
    if (urls := meant(cluster)) is not None:
        with remote(urls) as asked:
            rows = asked.trials(name)
    else:
        rows = plain(api.trials(name, db=db))
    if as_json:
        print_json(rows)
    else:
        understood(lambda rows: _print_trials(name, rows), rows)


def _print_trials(name: str, rows: list[_Row]) -> None:
    names = list(rows[0]["values"]) if rows else []
    print_table(
        f"trials of {name}",
        ("trial", "gen", "state", "attempt", "faults", "recipe", *names, "note"),
        [
            (
                row["number"],
                row["generation"],
                row["state"],
                row["attempt"],
                row["faults"],
                row["recipe"][:10],
                *(row["values"].get(objective) for objective in names),
                _note(row),
            )
            for row in rows
        ],
    )
