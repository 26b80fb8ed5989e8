"""Run one study: take its lease, search, and take the lease anew after an outage.

The coordinator is the only writer of its study while it holds the lease. Everything
it knows is in the store: killing it at any moment loses at most the blocks being
scored, and ``resume`` is this same search entered again. So is the end of an outage
of the database: whether the last write went through need not be known, because
everything is read back.
"""

from __future__ import annotations

import logging

from evomerge.core.work import Pool
from evomerge.errors import LeaseLostError, StoreError, StoreUnreachableError
from evomerge.search.dispatcher import Dispatcher
from evomerge.search.outage import Outage, Patience
from evomerge.search.plan import Plan
from evomerge.search.study_run import Observer, StudyRun
from evomerge.store.base import Owner, Store

_log = logging.getLogger(__name__)

LEASE_TTL_S = 30.0


class Coordinator:
    """Runs one study to the end of its budget."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        pool: Pool,
        owner: Owner,
        observer: Observer | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._plan = plan
        self._store = store
        self._dispatcher = Dispatcher(pool)
        self._owner = owner
        self._observer = observer or (lambda progress: None)
        self._outage = Outage(plan.name, patience or Patience())
        self._study_run: StudyRun | None = None

    def run(self) -> str:
        """Search until the budget is used, and say what ended it.

        While the database is away the pool stays up; see ``Patience``.

        Raises:
            StudyLockedError: Another living coordinator has the study.
            LeaseLostError: Another coordinator took the study over.
            StaleAttemptError: A running attempt was ended by hand.
            StoreUnreachableError: The database stayed away too long.
            ReplayError: The recorded history does not replay.
            SpecError: A task lacks a metric that an objective needs, or there are no
                scores of a baseline that a constraint needs.
            SetupError: No worker can ever be what the study asks for.
            WorkerError: No worker could be brought up.
        """
        try:
            while True:
                try:
                    return self._search()
                except StoreUnreachableError as error:
                    self._outage.wait(error)
        finally:
            try:
                self._dispatcher.close()
            finally:
                self._leave()

    def _search(self) -> str:
        study = self._store.study(self._plan.name)
        lease = self._store.lease(study.id, self._owner, LEASE_TTL_S)
        self._outage.over()
        strays = () if self._study_run is None else self._study_run.in_flight
        self._study_run = StudyRun(
            self._plan, self._store, self._dispatcher, lease, self._observer, strays
        )
        return self._study_run.search()

    def _leave(self) -> None:
        """Give the lease back; an error here must not hide why the run ended."""
        if self._study_run is None:
            return
        try:
            self._study_run.leave()
        except LeaseLostError:
            pass  # what is running belongs to the heir
        except StoreError as error:
            _log.warning("The lease was not given back and will expire: %s", error)
