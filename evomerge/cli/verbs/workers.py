"""`evomerge workers` and `scale`: who works on a cluster, and how many for a job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from evomerge.cli.tables import print_json, print_table
from evomerge.cli.verbs.jobs import print_job
from evomerge.cli.verbs.meant import asks, clean, job_argument, service

if TYPE_CHECKING:
    from evomerge.store.queue.values import WorkerRow


@click.group(
    epilog="Example: evomerge workers drain w3-5f2a90c1",
    short_help="List the workers of a cluster; drain one.",
    invoke_without_command=True,
)
@asks
@click.pass_context
def workers(
    context: click.Context, cluster: str | None, db: str, as_json: bool
) -> None:
    """List the workers of running studies, and those that were drained."""
    if context.invoked_subcommand is not None:
        return
    from evomerge.client.values import to_json

    with service(cluster, db) as asked:
        found = [one for one in asked.workers() if one.state != "lost"]
    if as_json:
        print_json(to_json(found))
    elif not found:
        click.echo("No study has a worker now.")
    else:
        columns = ("worker", "state", "study", "host", "address", "GPUs", "since")
        print_table("", columns, [_row(one) for one in found])


def _row(one: WorkerRow) -> tuple[object, ...]:
    gpus = one.resources.get("gpus")
    words = (one.id, one.state, one.study or "-", one.host, one.address)
    since = clean(one.since)[:19].replace("T", " ")
    number = gpus if isinstance(gpus, int | float) else None
    return (*map(clean, words), number, since)


@workers.command(
    "drain",
    epilog="Example: evomerge workers drain w3-5f2a90c1",
    short_help="Let a worker end, and its study do with one fewer.",
)
@click.argument("worker", metavar="ID")
@asks
def drain(worker: str, cluster: str | None, db: str, as_json: bool) -> None:
    """Let the worker ID end what it was handed; its study does with one fewer then.

    That holds, also when the study is resumed, until `evomerge workers undrain ID`, or
    until the worker's node leaves the cluster. For operators.
    """
    from evomerge.client.values import to_json

    with service(cluster, db) as asked:
        found = asked.drain_worker(worker)
    if as_json:
        print_json(to_json(found))
    else:
        click.echo(f"Worker {clean(found.id)} is {clean(found.state)}.")


@workers.command(
    "undrain",
    epilog="Example: evomerge workers undrain w3-5f2a90c1",
    short_help="Let a drained worker's place be taken again.",
)
@click.argument("worker", metavar="ID")
@asks
def undrain(worker: str, cluster: str | None, db: str, as_json: bool) -> None:
    """Let the place of the drained worker ID be taken again. For operators."""
    with service(cluster, db) as asked:
        asked.undrain_worker(worker)
    if as_json:
        print_json({"id": worker})
    else:
        click.echo(f"The place of worker {worker} may be taken again.")


@click.command(
    epilog="Example: evomerge scale scalars 4",
    short_help="Give a job another number of workers.",
)
@job_argument
@click.argument("n_workers", metavar="WORKERS", type=click.IntRange(1))
@asks
def scale(
    name: str, n_workers: int, cluster: str | None, db: str, as_json: bool
) -> None:
    """Give the job NAME up to WORKERS engines at once, from now on.

    Of a job that runs, workers come or go within seconds; those at work first end what
    they were handed.
    """
    with service(cluster, db) as asked:
        print_job(asked.scale(name, n_workers), as_json)
