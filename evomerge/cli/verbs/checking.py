"""`evomerge check` on a cluster: a study file is looked at where it would run."""

from __future__ import annotations

from pathlib import Path

import click

from evomerge.cli.tables import print_json
from evomerge.cli.verbs.meant import clean, remote
from evomerge.errors import SpecError
from evomerge.exit_codes import ExitCode


def check_remote(study: Path, cluster: str, as_json: bool) -> None:
    """Let a cluster look at a study file and what it names.

    Raises:
        SpecError: Carries every mistake found.
    """
    from evomerge.client import bundled
    from evomerge.client.values import to_json

    sent = bundled(study)
    with remote(cluster) as asked:
        found = asked.check(sent.bundle.files)
    if as_json:
        print_json(to_json(found))
        if found.problems:
            raise SystemExit(ExitCode.PUT_RIGHT)
        return
    for warning in found.warnings:
        click.echo(f"WARNING {clean(warning)}", err=True)
    if found.problems:
        raise SpecError(sent.own(found.problems))
    click.echo(f"{study}: the cluster finds no mistakes")
