"""`evomerge run` and `evomerge resume`, with the live view of a search."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evomerge import api
from evomerge.api.plain import plain, value_words
from evomerge.cli.options import (
    budget_options,
    cache_dir,
    cluster_option,
    db_option,
    json_option,
    placement_options,
    policy_option,
    ray_address,
)
from evomerge.cli.tables import counted, print_json, print_table
from evomerge.cli.verbs.jobs import resume_job, resume_queued
from evomerge.cli.verbs.meant import meant, refuse_options
from evomerge.core.policy import in_force
from evomerge.masking import masked_url

if TYPE_CHECKING:
    from evomerge.search.scoreboard import Progress, Standing


@click.command(
    epilog="Example: evomerge run search_spaces/scalars.yaml --workers 2",
    short_help="Search as a study file says.",
)
@click.argument("study", type=click.Path(path_type=Path), is_eager=True)
@placement_options
@policy_option
@db_option
@json_option
def run(
    study: Path,
    workers: int | None,
    address: str | None,
    in_process: bool,
    db: str,
    as_json: bool,
) -> None:
    """Search as the STUDY file says, until its budget is used.

    A study of the same name and configuration that is in the database already goes on
    where it stands; one of another configuration is refused, with the differences. Of
    a study with stages, one after another is searched.
    """
    address = ray_address(address, in_process)
    where = api.Where(workers, address, in_process, cache_dir())
    if (policy := in_force()) is not None:
        from evomerge.service.resolving import refuse

        refuse(study, policy, cache_dir())  # before it is read beside secrets
    _search(api.prepare(study, db=db, where=where), as_json)


@click.command(
    epilog="Example: evomerge resume scalars --trials 200",
    short_help="Go on with a study exactly where it stands.",
)
@click.argument("name")
@budget_options
@placement_options
@policy_option
@click.option(
    "--priority",
    type=click.IntRange(-10, 10),
    help="Of a cluster's job: the higher goes first among your own.",
)
@cluster_option
@db_option
@json_option
def resume(
    name: str,
    trials: int | None,
    items: int | None,
    minutes: float | None,
    workers: int | None,
    address: str | None,
    in_process: bool,
    priority: int | None,
    cluster: str | None,
    db: str,
    as_json: bool,
) -> None:
    """Go on with the study NAME exactly where it stands, after any kind of stop.

    Budget and workers may change; what a budget says holds for the whole study. Stages
    of a study are called STUDY.STAGE; each has a budget of its own.

    With a cluster, its job NAME is queued again, and goes on there. So is a study that
    was submitted to the database's queue, unless --workers, --address or --in-process
    says where it is to run from here.
    """
    given = {"trials": trials, "items": items, "minutes": minutes}
    more = {key: value for key, value in given.items() if value is not None}
    if (urls := meant(cluster)) is not None:
        refuse_options(("workers", "address", "in_process"))
        resume_job(name, more, priority, urls, as_json)
        return
    is_placed = workers is not None or address is not None or in_process
    if not is_placed and resume_queued(name, more, priority, db, as_json):
        return
    if priority is not None:
        raise click.UsageError(
            "--priority is for a job of a cluster or a queue; give --cluster."
        )
    address = ray_address(address, in_process)
    where = api.Where(workers, address, in_process, cache_dir())
    seconds = None if minutes is None else minutes * 60
    budget = api.Budget(trials, items, seconds)
    _search(api.take_up(name, db=db, where=where, budget=budget), as_json)


def _search(prepared: api.Prepared, as_json: bool) -> None:
    """Search a study, and its further stages."""
    reports: list[api.RunReport] = []
    now: api.Prepared | None = prepared
    while now is not None:
        with _how_to_resume(now):
            with live_view(now.name, now.objectives) as observer:
                reports.append(api.search(now, observer))
            if not as_json:
                _print(reports[-1])
            now = api.following(now)
    if as_json:
        print_json(reports[0] if prepared.stage is None else reports)


class _how_to_resume:  # noqa: N801 - reads as the statement it stands in
    """On Ctrl-C, say what is kept and how to go on."""

    def __init__(self, prepared: api.Prepared) -> None:
        words = ["evomerge", "resume", prepared.name]
        # A database from the environment, or the default, is found again by itself.
        source = click.get_current_context().get_parameter_source("db")
        if source is click.core.ParameterSource.COMMANDLINE:
            words += ["--db", masked_url(prepared.db)]
        if prepared.where.in_process:
            words.append("--in-process")
        self._hint = shlex.join(words)

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            click.echo(
                "\nStopped; everything scored so far is recorded. Go on with:\n  "
                + self._hint,
                err=True,
            )


def _print(report: api.RunReport) -> None:
    print_table(
        f"{report.name}: {report.reason}; {counted(report.trials, 'trial')}, "
        f"{counted(report.items, 'item')}, {report.seconds:.0f} s",
        ("objective", "best", "trial", "label", ""),
        [
            (
                best.objective,
                value_words(plain(best)),
                best.trial,
                best.label,
                best.direction.words,
            )
            for best in report.best
        ],
    )
    front = counted(report.front_size, "trial")
    click.echo(f"The front has {front}: evomerge front {report.name}")


@contextmanager
def live_view(
    name: str, objectives: tuple[str, ...]
) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows a study's progress while the context lasts.

    Each generation is told at once, also where there is no terminal.
    """
    from evomerge.steps import step  # costs --help milliseconds

    last: list[str] = []
    with step(f"starting the search of {name}") as now:

        def show(progress: Progress) -> None:
            last[:] = [describe(progress, objectives)]
            now.say(last[0], progress.generation if progress.workers else None)

        yield show
    if last and sys.stderr.isatty():
        click.echo(last[0], err=True)


def describe(progress: Progress, objectives: tuple[str, ...]) -> str:
    """Put a study's progress into one line."""
    from evomerge.steps import clock_words

    if progress.workers == 0:
        roster = progress.roster
        is_known = roster.waits_for is not None or roster.n_aside > 0
        words = roster.missing if is_known else "waiting for workers"
        return f"{words} ({progress.seconds:.0f} s)"
    best = ", ".join(
        f"best {name} {_words(standing, k)}"
        for k, (name, standing) in enumerate(
            zip(objectives, progress.best, strict=True)
        )
        if standing is not None
    )
    lead = progress.leader
    of = "" if progress.allowed is None else f" of {progress.allowed}"
    parts = [
        f"generation {progress.generation}",
        f"{progress.done}{of} trials",
        f"{counted(progress.n_baselines, 'baseline')} to go"
        if progress.n_baselines
        else "",
        f"{progress.failed} failed" if progress.failed else "",
        best,
        f"leads in {objectives[0]} {_words(lead, 0)}" if lead is not None else "",
        counted(progress.n_finals, "final") if progress.n_finals else "",
        f"front {progress.front_size}",
        f"{progress.items_per_s:.0f} items/s",
        progress.roster.missing,
        f"{clock_words(progress.left_s)} left" if progress.left_s is not None else "",
    ]
    return " | ".join(part for part in parts if part)


def _words(standing: Standing, k: int) -> str:
    found = standing.precision
    value = {
        "value": standing.values[k],
        "error": standing.errors[k] if standing.errors else None,
        "n_items": found and found.n_items,
        "of_items": found and found.of_items,
        "is_selected": standing.is_selected,
    }
    return f"{value_words(value)} (trial {standing.number})"
