"""The Python client of a cluster: submit, follow, cancel, resume, export.

::

    from evomerge.client import bundled, connect

    cluster = connect("https://cluster:7077")
    study = bundled("search_spaces/scalars.yaml")
    job, is_new = cluster.submit(study.bundle.files)
    for event in cluster.follow_events(job.name):
        print(event.number, event.kind)

Only the standard library and, to read a study file, PyYAML are loaded here. What a
cluster says is wrong is raised as the error that the same call would raise beside the
database.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evomerge.client.bundling import Bundled
    from evomerge.client.remote import RemoteService
    from evomerge.client.verbs import Verbs as Verbs

__all__ = ["bundled", "connect"]


def connect(
    urls: str | None = None,
    *,
    token: str | None = None,
    patience_s: float | None = None,
    notice: Callable[[str], None] = lambda _: None,
) -> RemoteService:
    """Return a cluster; nothing is asked of it yet.

    Args:
        urls: ``https://HOST:PORT`` of its replicas, separated by commas; those that
            EVOMERGE_CLUSTER holds if not given.
        token: Shown to it; what ``evomerge login`` kept, or the file that
            EVOMERGE_TOKEN_FILE names holds, if not given.
        patience_s: How long replicas that do not answer are tried again.
        notice: Told, in a line, what somebody who waits should know.

    Raises:
        SpecError: There is no URL, or it is none.
        TokenError: There is no token, or others may read its file.
    """
    from evomerge.client import settings, transport
    from evomerge.client.remote import RemoteService

    found = settings.addresses(
        os.environ.get(settings.CLUSTER, "") if urls is None else urls
    )
    known = (
        settings.read_token(settings.token_file())
        if token is None
        else settings.checked_token(token, "the token given")
    )
    return RemoteService(
        transport.Transport(
            found,
            known,
            ca_file=os.environ.get(settings.CA_FILE),
            patience_s=transport.PATIENCE_S if patience_s is None else patience_s,
            notice=notice,
        )
    )


def bundled(study: str | Path) -> Bundled:
    """Read a study file and what it names; see ``evomerge.client.bundling``.

    Raises:
        SpecError: A file is missing, unreadable or too large; says each mistake.
    """
    from evomerge.client import bundling

    return bundling.bundled(Path(study))
