"""Options that several commands share, and the settings read from the environment."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from evomerge.caches import cache_dir as cache_dir
from evomerge.masking import masked

DEFAULT_DB = "sqlite:///evomerge.db"

_F = TypeVar("_F", bound=Callable[..., Any])


def db_option(command: _F) -> _F:
    """Add ``--db``; the variable EVOMERGE_DB and then one local file stand in."""
    return click.option(
        "--db",
        metavar="URL",
        envvar="EVOMERGE_DB",
        default=DEFAULT_DB,
        help="Database. Default: $EVOMERGE_DB, else evomerge.db in this folder.",
    )(command)


def cluster_option(command: _F) -> _F:
    """Add ``--cluster``; the variable EVOMERGE_CLUSTER stands in."""
    return click.option(
        "--cluster",
        metavar="URL",
        envvar="EVOMERGE_CLUSTER",
        help="Ask this cluster instead of the database; replicas separated by commas. "
        "Default: $EVOMERGE_CLUSTER, if --db is not given.",
    )(command)


def json_option(command: _F) -> _F:
    """Add ``--json``."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print JSON instead of a table."
    )(command)


def policy_option(command: _F) -> _F:
    """Add ``--policy``: all that the command does is held to it."""

    def confine(context: click.Context, _: click.Parameter, file: Path | None) -> None:
        if file is None:
            return
        from evomerge.core.policy import confined
        from evomerge.service.policy import read_policy

        policy = read_policy(file)
        study = context.params.get("study")  # known before, since it is eager
        if isinstance(study, Path):  # its own files may be read
            policy = policy.with_roots(study.absolute().parent)
        context.with_resource(confined(policy))

    return click.option(
        "--policy",
        metavar="FILE",
        type=click.Path(path_type=Path),
        envvar="EVOMERGE_POLICY",
        expose_value=False,
        callback=confine,
        help="A cluster.yaml that says what a stranger's study may do. Default: "
        "$EVOMERGE_POLICY, else it may do all.",
    )(command)


def shard_option(command: _F) -> _F:
    """Add ``--shard-size``, in gigabytes."""
    return click.option(
        "--shard-size",
        "--shard-gb",
        "shard_gb",
        type=click.FloatRange(0, min_open=True),
        default=5.0,
        show_default=True,
        help="Largest weight file, in gigabytes.",
    )(command)


def merge_options(command: _F) -> _F:
    """Add where and how a merge is computed: device, type, threads, memory."""
    for option in (
        click.option(
            "--memory",
            "memory_gb",
            type=click.FloatRange(0, min_open=True),
            help="Most memory to use, in gigabytes; what is free if not given. A merge "
            "that needs more is refused before it begins.",
        ),
        click.option(
            "--threads",
            type=click.IntRange(1),
            help="Processor threads; as many as there are cores if not given. The "
            "result does not depend on it.",
        ),
        click.option(
            "--dtype",
            type=click.Choice(["float32", "bfloat16", "float16"]),
            help="Element type of the result, instead of the recipe's.",
        ),
        click.option(
            "--device",
            default="cpu",
            show_default=True,
            help="Where to compute: cpu, cuda or cuda:N.",
        ),
    ):
        command = option(command)
    return command


def profile_option(command: _F) -> _F:
    """Add ``--profile``."""
    return click.option(
        "--profile",
        type=click.Choice(["identical", "default"]),
        default="identical",
        show_default=True,
        help="Of a mergekit file: merge as mergekit does, or decide what the file does "
        "not say as for recipes of our own.",
    )(command)


def strict_option(command: _F) -> _F:
    """Add ``--strict``."""
    return click.option(
        "--strict",
        is_flag=True,
        help="Refuse a file for what is otherwise a warning, such as keys that "
        "mergekit passes over.",
    )(command)


def placement_options(command: _F) -> _F:
    """Add ``--workers``, ``--address`` and ``--in-process``."""
    workers = click.option(
        "--workers",
        type=click.IntRange(1),
        help="Engines at once, instead of what the study says. On resume the number "
        "of the run before.",
    )
    address = click.option(
        "--address",
        metavar="HOST:PORT",
        help="A running Ray cluster, or 'local' for a Ray started on this machine. "
        "Default: $RAY_ADDRESS, else local; on resume, where the study ran before.",
    )
    inside = click.option(
        "--in-process",
        is_flag=True,
        help="One worker inside this process, without Ray: for debugging.",
    )
    return workers(address(inside(command)))


def ray_address(address: str | None, in_process: bool) -> str | None:
    """Return the Ray cluster that is meant: RAY_ADDRESS stands in, and is told."""
    found = os.environ.get("RAY_ADDRESS")
    if address is not None or in_process or not found:
        return address
    click.echo(f"Ray at {masked(found)}, as RAY_ADDRESS says.", err=True)
    return found


def budget_options(command: _F) -> _F:
    """Add ``--trials``, ``--items`` and ``--minutes``."""
    trials = click.option(
        "--trials", type=click.IntRange(1), help="Candidates in all, from now on."
    )
    items = click.option(
        "--items", type=click.IntRange(1), help="Scored items in all, from now on."
    )
    minutes = click.option(
        "--minutes",
        type=click.FloatRange(0, min_open=True),
        help="Wall time in all, from now on.",
    )
    return trials(items(minutes(command)))
