"""Leases: who may write a study, and until when, by the database's clock.

Functions take a connection inside a transaction; ``SqlStore`` opens it.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from evomerge.errors import (
    LeaseLostError,
    StoreError,
    StudyLockedError,
    StudyNotFoundError,
)
from evomerge.store.owner import host_name, is_alive
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import count
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import study
from evomerge.store.values import Lease, Owner

_FREE: dict[str, Any] = {
    "lease_until": None,
    "lease_ttl": None,
    "lease_host": None,
    "lease_pid": None,
    "lease_started": None,
}


def take(
    connection: sa.Connection, study_id: int, owner: Owner, ttl_s: float
) -> Lease | StudyLockedError:
    """Make ``owner`` the study's coordinator, if the lease is free.

    The refusal is returned, not raised: the transaction may have something to keep.
    """
    if ttl_s <= 0:
        raise StoreError(f"A lease lasts more than 0 seconds, not {ttl_s}.")
    row = connection.execute(
        sa.select(study, (study.c.lease_until - NOW).label("left"))
        .where(study.c.id == study_id)
        .with_for_update()
    ).first()
    if row is None:
        raise StudyNotFoundError(f"No study with id {study_id} in this database.")
    epoch = 1 + count("The epoch of a lease", row.lease_epoch)
    if row.lease_until is not None and row.left > 0:
        holder = rows.owner_of(row)
        if holder != owner and is_alive(holder):
            left = _within_ttl(connection, row)
            return StudyLockedError(
                f"Study {row.name!r} is being run by process {holder.pid} on "
                f"{host_name(holder)}; its lease ends in {left:.0f} s unless it is "
                "renewed. Stop that process first, or wait."
            )
    connection.execute(
        sa.update(study)
        .where(study.c.id == study_id)
        .values(
            lease_epoch=epoch,
            lease_until=NOW + ttl_s,
            lease_ttl=ttl_s,
            lease_host=owner.host,
            lease_pid=owner.pid,
            lease_started=owner.started,
        )
    )
    return Lease(study_id, epoch, ttl_s)


def _within_ttl(connection: sa.Connection, row: rows.Row) -> float:
    """Return the seconds a lease has left, cutting one that has more than its ttl.

    That is so after the database's clock was set back. Left alone, the lease of a dead
    holder would block the study for as long as the clock jumped.
    """
    left: float = row.left
    if row.lease_ttl is None or left <= row.lease_ttl:
        return left
    connection.execute(
        sa.update(study)
        .where(study.c.id == row.id)
        .values(lease_until=NOW + row.lease_ttl)
    )
    ttl: float = row.lease_ttl
    return ttl


def check_lease(connection: sa.Connection, lease: Lease) -> None:
    """Refuse a lease that another coordinator took over, or that was given back.

    An expired lease that nobody took is still good: its holder was only slow.
    """
    row = connection.execute(
        sa.select(study.c.lease_epoch, study.c.lease_until)
        .where(study.c.id == lease.study_id)
        .with_for_update(key_share=True)
    ).first()
    if row is None:
        raise StudyNotFoundError(f"No study with id {lease.study_id} here.")
    refuse_stale(lease, row.lease_epoch, row.lease_until)


def refuse_stale(lease: Lease, epoch: int, until: float | None) -> None:
    """Raise unless the lease is the one recorded."""
    if epoch != lease.epoch:
        raise LeaseLostError(
            f"Another coordinator has taken over this study (epoch {epoch}, ours was "
            f"{lease.epoch}); this one must stop."
        )
    if until is None:
        raise LeaseLostError(
            "The study's lease was given back; take a new one before writing."
        )


def renew(connection: sa.Connection, lease: Lease, spent_s: float) -> None:
    """Prolong the lease and add wall seconds."""
    if not spent_s >= 0:
        raise StoreError(f"Seconds spent are 0 or more, not {spent_s}.")
    change(
        connection,
        lease,
        lease_until=NOW + lease.ttl_s,
        spent_s=study.c.spent_s + spent_s,
    )


def release(connection: sa.Connection, lease: Lease) -> None:
    """Give the lease back, if it is still ours."""
    connection.execute(
        sa.update(study)
        .where(study.c.id == lease.study_id, study.c.lease_epoch == lease.epoch)
        .values(**_FREE)
    )


def change(connection: sa.Connection, lease: Lease, **columns: Any) -> None:
    """Change columns of the study row under its lease."""
    check_lease(connection, lease)
    connection.execute(
        sa.update(study).where(study.c.id == lease.study_id).values(**columns)
    )
