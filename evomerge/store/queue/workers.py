"""Workers that a cluster has or had, as whoever looks at a service sees them.

Those who operate it may drain them: see ``store.crew``, which does as they wish.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from evomerge.errors import WorkerNotFoundError
from evomerge.store import crew
from evomerge.store.databases.database import Database
from evomerge.store.queue.values import WorkerRow
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import decoder, mapping
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import study, worker

_SELECT = sa.select(worker, study.c.name.label("study")).join(study, isouter=True)
_AT_WORK = ("ready", "busy")


class Workers:
    """Workers in an SQL database; one thread's at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> Sequence[WorkerRow]:
        """Return every worker, by its id."""
        with self._database.reading() as connection:
            found = connection.execute(_SELECT.order_by(worker.c.id))
            return [worker_of(row) for row in found]

    def drain(self, id: str) -> WorkerRow:
        """Let a worker end what it was handed, and get no more; idempotent.

        Raises:
            WorkerNotFoundError: None of this name is at work.
        """
        with self._database.writing() as connection:
            is_it = worker.c.id == id
            connection.execute(
                sa.update(worker)
                .where(is_it, worker.c.state.in_(_AT_WORK))
                .values(state=crew.DRAINING, since=NOW)
            )
            row = connection.execute(_SELECT.where(is_it)).first()
            if row is None or row.state not in (crew.DRAINING, crew.DRAINED):
                raise WorkerNotFoundError(f"No worker {id!r:.80} is at work.")
            return worker_of(row)

    def undrain(self, id: str) -> None:
        """Let a drained worker's place be taken again; idempotent.

        Raises:
            WorkerNotFoundError: There is none of this name.
        """
        with self._database.writing() as connection:
            query = sa.select(worker).where(worker.c.id == id).with_for_update()
            row = connection.execute(query).first()
            if row is None:
                raise WorkerNotFoundError(f"There is no worker {id!r:.80}.")
            if row.state == crew.DRAINED:
                crew.leave(connection, row)
            elif row.state == crew.DRAINING:
                ready = {"state": "ready", "since": NOW}
                connection.execute(
                    sa.update(worker).where(worker.c.id == id).values(ready)
                )


@decoder("A worker", worker)
def worker_of(row: rows.Row) -> WorkerRow:
    """Read a row of ``em_worker`` with its study's name."""
    return WorkerRow(
        id=row.id,
        node=row.node_id,
        host=row.host,
        address=row.ip,
        state=row.state,
        study=row.study,
        versions=mapping("A worker's versions", row.versions),
        resources=mapping("A worker's resources", row.resources),
        since=rows.time_text(row.since),
        seen=rows.time_text(row.seen),
    )
