"""`evomerge logs`, `events` and `wait`: what happens to a job, to its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from evomerge.cli.tables import print_json
from evomerge.cli.verbs.meant import (
    FOLLOWING_S,
    Standing,
    asks,
    clean,
    hush,
    job_argument,
    service,
)
from evomerge.exit_codes import ExitCode

if TYPE_CHECKING:
    from evomerge.client.verbs import Verbs
    from evomerge.store.queue.values import Job, JobEvent

_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.3, 3.0


@click.command(
    epilog="Example: evomerge logs -f scalars",
    short_help="Print what a job's processes said.",
)
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on as more is said.")
@asks
def logs(name: str, follow: bool, cluster: str | None, db: str, as_json: bool) -> None:
    """Print the log of the job NAME, of all its starts.

    Goes on at another replica when one is gone. With --json each part is one line: its
    text, and the byte at which the next one begins.
    """
    with service(cluster, db, FOLLOWING_S if follow else None) as asked:
        parts = asked.follow_log(name) if follow else _whole_log(asked, name)
        for part in parts:
            hush()
            text = part.text.decode("utf-8", "replace")
            if as_json:
                click.echo(json.dumps({"text": text, "next": part.next}))
            elif sys.stdout.isatty():
                click.echo(clean(text), nl=False)
            else:  # whole, whatever it is
                click.echo(part.text, nl=False)


def _whole_log(asked: Verbs, name: str) -> Iterator[Any]:
    after = 0
    while True:
        part = asked.log(name, after)
        if not part.text:
            return
        yield part
        after = part.next


@click.command(
    epilog="Example: evomerge events -f scalars",
    short_help="List what happened to a job.",
)
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until it ends or is paused.")
@click.option(
    "--after",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Only those with a higher number.",
)
@asks
def events(
    name: str,
    follow: bool,
    after: int,
    cluster: str | None,
    db: str,
    as_json: bool,
) -> None:
    """List the events of the job NAME; with -f as they happen, none twice or never.

    With --json and -f each event is one line.
    """
    with service(cluster, db, FOLLOWING_S if follow else None) as asked:
        if not follow:
            found = list(_all_events(asked, name, after))
            if as_json:
                print_json([_plain(event) for event in found])
            else:
                for event in found:
                    click.echo(_line(event))
            return
        for event in asked.follow_events(name, after):
            _tell(event, as_json)


@click.command(
    epilog="Example: evomerge wait scalars --timeout 3600",
    short_help="Wait for the end of a job.",
)
@job_argument
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Wait no longer.",
)
@asks
def wait(
    name: str, timeout_s: float | None, cluster: str | None, db: str, as_json: bool
) -> None:
    """Wait until the job NAME has ended or is paused.

    Exit codes: 0 finished; 2 failed, and something is to be put right; 3 failed, as
    what is recorded does not hold; 4 cancelled or paused; 75 still going when the time
    was over, or no replica answers.
    """
    with service(cluster, db, FOLLOWING_S) as asked, Standing() as standing:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        job = asked.job(name)
        pause_s = _FIRST_LOOK_S
        while not _is_over(job):
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            standing(f"{job.address} is {job.state}")
            time.sleep(pause_s if left is None else min(pause_s, left))
            pause_s = min(1.5 * pause_s, _LONGEST_LOOK_S)
            job = asked.job(name)
        code = _code_of(asked, job)
    if as_json:
        from evomerge.client.values import to_json

        print_json(to_json(job))
    else:
        _print_end(job)
    raise SystemExit(code)


def follow_to_end(asked: Verbs, name: str, *, as_json: bool) -> int:
    """Tell a job's events to its end; return the exit code that stands for it."""
    for event in asked.follow_events(name):
        _tell(event, as_json)
    job = asked.job(name)
    if not as_json:
        _print_end(job)
    return _code_of(asked, job)


def _is_over(job: Job) -> bool:
    return job.state.is_final or job.state == "paused"


def _print_end(job: Job) -> None:
    why = f": {clean(job.why)}" if job.why and job.state != "finished" else "."
    click.echo(f"{clean(job.address)} is {job.state}{why}")


def _code_of(asked: Verbs, job: Job) -> int:
    """Return what the state of a job asks of whoever waited."""
    if job.state == "finished":
        return ExitCode.DONE
    if job.state in ("cancelled", "paused"):
        return ExitCode.STOPPED
    if job.state != "failed":
        return ExitCode.TRY_AGAIN
    codes = [event.data.get("code") for event in _all_events(asked, job.address, 0)]
    is_broken = codes[-1:] == [ExitCode.RECORD_BROKEN]
    return ExitCode.RECORD_BROKEN if is_broken else ExitCode.PUT_RIGHT


def _all_events(asked: Verbs, name: str, after: int) -> Iterator[JobEvent]:
    while page := asked.events(name, after):
        yield from page
        after = page[-1].number


def _tell(event: JobEvent, as_json: bool) -> None:
    hush()
    click.echo(json.dumps(_plain(event)) if as_json else _line(event))


def _line(event: JobEvent) -> str:
    said = " ".join(
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in event.data.items()
        if value is not None
    )
    at = event.at[:19].replace("T", " ")
    return clean(f"{at}  {event.number:>4}  {event.kind}  {said}".rstrip())


def _plain(event: JobEvent) -> Any:
    from evomerge.client.values import to_json

    return to_json(event)
