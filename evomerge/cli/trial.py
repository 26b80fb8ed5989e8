"""`evomerge show` and `scan`: one trial, whole; and a scan of blocks, whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from evomerge import api
from evomerge.api.plain import plain, value_words
from evomerge.cli.options import cache_dir, db_option, json_option
from evomerge.cli.studies import way
from evomerge.cli.tables import counted, print_json, print_table
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
            (k, f"{value_words(row | _one(row, k))} ({way(row['directions'][k])})")
            for k in row["values"]
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


def _one(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {"value": row["values"][name], "error": row["errors"].get(name)}


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


@click.command(
    epilog="Example: evomerge scan repeat_block --svg blocks.svg --held-out 3",
    short_help="Say and draw which blocks of layers, run twice, help.",
)
@click.argument("name")
@click.option(
    "--svg",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for a heat map: first layer against number of layers.",
)
@click.option("--objective", help="Which; the first that is no cost if not given.")
@click.option(
    "--held-out",
    type=click.IntRange(min=0),
    default=0,
    help="Score so many of the best, and the unchanged model, on held-out items.",
)
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Blocks in the table; JSON has all.",
)
@db_option
@json_option
def scan(
    name: str,
    svg: Path | None,
    objective: str | None,
    held_out: int,
    top: int,
    db: str,
    as_json: bool,
) -> None:
    """Compare every block that NAME ran twice with the unchanged model.

    On search items each difference has a p-value corrected for all the blocks there
    are. With --held-out the best few are judged on items that no search saw.
    """
    if held_out:
        click.echo("scoring on held-out items; an engine may have to start", err=True)
    found = api.scan(
        name, db=db, objective=objective, held_out=held_out, cache_dir=cache_dir()
    )
    if svg is not None:
        svg.write_text(found.svg(), encoding="utf-8")
    if as_json:
        print_json(found)
        return
    _print_search(found, top)
    if found.held_out is not None:
        _print_held_out(found)
    if svg is not None:
        click.echo(f"{svg}: all of them")


def _print_search(found: api.Scan, top: int) -> None:
    goal = found.objective
    print_table(
        f"blocks of {found.study} run twice: {goal.name} ({way(goal.direction)}) on "
        f"{found.n_items} search items; unchanged {found.unchanged:.3f}",
        ("block", "trial", goal.name, "difference", "p"),
        [
            (b.name, b.trial, b.value, f"{b.difference:+.3f}", f"{b.corrected:.3f}")
            for b in found.blocks[:top]
        ],
    )
    click.echo(
        f"{counted(len(found.blocks), 'block')} scored; p is corrected for all of them."
    )


def _print_held_out(found: api.Scan) -> None:
    from evomerge.export.markup import p_value

    plain = found.held_out
    assert plain is not None
    looked = [(b.name, b.held_out) for b in found.blocks if b.held_out is not None]
    print_table(
        f"the best of them on {found.n_held_out} held-out items (95 % intervals); "
        f"unchanged {plain.value:.3f} [{plain.low:.3f}, {plain.high:.3f}]",
        ("block", found.objective.name, "difference", "p", "verdict"),
        [
            (
                block,
                one.value,
                f"{one.difference.value:+.3f} "
                f"[{one.difference.low:+.3f}, {one.difference.high:+.3f}]",
                p_value(one.adjusted, one.p_value),
                str(one.verdict),
            )
            for block, one in looked
        ],
    )
    click.echo(
        f"The held-out items have been opened {counted(found.openings, 'time')}. "
        "p-values are Holm-adjusted over all comparisons; with ≤, the least a test "
        "can give."
    )
