"""`evomerge serve` and `dashboard`: the service, on the machine that has it."""

from __future__ import annotations

from pathlib import Path

import click

from evomerge.cli.options import db_option


@click.command(
    epilog="Example: evomerge serve --db postgresql://evomerge@host/evomerge",
    short_help="Take submitted studies and run them.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="127.0.0.1:7077",
    show_default=True,
    help="Where to answer. Beyond this machine only with TLS.",
)
@click.option(
    "--spool",
    type=click.Path(path_type=Path),
    envvar="EVOMERGE_SPOOL",
    default=Path("evomerge-spool"),
    show_default=True,
    help="Folder for the files, logs and exports of jobs. Services of one database "
    "share it, under the same path.",
)
@click.option(
    "--jobs",
    "capacity",
    type=click.IntRange(0),
    default=4,
    show_default=True,
    help="Studies that this service runs at once; 0 to answer only.",
)
@click.option(
    "--address", metavar="HOST:PORT", help="The Ray cluster that studies run on."
)
@click.option(
    "--in-process",
    is_flag=True,
    help="Run each study inside its own process, without Ray.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What studies may read and do, as docs/security.md has it; without it they "
    "may read nothing but their own files.",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Certificate chain to answer with, in PEM form.",
)
@click.option(
    "--tls-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Its private key.",
)
@click.option(
    "--behind-proxy",
    is_flag=True,
    help="A proxy in front does TLS: listen beyond this machine without.",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Tell numbers for Prometheus there, to whoever reaches it: for example "
    "127.0.0.1:7078.",
)
@db_option
def serve(
    listen: str,
    spool: Path,
    capacity: int,
    address: str | None,
    in_process: bool,
    config: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    behind_proxy: bool,
    metrics: str | None,
    db: str,
) -> None:
    """Take studies that are submitted, and run them, until it is stopped.

    Any number of services may use one database and one spool folder; each needs no
    state of its own. At SIGTERM or Ctrl-C studies are given back to the others, or to
    the next start.
    """
    from evomerge.core.policy import Policy
    from evomerge.service import replica
    from evomerge.service.metrics import Place
    from evomerge.service.policy import read_policy
    from evomerge.service.supervisor import Site

    host, port = _host_and_port("--listen", listen)
    place = None if metrics is None else Place(*_host_and_port("--metrics", metrics))
    options = ["--in-process"] if in_process else []
    if address is not None:
        options += ["--address", address]
    policy = Policy() if config is None else read_policy(config)
    site = Site(db, spool.absolute(), options, capacity, policy)
    listening = replica.Listening(host, port, tls_cert, tls_key, behind_proxy)
    replica.serve(site, listening, lambda url: click.echo(f"Answers at {url}"), place)


def _host_and_port(option: str, given: str) -> tuple[str, int]:
    host, colon, port = given.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(
            f"Expected {option} HOST:PORT, for example 127.0.0.1:7077, got {given!r}."
        )
    return host, int(port)


@click.command(
    epilog="Example: evomerge dashboard scalars",
    short_help="Look at a study in optuna-dashboard.",
)
@click.argument("name")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Where on this machine it answers; 0 for any that is free.",
)
@db_option
def dashboard(name: str, port: int, db: str) -> None:
    """Show the study NAME in optuna-dashboard, until it is stopped.

    It can only be looked at, and from this machine alone: whatever would change
    something is refused. It needs the extra `dashboard`.
    """
    from evomerge.service.dashboard import show

    show(name, db=db, port=port, ready=lambda url: click.echo(f"Look at {url}"))
