"""`evomerge studies`, `delete`, `attempts`, `db upgrade`, `db check`: housekeeping."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from evomerge import api
from evomerge.api.plain import plain
from evomerge.cli.options import cluster_option, db_option, json_option
from evomerge.cli.tables import counted, print_json, print_table
from evomerge.cli.verbs.jobs import job_of_study
from evomerge.cli.verbs.meant import clean, hush, meant, remote, understood
from evomerge.exit_codes import ExitCode

if TYPE_CHECKING:
    from evomerge.client.verbs import Verbs
    from evomerge.store.queue.values import Job

_MOST_SHOWN = 100


@click.command(
    epilog="Example: evomerge studies", short_help="List every study of a database."
)
@db_option
@json_option
def studies(db: str, as_json: bool) -> None:
    """List every study of the database: where it stands and what it used."""
    rows = api.studies(db=db)
    if as_json:
        print_json(rows)
    elif not rows:
        click.echo("This database holds no study yet. Begin one: evomerge run STUDY")
    else:
        columns = ("study", "state", "created", "trials", "failed", "items", "time")
        print_table("", columns, [_cells(row) for row in rows])


def _cells(row: api.StudyRow) -> tuple[object, ...]:
    of = "" if row.allowed is None else f" of {row.allowed}"
    return (
        row.name,
        row.state,
        row.created[:16].replace("T", " "),
        f"{row.trials}{of}",
        row.counts["failed"] + row.counts["quarantined"],
        row.items,
        _clock(row.seconds),
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


@click.command(
    epilog="Example: evomerge delete scalars --yes",
    short_help="Delete a study and what only it needs.",
)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@cluster_option
@db_option
@json_option
def delete(name: str, yes: bool, cluster: str | None, db: str, as_json: bool) -> None:
    """Delete the study NAME, with the recipes and outcomes that only it has.

    Outcomes that another study reuses stay, and so do models written from it. A study
    that is being run is refused. There is no way back but a copy of the database.

    With a cluster it is the job NAME that is deleted, with its study, log and exports;
    so is the job of a study that was submitted to the database's queue. One that has
    not ended is refused.
    """
    if (urls := meant(cluster)) is not None:
        with remote(urls) as asked:
            _delete_job(asked, asked.job(name), yes, as_json)
        return
    from evomerge.service.local import local_desk

    with local_desk(db, create=False) as desk:
        if (job := job_of_study(desk, name)) is not None:
            _delete_job(desk, job, yes, as_json)
            return
    found = api.removal(name, db=db)
    _confirm(f"Delete study {name!r} with {_words(found)}?", yes, as_json)
    gone = api.delete(name, db=db)
    if as_json:
        print_json(gone)
    else:
        click.echo(f"Deleted study {name!r} with {_words(gone)}.")


def _delete_job(asked: Verbs, job: Job, yes: bool, as_json: bool) -> None:
    what = f"{clean(job.address)} with its study, log and exports"
    if job.state.is_final:
        _confirm(f"Delete job {what}?", yes, as_json)
    asked.delete(job.address)
    if as_json:
        print_json({"job": job.address, "study": job.study})
    else:
        click.echo(f"Deleted job {what}.")


def _confirm(question: str, yes: bool, as_json: bool) -> None:
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody is there to answer; give --yes.")
    hush()
    click.confirm(question, abort=True, err=True)


def _words(found: api.Removal) -> str:
    trials, recipes = counted(found.trials, "trial"), counted(found.recipes, "recipe")
    return f"{trials}, {recipes} and {counted(found.blocks, 'block')} of outcomes"


@click.command(
    epilog="Example: evomerge attempts scalars --trial 7",
    short_help="List every attempt at a study's trials.",
)
@click.argument("name")
@click.option("--trial", type=click.IntRange(0), help="Only this trial.")
@cluster_option
@db_option
@json_option
def attempts(
    name: str, trial: int | None, cluster: str | None, db: str, as_json: bool
) -> None:
    """List every attempt at the trials of NAME: where, when, and how it ended.

    Ends: scored; failed, by the candidate's fault; fault, by a machine's; interrupted,
    when the search stopped or died; unknown, before this was remembered. WORKER is
    the one that began; --json lists every part of an attempt with its own.
    """
    if (urls := meant(cluster)) is not None:
        with remote(urls) as asked:
            rows = asked.attempts(name)
        if trial is not None:
            rows = [row for row in rows if row["trial"] == trial]
    else:
        rows = plain(api.attempts(name, db=db, trial=trial))
    if as_json:
        print_json(rows)
    else:
        understood(lambda rows: _print_attempts(name, rows), rows)


def _print_attempts(name: str, rows: list[dict[str, Any]]) -> None:
    print_table(
        f"attempts of {name}",
        ("trial", "attempt", "worker", "parts", "began", "ended", "end", "cause"),
        [
            (
                row["trial"],
                row["attempt"],
                row["worker"],
                _in_parts(row.get("parts", ())),
                row["began"] and row["began"][:19].replace("T", " "),
                row["ended"] and row["ended"][:19].replace("T", " "),
                row["end"],
                clean((row["failure"] or "").partition("\n")[0]),
            )
            for row in rows
        ],
    )


def _in_parts(parts: Sequence[Mapping[str, Any]]) -> str:
    workers = len({part["worker"] for part in parts})
    return f"{len(parts)} by {workers} workers" if workers > 1 else f"{len(parts)}"


@click.group(
    epilog="Example: evomerge db check", short_help="Upgrade or check a database."
)
def db() -> None:
    """Upgrade a database, or check that it holds what it promised."""


@db.command(
    epilog="Example: evomerge db upgrade --db sqlite:///evomerge.db",
    short_help="Bring a database to the present schema.",
)
@db_option
@json_option
def upgrade(db: str, as_json: bool) -> None:
    """Bring a database of an earlier evomerge to the present schema.

    An SQLite file is copied first, beside itself. Copy a PostgreSQL database with
    pg_dump before. No study may be running.
    """
    done = api.upgrade(db=db)
    if as_json:
        print_json(done)
    elif done.before == done.after:
        click.echo(f"The database has schema {done.after} already.")
    else:
        click.echo(f"Schema {done.before} before, {done.after} now.")
        if done.copy is not None:
            click.echo(f"The database as it was: {done.copy}")


@db.command(
    epilog="Example: evomerge db check --json",
    short_help="Compare a database with every promise.",
)
@db_option
@json_option
def check(db: str, as_json: bool) -> None:
    """Compare what a database holds with every promise; nothing is changed.

    Every trial's history must be legal, every outcome belong to a recipe, every
    average equal its outcomes. Studies may be running. Exit code 3 if a promise is
    broken.
    """
    from evomerge.steps import step  # costs --help milliseconds

    with step("checking") as now:
        found = api.audit(db=db, notice=lambda what: now.say(f"checking {what}"))
    if as_json:
        print_json(found)
    else:
        for fault in found.faults[:_MOST_SHOWN]:
            click.echo(f"{fault.where}: {fault.what}")
        if (more := len(found.faults) - _MOST_SHOWN) > 0:
            click.echo(f"... and {more} more; --json lists all.")
        size = (
            f"{found.studies} {'study' if found.studies == 1 else 'studies'}, "
            f"{counted(found.trials, 'trial')}, {counted(found.blocks, 'block')}"
        )
        n = len(found.faults)
        verdict = counted(n, "broken promise") if n else "every promise holds"
        click.echo(f"{size}: {verdict}")
    if found.faults:
        raise SystemExit(ExitCode.RECORD_BROKEN)
