"""`evomerge submit`, `ps`, `cancel` and `pause`: jobs, and what is wanted of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evomerge.cli.tables import counted, print_json, print_table
from evomerge.cli.verbs.following import follow_to_end
from evomerge.cli.verbs.meant import (
    FOLLOWING_S,
    asks,
    clean,
    hush,
    job_argument,
    meant,
    service,
)
from evomerge.errors import SpecError

if TYPE_CHECKING:
    from evomerge.client.verbs import Verbs
    from evomerge.store.queue.values import Job

TAKEN_WITHIN_S = 2.0
"""A service that runs and has room takes a job within that."""
_STATES = (
    "queued",
    "starting",
    "running",
    "waiting",
    "pausing",
    "paused",
    "cancelling",
    "cancelled",
    "finished",
    "failed",
)
_WHY_LENGTH = 80


@click.command(
    epilog="Example: evomerge submit search_spaces/scalars.yaml --cluster "
    "https://cluster:7077",
    short_help="Queue a study for a service to run.",
)
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--name", help="Of the job; the study's name if not given.")
@click.option(
    "--priority",
    type=click.IntRange(-10, 10),
    default=0,
    show_default=True,
    help="The higher goes first among your own.",
)
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Engines at once, instead of what the study says.",
)
@click.option("--follow", is_flag=True, help="Then wait for its end, and tell events.")
@asks
def submit(
    study: Path,
    name: str | None,
    priority: int,
    workers: int | None,
    follow: bool,
    cluster: str | None,
    db: str,
    as_json: bool,
) -> None:
    """Queue the STUDY file with the evaluators, tasks and recipes it names.

    The same again changes nothing. Models are not sent: the cluster finds them by
    their hub ids, or by the same paths. With --follow the exit code is that of
    `evomerge wait`.
    """
    from evomerge.client import bundled

    found = bundled(study)
    place = {} if workers is None else {"workers": workers}
    with service(cluster, db, FOLLOWING_S if follow else None, create=True) as asked:
        try:
            job, is_new = asked.submit(
                found.bundle.files,
                name=name or found.name,
                priority=priority,
                place=place,
            )
        except SpecError as error:
            raise SpecError(found.own(error.problems)) from error
        hush()
        is_local = meant(cluster) is None
        if not as_json:
            _print_submitted(job, is_new)
            if found.folders and not is_local:
                click.echo("The cluster must have, under the same paths:")
                for folder in found.folders:
                    click.echo(f"  {folder}")
        if is_local and not follow:
            job = _when_taken(asked, job, as_json)
        if follow:
            code = follow_to_end(asked, job.name, as_json=as_json)
            raise SystemExit(code)
        if as_json:
            print_json({**_plain(job), "is_new": is_new})


def _print_submitted(job: Job, is_new: bool) -> None:
    size = f"study {job.study}, bundle {job.bundle_digest[:10]}"
    if is_new:
        click.echo(f"{clean(job.address)} is queued ({clean(size)}).")
    else:
        click.echo(f"{clean(job.address)} is there already: {job.state}.")


def _when_taken(asked: Verbs, job: Job, as_json: bool) -> Job:
    """Look for a moment whether a service takes a job of the database's queue."""
    until = time.monotonic() + TAKEN_WITHIN_S
    while job.state == "queued" and time.monotonic() < until:
        time.sleep(0.2)
        job = asked.job(job.address)
    if job.state == "queued":
        others = [other for other in asked.jobs(limit=100) if other.state.is_held]
        said = (
            f"It waits for its turn: {counted(len(others), 'study')} before it."
            if others
            else "No service has taken it yet. Run: evomerge serve --db URL"
        )
        click.echo(said, err=as_json)
    return job


