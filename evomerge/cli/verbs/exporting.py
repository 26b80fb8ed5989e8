"""`evomerge export` from a cluster: written there, fetched, and proved."""

from __future__ import annotations

import time
from pathlib import Path

import click

from evomerge.cli.tables import print_json
from evomerge.cli.verbs.meant import FOLLOWING_S, Standing, clean, hush, remote
from evomerge.errors import ExportError

_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.3, 3.0


def export_remote(
    name: str,
    out: Path,
    trial: int | None,
    is_scored: bool,
    replace: bool,
    cluster: str,
    as_json: bool,
) -> None:
    """Wait for a trial to be written on the cluster, and fetch it.

    Raises:
        ExportError: It cannot be written, there or here.
    """
    from evomerge.client.downloads import refuse_taken

    refuse_taken(out, replaced=replace)
    with remote(cluster, FOLLOWING_S) as asked, Standing() as standing:
        found = asked.export(name, trial, is_scored=is_scored)
        pause_s = _FIRST_LOOK_S
        while not found.state.is_final:
            standing(f"the export of {name} is {found.state}")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LONGEST_LOOK_S)
            found = asked.export_state(name, found.id)
        hush()
        if found.why is not None:
            raise ExportError(f"The cluster could not write it: {clean(found.why)}")

        def progress(done: int, total: int) -> None:
            share = 100 * done // max(1, total)
            standing(f"fetching {total / 1e6:.1f} MB: {share // 10 * 10} %")

        asked.download(name, found.id, out, replaced=replace, progress=progress)
    if as_json:
        print_json(
            {
                "job": found.name,
                "trial": found.trial,
                "path": str(out),
                "fingerprint": found.fingerprint,
                "bytes": found.bytes,
            }
        )
        return
    which = "The best trial" if found.trial is None else f"Trial {found.trial}"
    proof = f"; fingerprint {clean(found.fingerprint)}" if found.fingerprint else ""
    click.echo(f"{which} of {clean(found.name)} is in {out}{proof}.")
