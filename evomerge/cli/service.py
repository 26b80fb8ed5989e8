"""`evomerge serve`, `user` and `token`: the service, on the machine that has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from evomerge.cli.options import db_option, json_option
from evomerge.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from evomerge.store.queue.values import Token

_SCOPES = ("read", "write", "operate")
_ROLES = ("user", "operator", "admin")


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


@click.group(
    epilog="Example: evomerge user add ann", short_help="Say who may use a service."
)
def user() -> None:
    """Add and list users of the service that runs on a database."""


@user.command(
    "add",
    epilog="Example: evomerge user add ann --max-running 4",
    short_help="Add a user.",
)
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    default="user",
    show_default=True,
    help="Operators see and change everybody's studies; admins add users as well.",
)
@click.option(
    "--weight",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the cluster, against other users' weights.",
)
@click.option("--max-running", type=click.IntRange(1), help="Studies at once.")
@click.option(
    "--max-gpu-hours",
    type=click.FloatRange(0, min_open=True),
    help="GPU-hours in all; studies pause when they are used.",
)
@db_option
@json_option
def user_add(
    name: str,
    role: str,
    weight: float,
    max_running: int | None,
    max_gpu_hours: float | None,
    db: str,
    as_json: bool,
) -> None:
    """Add the user NAME; give them a token with `evomerge token add`."""
    from evomerge.client.values import to_json
    from evomerge.store.queue.accounts import open_accounts
    from evomerge.store.queue.values import Role

    accounts = open_accounts(db)
    try:
        new = accounts.add_user(
            name,
            Role(role),
            weight=weight,
            max_running=max_running,
            max_gpu_hours=max_gpu_hours,
        )
    finally:
        accounts.close()
    if as_json:
        print_json(to_json(new))
    else:
        click.echo(f"Added {new.role} {new.name}. Next: evomerge token add {new.name}")


@user.command("list", epilog="Example: evomerge user list", short_help="List users.")
@db_option
@json_option
def user_list(db: str, as_json: bool) -> None:
    """List every user."""
    from evomerge.client.values import to_json
    from evomerge.store.queue.accounts import open_accounts

    accounts = open_accounts(db, create=False)
    try:
        found = accounts.users()
    finally:
        accounts.close()
    if as_json:
        print_json(to_json(list(found)))
        return
    columns = ("user", "role", "weight", "most running", "GPU-hours")
    rows = [(u.name, u.role, u.weight, u.max_running, u.max_gpu_hours) for u in found]
    print_table("", columns, rows)


@click.group(
    epilog="Example: evomerge token add ann laptop",
    short_help="Give out and take back tokens.",
)
def token() -> None:
    """Make, list and revoke the tokens that users show to a service."""


@token.command(
    "add",
    epilog="Example: evomerge token add ann laptop --days 90",
    short_help="Make a token, and show it once.",
)
@click.argument("owner", metavar="USER")
@click.argument("name", default="first")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(_SCOPES),
    multiple=True,
    default=("read", "write"),
    show_default=True,
    help="What it may be used for; may be given several times. `operate` is for what "
    "is others' and for the service itself.",
)
@click.option(
    "--days",
    type=click.FloatRange(0, min_open=True),
    help="How long it holds; for ever if not given.",
)
@db_option
def token_add(
    owner: str, name: str, scopes: tuple[str, ...], days: float | None, db: str
) -> None:
    """Make a token called NAME for USER and print it: this once, and never again."""
    from evomerge.store.queue.accounts import open_accounts
    from evomerge.store.queue.values import Scope

    accounts = open_accounts(db, create=False)
    try:
        lasts_s = None if days is None else days * 86_400
        secret = accounts.add_token(owner, name, [Scope(s) for s in scopes], lasts_s)
    finally:
        accounts.close()
    click.echo(secret)


@token.command(
    "list",
    epilog="Example: evomerge token list ann",
    short_help="List a user's tokens.",
)
@click.argument("owner", metavar="USER")
@db_option
@json_option
def token_list(owner: str, db: str, as_json: bool) -> None:
    """List the tokens of USER, those that hold no more as well; never their secrets."""
    from evomerge.client.values import to_json
    from evomerge.store.queue.accounts import open_accounts

    accounts = open_accounts(db, create=False)
    try:
        accounts.user(owner)
        found = accounts.tokens(owner)
    finally:
        accounts.close()
    if as_json:
        print_json(to_json(list(found)))
        return
    columns = ("token", "scopes", "created", "expires", "revoked", "last used")
    rows = [(t.name, " ".join(sorted(t.scopes)), t.created, *_ends(t)) for t in found]
    print_table("", columns, rows)


def _ends(one: Token) -> tuple[str | None, ...]:
    return one.expires, one.revoked, one.last_used


@token.command(
    "revoke",
    epilog="Example: evomerge token revoke ann laptop",
    short_help="Make a token hold no more.",
)
@click.argument("owner", metavar="USER")
@click.argument("name")
@db_option
def token_revoke(owner: str, name: str, db: str) -> None:
    """Make the token NAME of USER hold no more, from now on."""
    from evomerge.store.queue.accounts import open_accounts

    accounts = open_accounts(db, create=False)
    try:
        accounts.revoke(owner, name)
    finally:
        accounts.close()
    click.echo(f"Token {name} of {owner} holds no more.")


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