@click.command(
    epilog="Example: evomerge ps -a --filter study=scalars",
    short_help="List jobs.",
)
@click.option("-a", "--all", "every", is_flag=True, help="Those that have ended too.")
@click.option(
    "--state",
    "states",
    type=click.Choice(_STATES),
    multiple=True,
    help="Only those in this state; may be given several times.",
)
@click.option(
    "--filter",
    "filters",
    metavar="KEY=VALUE",
    multiple=True,
    help="Only those whose key, as --json names it, has this value.",
)
@click.option("--user", help="Only this user's; for operators.")
@asks
def ps(
    every: bool,
    states: tuple[str, ...],
    filters: tuple[str, ...],
    user: str | None,
    cluster: str | None,
    db: str,
    as_json: bool,
) -> None:
    """List jobs that have not ended, oldest first; of an operator, everybody's."""
    from evomerge.store.queue.values import JobState

    wanted = [JobState(state) for state in states]
    if not wanted and not every:
        wanted = [state for state in JobState if not state.is_final]
    chosen = _filters(filters)
    with service(cluster, db) as asked:
        jobs = _all_jobs(asked, wanted, user, chosen)
    if as_json:
        print_json([_plain(job) for job in jobs])
        return
    if not jobs:
        what = "No job" if every or states or filters else "No job that has not ended"
        click.echo(f"{what}. Queue one: evomerge submit STUDY; -a lists all.")
        return
    users = {job.user for job in jobs}
    print_table(
        "",
        ("job", "study", "state", "priority", "starts", "created", "why"),
        [_row(job, full=len(users) > 1) for job in jobs],
    )


def _filters(words: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise click.UsageError(f"Expected --filter KEY=VALUE, got {word!r:.80}.")
        found[key] = value
    return found


def _all_jobs(
    asked: Verbs, states: list[Any], user: str | None, filters: dict[str, str]
) -> list[Job]:
    from evomerge.client.verbs import PAGE

    found: list[Job] = []
    while True:
        after = found[-1].address if found else None
        page = asked.jobs(
            states=states, user=user, filters=filters, after=after, limit=PAGE
        )
        found += page
        if len(page) < PAGE:
            return found


def _row(job: Job, *, full: bool) -> tuple[object, ...]:
    why = clean((job.why or "").partition("\n")[0])
    return (
        clean(job.address if full else job.name),
        clean(job.study),
        str(job.state),
        job.priority,
        job.starts,
        clean(job.created)[:16].replace("T", " "),
        why if len(why) <= _WHY_LENGTH else f"{why[: _WHY_LENGTH - 1]}…",
    )


@click.command(
    epilog="Example: evomerge cancel scalars", short_help="End a job for good."
)
@job_argument
@asks
def cancel(name: str, cluster: str | None, db: str, as_json: bool) -> None:
    """End the job NAME, wherever it is; what it found is kept.

    It may be resumed. The wish outlives every process: whoever runs the job learns of
    it.
    """
    with service(cluster, db) as asked:
        print_job(asked.cancel(name), as_json)


@click.command(
    epilog="Example: evomerge pause scalars",
    short_help="Stop a job until it is resumed.",
)
@job_argument
@asks
def pause(name: str, cluster: str | None, db: str, as_json: bool) -> None:
    """Stop the job NAME until it is resumed; its workers are free for others."""
    with service(cluster, db) as asked:
        print_job(asked.pause(name), as_json)


def resume_job(
    name: str,
    budget: dict[str, float],
    priority: int | None,
    cluster: str,
    as_json: bool,
) -> None:
    """Resume a job of a cluster: what `evomerge resume` does there."""
    from evomerge.cli.verbs.meant import remote

    with remote(cluster) as asked:
        print_job(asked.resume(name, budget=budget, priority=priority), as_json)


def resume_queued(
    name: str, budget: dict[str, float], priority: int | None, db: str, as_json: bool
) -> bool:
    """Queue the job again whose study this is, if there is one that nobody runs.

    Returns:
        Whether there is; without, the study goes on in this process.
    """
    from evomerge.service.local import local_desk

    with local_desk(db, create=False) as asked:
        job = job_of_study(asked, name)
        if job is None or job.state.is_held:
            return False
        job = asked.resume(job.address, budget=budget, priority=priority)
        if not as_json:
            print_job(job, as_json)
        job = _when_taken(asked, job, as_json)
        if as_json:
            print_json(_plain(job))
        return True


def job_of_study(asked: Verbs, study: str) -> Job | None:
    """Return the job that a study was submitted as, if it was."""
    return next(iter(asked.jobs(filters={"study": study}, limit=1)), None)


def print_job(job: Job, as_json: bool) -> None:
    """Say how a job stands."""
    if as_json:
        print_json(_plain(job))
    else:
        click.echo(f"{clean(job.address)} is {job.state}.")


def _plain(job: Job) -> dict[str, Any]:
    from evomerge.client.values import to_json

    found: dict[str, Any] = to_json(job)
    return found
