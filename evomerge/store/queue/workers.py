"""Workers that a cluster has or had, as whoever looks at a service sees them."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from evomerge.store.databases.database import Database
from evomerge.store.queue.values import WorkerRow
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import decoder, mapping
from evomerge.store.tables.schema import study, worker


class Workers:
    """Workers in an SQL database; one thread's at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> Sequence[WorkerRow]:
        """Return every worker, by its id."""
        query = sa.select(worker, study.c.name.label("study"))
        with self._database.reading() as connection:
            found = connection.execute(
                query.join(study, isouter=True).order_by(worker.c.id)
            )
            return [worker_of(row) for row in found]


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
