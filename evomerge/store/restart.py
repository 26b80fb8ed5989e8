"""A study that never had a worker, given another configuration.

It takes a worker to find out that a task or metric does not exist; whoever then puts
the study file right must not be told that the name is taken. The row is kept and
changed, never removed: leases count upwards in it, so an old one stays invalid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from evomerge.errors import StoreError
from evomerge.store.clock import NOW
from evomerge.store.deletion import forget_unnamed
from evomerge.store.leases import change, check_lease
from evomerge.store.studies import tasks_of
from evomerge.store.tables import rows
from evomerge.store.tables.schema import (
    artifact,
    attempt,
    event,
    generation,
    study,
    trial,
)
from evomerge.store.values import Lease

_PARTS = (artifact, event, attempt, trial, generation)


def restart(
    connection: sa.Connection,
    lease: Lease,
    config: Mapping[str, Any],
    allowance: Mapping[str, Any],
    seed: int,
) -> None:
    """Replace configuration and seed, and forget the trials nobody scored."""
    check_lease(connection, lease)
    if tasks_of(connection, lease.study_id) is not None:
        name = connection.scalar(
            sa.select(study.c.name).where(study.c.id == lease.study_id)
        )
        raise StoreError(
            f"Study {name!r} has had a worker, so it may have results; its "
            "configuration stays. Give the other one another name."
        )
    for part in _PARTS:
        connection.execute(sa.delete(part).where(part.c.study_id == lease.study_id))
    forget_unnamed(connection)
    change(
        connection,
        lease,
        config=rows.to_text("A study's configuration", dict(config)),
        allowance=rows.to_text("A study's allowance", dict(allowance)),
        seed=seed,
        created=NOW,
        finished=None,
        spent_s=0.0,
        n_items=0,
    )
