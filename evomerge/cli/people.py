"""`evomerge user` and `token`: who may use a service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from evomerge.cli.options import cluster_option, db_option, json_option
from evomerge.cli.tables import print_json, print_table
from evomerge.cli.verbs.meant import clean, meant, remote

if TYPE_CHECKING:
    from evomerge.store.queue.accounts import Accounts
    from evomerge.store.queue.values import Token

_SCOPES = ("read", "write", "operate")
_ROLES = ("user", "operator", "admin")


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
    from evomerge.store.queue.values import Role

    with _accounts(db, create=True) as accounts:
        new = accounts.add_user(
            name,
            Role(role),
            weight=weight,
            max_running=max_running,
            max_gpu_hours=max_gpu_hours,
        )
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

    with _accounts(db) as accounts:
        found = accounts.users()
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
    """Make, list and revoke the tokens that users show to a service.

    Beside the database those of every USER; with --cluster your own.
    """


@token.command(
    "add",
    epilog="Example: evomerge token add ann laptop --days 90",
    short_help="Make a token, and show it once.",
)
@click.argument("words", metavar="[USER] [NAME]", nargs=-1)
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
@cluster_option
@db_option
def token_add(
    words: tuple[str, ...],
    scopes: tuple[str, ...],
    days: float | None,
    cluster: str | None,
    db: str,
) -> None:
    """Make a token called NAME for USER and print it: this once, and never again.

    With --cluster it is yours, and has no scope that the token shown has not.
    """
    from evomerge.client.verbs import NewToken
    from evomerge.store.queue.values import Scope

    urls = meant(cluster)
    owner, name = _owner_and_name(words, urls, "first")
    granted = frozenset(Scope(scope) for scope in scopes)
    lasts_s = None if days is None else days * 86_400
    if urls is not None:
        with remote(urls) as asked:
            secret = asked.add_token(NewToken(name, granted, lasts_s))
    else:
        with _accounts(db) as accounts:
            secret = accounts.add_token(owner, name, granted, lasts_s)
    click.echo(secret)


@token.command(
    "list",
    epilog="Example: evomerge token list ann",
    short_help="List a user's tokens.",
)
@click.argument("owner", metavar="[USER]", required=False)
@cluster_option
@db_option
@json_option
def token_list(owner: str | None, cluster: str | None, db: str, as_json: bool) -> None:
    """List the tokens of USER, those that hold no more as well; never their secrets.

    With --cluster your own.
    """
    from evomerge.client.values import to_json

    urls = meant(cluster)
    if (owner is None) is (urls is None):
        raise click.UsageError(_WHOSE if urls is None else _ONES_OWN)
    found: Sequence[Token]
    if urls is not None:
        with remote(urls) as asked:
            found = asked.tokens()
    else:
        with _accounts(db) as accounts:
            found = accounts.tokens(accounts.user(str(owner)).name)
    if as_json:
        print_json(to_json(list(found)))
        return
    columns = ("token", "scopes", "created", "expires", "revoked", "last used")
    rows = [
        (clean(t.name), " ".join(sorted(t.scopes)), clean(t.created), *_ends(t))
        for t in found
    ]
    print_table("", columns, rows)


def _ends(one: Token) -> tuple[str | None, ...]:
    return tuple(
        None if at is None else clean(at)
        for at in (one.expires, one.revoked, one.last_used)
    )


@token.command(
    "revoke",
    epilog="Example: evomerge token revoke ann laptop",
    short_help="Make a token hold no more.",
)
@click.argument("words", metavar="[USER] NAME", nargs=-1)
@cluster_option
@db_option
def token_revoke(words: tuple[str, ...], cluster: str | None, db: str) -> None:
    """Make the token NAME of USER hold no more, from now on; with --cluster yours."""
    urls = meant(cluster)
    owner, name = _owner_and_name(words, urls, None)
    if urls is not None:
        with remote(urls) as asked:
            asked.revoke_token(name)
    else:
        with _accounts(db) as accounts:
            accounts.revoke(owner, name)
    click.echo(f"Token {name}{f' of {owner}' if owner else ''} holds no more.")


_WHOSE = "Expected USER, whose tokens are meant; or --cluster, for your own."
_ONES_OWN = (
    "Expected no USER: with --cluster the tokens are your own. Beside the database, "
    "with --db, they are anybody's."
)


def _owner_and_name(
    words: tuple[str, ...], urls: str | None, default: str | None
) -> tuple[str, str]:
    """Read ``[USER] NAME``; the owner is empty where a cluster knows who asks."""
    rest = words if urls is not None else words[1:]
    if urls is None and not words:
        raise click.UsageError(_WHOSE)
    if len(rest) > 1:
        raise click.UsageError(
            f"{_ONES_OWN} Got {' '.join(words)!r:.80}."
            if urls is not None
            else f"Expected USER NAME, got {' '.join(words)!r:.80}."
        )
    name = rest[0] if rest else default
    if name is None:
        raise click.UsageError("Expected the NAME of a token.")
    return "" if urls is not None else words[0], name


@contextmanager
def _accounts(db: str, *, create: bool = False) -> Iterator[Accounts]:
    from evomerge.store.queue.accounts import open_accounts

    accounts = open_accounts(db, create=create)
    try:
        yield accounts
    finally:
        accounts.close()
