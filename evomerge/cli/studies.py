"""`evomerge status`, `front` and `trials`: how a study stands, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from evomerge import api
from evomerge.api.plain import flat, plain, shallow, value_words
from evomerge.cli.options import cluster_option, db_option, json_option
from evomerge.cli.tables import counted, keeping_all, print_json, print_table
from evomerge.cli.verbs.meant import clean, meant, remote, understood

NOTE_LENGTH = 110
"""Most characters of a failure that a table shows; --json has it whole."""

_Row = dict[str, Any]
_F = Callable[..., Any]


def _listing_options(command: _F) -> _F:
    """Add what chooses, orders and prints trials."""
    for option in (
        click.option("--csv", "as_csv", is_flag=True, help="Print CSV, points too."),
        click.option("--points", is_flag=True, help="Show each trial's point."),
        click.option("--feasible", is_flag=True, help="Those that keep every bound."),
        click.option(
            "--sort",
            metavar="KEY",
            help="An objective (best first), number or generation.",
        ),
        click.option("--top", type=click.IntRange(min=1), help="So many at most."),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class _Listing:
    """Which trials of many are shown, in which order, and how."""

    top: int | None
    sort: str | None
    feasible: bool
    points: bool
    as_csv: bool
    state: str | None = None

    def refuse_two_forms(self, as_json: bool) -> None:
        """Refuse to print one listing in two forms."""
        if self.as_csv and as_json:
            raise click.UsageError("Expected --csv or --json, got both.")

    def chosen(self, rows: Sequence[_Row]) -> list[_Row]:
        """Choose among rows, and put them in order."""
        found = [
            row
            for row in rows
            if self.state in (None, row.get("state"))
            and (not self.feasible or row.get("feasible", True))
        ]
        return self._ordered(found)[: self.top]

    def _ordered(self, rows: list[_Row]) -> list[_Row]:
        key = self.sort
        if key is None or not rows:
            return rows
        directions = rows[0]["directions"]
        if key in directions:
            sign = -1.0 if directions[key] == "maximize" else 1.0
            scored = [row for row in rows if key in row["values"]]
            rest = [row for row in rows if key not in row["values"]]
            return sorted(scored, key=lambda row: sign * row["values"][key]) + rest
        numbers = [k for k in ("number", "generation") if k in rows[0]]
        if key in numbers:
            return sorted(rows, key=lambda row: int(row[key]))
        from evomerge.core.nearest import did_you_mean  # costs --help milliseconds

        known = [*directions, *numbers]
        hint = did_you_mean(key, known)
        raise click.BadParameter(
            f"expected one of {', '.join(known)}, got {key!r}{hint}",
            param_hint="--sort",
        )

    def print_csv(self, rows: Sequence[_Row]) -> None:
        """Print rows as CSV, a column for each objective, measure and axis."""
        import csv
        import io

        table = [flat(plain(row)) for row in rows]
        columns = list(dict.fromkeys(key for row in table for key in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
        click.echo(text.getvalue(), nl=False)


@click.command(
    epilog="Example: evomerge status scalars --follow",
    short_help="Show how a study stands.",
)
@click.argument("name")
@click.option(
    "-f",
    "--follow",
    is_flag=True,
    help="Go on until its search ends: speed, time left.",
)
@cluster_option
@db_option
@json_option
def status(
    name: str, follow: bool, cluster: str | None, db: str, as_json: bool
) -> None:
    """Show how the study NAME stands; of one with stages, how each of them does.

    With --follow and --json each change is one line. Leaving with Ctrl-C stops nothing.
    """
    urls = meant(cluster)
    if follow:
        found = _followed(name, urls, db, as_json)
        if as_json or found is None:
            return
    elif urls is not None:
        with remote(urls) as asked:
            found = asked.status(name)
    else:
        found = _stood(name, db)
    if as_json:
        print_json(found)
    elif isinstance(found, list):
        understood(lambda rows: _print_stages(name, rows), found)
    else:
        understood(lambda found: _print_status(name, found), found)


def _stood(name: str, db: str) -> Any:
    return plain(api.stages(name, db=db) or api.status(name, db=db))


def _followed(name: str, urls: str | None, db: str, as_json: bool) -> Any:
    """Tell how a study stands until its search ends; return how it stood last."""
    from evomerge.cli.verbs import standing  # costs --help milliseconds

    if urls is not None:
        return standing.follow_remote(name, urls, as_json=as_json)
    return standing.follow(
        name, lambda: standing.local_look(_stood(name, db)), as_json=as_json
    )


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
                f"{_best(best)[:-1]}; {way(best['direction'])})",
            )
            for best in found["best"]
        ),
        *(
            [(f"leads in {lead['objective']}", _best(lead))]
            if (lead := found.get("leader"))
            else []
        ),
        *((f"not scored: {cause}", n) for cause, n in found["causes"].items()),
        *([("attempts spoilt by machines", n)] if (n := found["faults"]) else []),
        ("report items opened", counted(found["openings"], "time")),
    ]
    print_table(
        f"study {name}", ("", ""), [(key, clean(str(value))) for key, value in rows]
    )


def _best(best: _Row) -> str:
    return f"{value_words(best)} (trial {best['trial']})"


def _repeats(found: _Row) -> str:
    again = found["asked"] - found["distinct"]
    return f"{again} of {found['asked']} ({found['share']:.1%})"


def way(direction: str) -> str:
    """Say which way an objective is better."""
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
@_listing_options
@cluster_option
@db_option
@json_option
@keeping_all()
def front(
    name: str, cluster: str | None, db: str, as_json: bool, **listing: Any
) -> None:
    """List the feasible trials of NAME that no other dominates.

    Trials of equal scores have one line. Scores are those the search saw, on the items
    it selected on; `evomerge export` scores a trial on held-out items.
    """
    shown = _Listing(**listing)
    shown.refuse_two_forms(as_json)
    if (urls := meant(cluster)) is not None:
        with remote(urls) as asked:
            rows = asked.front(name)
    else:
        rows = shallow(api.front(name, db=db))
    rows = understood(shown.chosen, rows)
    if as_json:
        print_json(rows)
    elif shown.as_csv:
        understood(shown.print_csv, rows)
    else:
        understood(lambda rows: _print_front(name, rows, shown), rows)


def _print_front(name: str, rows: list[_Row], shown: _Listing) -> None:
    names = list(rows[0]["values"]) if rows else []
    directions = rows[0]["directions"].items() if rows else ()
    ways = [f"{name}: {way(direction)}" for name, direction in directions]
    if any(row.get("is_selected") for row in rows):
        ways.insert(0, "selected on them, which flatters")
    by_values: dict[tuple[float, ...], list[_Row]] = {}
    for row in rows:
        by_values.setdefault(tuple(row["values"].values()), []).append(row)
    equal = list(by_values.values())
    print_table(
        f"front of {name} ({'; '.join(['scores on search items', *ways])})",
        (
            *("trial", "label", *_value_heads(rows, names)),
            *(*_equal_head(equal), *_point_head(shown)),
        ),
        [
            (
                row["number"],
                row["label"],
                *_values(rows, row, names),
                *([_listed(others)] if _equal_head(equal) else []),
                *_point(row, shown),
            )
            for row, *others in equal
        ],
    )


def _value_heads(rows: Sequence[_Row], names: Sequence[str]) -> list[str]:
    """Name the columns of values, each with its error's if some row has one."""
    heads = [head for n in names for head in (n, *["±"] * _has_error(rows, n))]
    return [*heads, *["items"] * _is_sampled(rows)]


