"""`evomerge show`: one trial, whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from evomerge import api
from evomerge.api.plain import plain
from evomerge.cli.options import cache_dir, db_option, json_option
from evomerge.cli.studies import way
from evomerge.cli.tables import print_json, print_table
from evomerge.cli.verbs.meant import clean


@click.command(
    epilog="Example: evomerge show scalars --trial 12",
    short_help="Show one trial: point, scores, recipe, how it ended.",
)
@click.argument("name")
@click.option(
    "--trial", "number", type=click.IntRange(min=0), required=True, help="Which."
)
@click.option("--whole", is_flag=True, help="The whole recipe, and as mergekit's.")
@db_option
@json_option
def show(name: str, number: int, whole: bool, db: str, as_json: bool) -> None:
    """Show a trial of NAME: its point, scores with intervals, recipe, cost and end.

    Nothing is scored, and no weight is read.
    """
    found = plain(api.show(name, number, db=db, cache_dir=cache_dir()))
    if as_json:
        print_json(found)
        return
    row = found["trial"]
    head: list[tuple[str, object]] = [
        ("state", row["state"]),
        *([("label", row["label"])] if row["label"] else []),
        ("generation", row["generation"]),
        *([("front", "yes" if found["is_front"] else "no")] if row["values"] else []),
        *([("keeps its bounds", "no")] if row["feasible"] is False else []),
        *(
            (k, f"{v:.4g} ({way(row['directions'][k])})")
            for k, v in row["values"].items()
        ),
        ("items scored", found["n_items"]),
        *(
            (f"seconds: {kind}", f"{s:.2f}")
            for kind, s in (row["seconds"] or {}).items()
        ),
        *([("failure", row["failure"])] if row["failure"] else []),
        ("recipe", row["recipe"]),
    ]
    title = f"trial {number} of {found['study']}"
    print_table(title, ("", ""), [(key, clean(str(value))) for key, value in head])
    _print_part("point", ("axis", "value"), list((row["point"] or {}).items()))
    _print_part(
        "scores on search items, with 95 % intervals",
        ("measure", "mean", "from", "to", "items"),
        [
            (m["measure"], m["value"], m["low"], m["high"], m["n_items"])
            for m in found["measures"]
        ],
    )
    _print_part(
        "merged", ("place", "tensors", "operator", "inputs", "knobs"), found["summary"]
    )
    columns = ("attempt", "worker", "began", "ended", "end", "failure")
    tried = [tuple(one[key] for key in columns) for one in found["attempts"]]
    _print_part("attempts", columns, tried)
    if whole:
        _print_whole(found)


def _print_part(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    if rows:
        click.echo()
        shown = [
            [clean(cell) if isinstance(cell, str) else cell for cell in row]
            for row in rows
        ]
        print_table(title, columns, shown)


def _print_whole(found: dict[str, Any]) -> None:
    import json

    click.echo("\nrecipe\n" + json.dumps(found["recipe"], indent=1))
    if found["mergekit"] is not None:
        click.echo("\nas mergekit\n" + found["mergekit"])
    for line in found["mergekit_lacks"]:
        click.echo(f"mergekit: {clean(line)}")
