"""Who is asked: the cluster that is meant, or the queue in the database."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from evomerge.cli.options import cluster_option, db_option, json_option
from evomerge.errors import RemoteError
from evomerge.exit_codes import ExitCode

if TYPE_CHECKING:
    from evomerge.client.remote import RemoteService
    from evomerge.client.verbs import Verbs

LINE_AFTER_S = 1.5
"""Whoever waits longer than that is told what for."""
FOLLOWING_S = 120.0
"""How long a cluster that is away is waited for where something is followed."""

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def meant(cluster: str | None) -> str | None:
    """Return the cluster that a command means; None for the database.

    A database that is named beats a cluster of the environment.
    """
    context = click.get_current_context()
    on_line = click.core.ParameterSource.COMMANDLINE
    if context.get_parameter_source("db") is not on_line:
        return cluster
    if context.get_parameter_source("cluster") is on_line:
        raise click.UsageError("Expected --db or --cluster, got both.")
    return None


def refuse_options(names: tuple[str, ...]) -> None:
    """Refuse options that mean nothing to a cluster."""
    context = click.get_current_context()
    on_line = click.core.ParameterSource.COMMANDLINE
    for parameter in context.command.params:
        is_given = context.get_parameter_source(parameter.name or "") is on_line
        if parameter.name in names and is_given:
            raise click.UsageError(
                f"{parameter.opts[0]} is for studies run from here; with --cluster the "
                "cluster decides it."
            )


@contextmanager
def remote(urls: str, patience_s: float | None = None) -> Iterator[RemoteService]:
    """Give a cluster; what is amiss with the way to it is told in lines."""
    from evomerge.client import connect

    def notice(said: str) -> None:
        click.echo(f"evomerge: {clean(said)}", err=True)

    cluster = connect(urls, patience_s=patience_s, notice=notice)
    with _told(f"asking {cluster.shown} ..."):
        yield cluster


@contextmanager
def service(
    cluster: str | None,
    db: str,
    patience_s: float | None = None,
    *,
    create: bool = False,
) -> Iterator[Verbs]:
    """Give whoever is asked: the cluster, if there is one, or the database's queue."""
    urls = meant(cluster)
    if urls is not None:
        with remote(urls, patience_s) as found:
            yield found
        return
    from evomerge.service.local import local_desk

    with local_desk(db, create=create) as desk:
        yield desk


_waiting: list[threading.Timer] = []


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Say what is waited for, if it takes long before anything else is said."""
    timer = threading.Timer(LINE_AFTER_S, click.echo, (what,), {"err": True})
    timer.daemon = True
    timer.start()
    _waiting.append(timer)
    try:
        yield
    finally:
        _waiting.remove(timer)
        timer.cancel()


def hush() -> None:
    """Say no more what is waited for: something is on the screen."""
    for timer in _waiting:
        timer.cancel()


def clean(text: str) -> str:
    """Return text of another machine without what would steer a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def understood(show: Callable[[Any], _T], data: Any) -> _T:
    """Show, or choose from, what another program answered.

    Raises:
        RemoteError: It is not what was expected.
    """
    try:
        return show(data)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RemoteError(
            f"The cluster's answer is not understood ({error!r}). Is its evomerge "
            "another version's? --json shows it as it is.",
            ExitCode.PUT_RIGHT,
        ) from error


class Standing:
    """One line that says how things stand: rewritten on a terminal, else added to."""

    def __init__(self) -> None:
        self._last = ""
        self._status: Any = None

    def __enter__(self) -> Standing:
        return self

    def __call__(self, text: str) -> None:
        """Say how things stand now."""
        hush()
        text = clean(text)
        if sys.stderr.isatty():
            self._show(text)
        elif text != self._last:
            click.echo(text, err=True)
        self._last = text

    def _show(self, text: str) -> None:
        from rich.console import Console
        from rich.text import Text

        if self._status is None:
            self._status = Console(stderr=True).status(Text(text))
            self._status.start()
        self._status.update(Text(text))

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()


def job_argument(command: _F) -> _F:
    """Add the argument NAME of a job."""
    return click.argument("name")(command)


def asks(command: _F) -> _F:
    """Add ``--cluster``, ``--db`` and ``--json`` to a command for jobs."""
    return cluster_option(db_option(json_option(command)))