def _values(rows: Sequence[_Row], row: _Row, names: Sequence[str]) -> list[Any]:
    cells: list[Any] = []
    for name in names:
        cells.append(row["values"].get(name))
        if _has_error(rows, name):
            cells.append(row.get("errors", {}).get(name))
    n, of = row.get("n_items"), row.get("of_items")
    return [*cells, *[None if n is None else f"{n} of {of}"] * _is_sampled(rows)]


def _has_error(rows: Sequence[_Row], name: str) -> bool:
    return any(name in row.get("errors", {}) for row in rows)


def _is_sampled(rows: Sequence[_Row]) -> bool:
    """Tell whether some trial answered some of the items only."""
    return any(row.get("n_items") != row.get("of_items") for row in rows)


def _equal_head(equal: Sequence[Sequence[_Row]]) -> tuple[str, ...]:
    return ("equal",) if any(len(rows) > 1 for rows in equal) else ()


def _listed(rows: Sequence[_Row]) -> str | None:
    """Name trials, the first of many."""
    numbers = [str(row["number"]) for row in rows]
    more = [f"and {len(numbers) - 8} more"] if len(numbers) > 8 else []
    return ", ".join([*numbers[:8], *more]) or None


def _point_head(shown: _Listing) -> tuple[str, ...]:
    return ("point",) if shown.points else ()


def _point(row: _Row, shown: _Listing) -> tuple[str | None, ...]:
    if not shown.points:
        return ()
    point = row.get("point")
    return (
        None
        if point is None
        else clean(" ".join(f"{k}={v}" for k, v in point.items())),
    )


def _note(row: _Row) -> str:
    """Say in one line what is special about a trial; --json has it whole."""
    reused = "reused" if row["reused"] else ""
    outside = "breaks a bound" if row.get("feasible") is False else ""
    words = [row["label"], _cut(row["failure"] or ""), outside, reused]
    return "; ".join(word for word in words if word)


def _cut(message: str) -> str:
    first = clean(message.partition("\n")[0])
    return first if len(first) <= NOTE_LENGTH else f"{first[: NOTE_LENGTH - 1]}…"


@click.command(
    epilog="Example: evomerge trials scalars --json",
    short_help="List every trial of a study.",
)
@click.argument("name")
@click.option(
    "--state",
    type=click.Choice(["pending", "running", "scored", "failed", "quarantined"]),
    help="Those in this state.",
)
@_listing_options
@cluster_option
@db_option
@json_option
@keeping_all()
def trials(
    name: str, cluster: str | None, db: str, as_json: bool, **listing: Any
) -> None:
    """List every trial of NAME: what was tried, how it ended, what it scored.

    Attempts count every start; faults are those that a machine spoilt.
    """
    shown = _Listing(**listing)
    shown.refuse_two_forms(as_json)
    if (urls := meant(cluster)) is not None:
        with remote(urls) as asked:
            rows = asked.trials(name)
    else:
        rows = shallow(api.trials(name, db=db))
    rows = understood(shown.chosen, rows)
    if as_json:
        print_json(rows)
    elif shown.as_csv:
        understood(shown.print_csv, rows)
    else:
        understood(lambda rows: _print_trials(name, rows, shown), rows)


def _print_trials(name: str, rows: list[_Row], shown: _Listing) -> None:
    names = list(dict.fromkeys(key for row in rows for key in row["values"]))
    print_table(
        f"trials of {name}",
        (
            "trial",
            "gen",
            "state",
            "attempt",
            "faults",
            "recipe",
            *_value_heads(rows, names),
            *_point_head(shown),
            "note",
        ),
        [
            (
                row["number"],
                row["generation"],
                row["state"],
                row["attempt"],
                row["faults"],
                row["recipe"][:10],
                *_values(rows, row, names),
                *_point(row, shown),
                _note(row),
            )
            for row in rows
        ],
    )
