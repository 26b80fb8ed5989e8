"""Run one study: take its lease, search, and take the lease anew after an outage.

The coordinator is the only writer of its study while it holds the lease. Everything
it knows is in the store: killing it at any moment loses at most the blocks being
scored, and ``resume`` is this same search entered again. So is the end of an outage
of the database: whether the last write went through need not be known, because
everything is read back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from evomerge import logs
from evomerge.core.work import Pool
from evomerge.errors import LeaseLostError, StoreError, StoreUnreachableError
from evomerge.search.dispatcher import Dispatcher
from evomerge.search.plan import Plan
from evomerge.search.study_run import Observer, StudyRun
from evomerge.store.base import Owner, Store

_log = logging.getLogger(__name__)

LEASE_TTL_S = 30.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How a coordinator waits for its database, in seconds.

    Attributes:
        limit_s: Longest time without an answer.
        first_s: First pause; each one after it is twice as long.
        longest_s: No pause is longer.
    """

    limit_s: float = 600.0
    first_s: float = 0.2
    longest_s: float = 5.0


class Outage:
    """How long the database has been away, if it is."""

    def __init__(
        self,
        study: str,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._study = study
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._since: float | None = None
        self._pause_s = patience.first_s

    def wait(self, error: StoreUnreachableError) -> None:
        """Pause before the next try.

        Raises:
            StoreUnreachableError: The limit is reached; says how to go on later.
        """
        now = self._clock()
        if self._since is None:
            self._since, self._pause_s = now, self._patience.first_s
            _log.warning(
                "%s Waiting up to %g s for it; the workers stay up, and what is "
                "recorded is safe.",
                error,
                self._patience.limit_s,
            )
        left_s = self._since + self._patience.limit_s - now
        if left_s <= 0:
            raise StoreUnreachableError(
                f"{error} It has not answered for {now - self._since:.0f} s. All that "
                "was recorded is kept; when it answers again, go on with: evomerge "
                f"resume {self._study}"
            ) from error
        self._sleep(min(self._pause_s, left_s))
        self._pause_s = min(2 * self._pause_s, self._patience.longest_s)

    def over(self) -> None:
        """The database answers again."""
        if self._since is not None:
            away_s = self._clock() - self._since
            _log.warning("The database answers again, after %.1f s.", away_s)
            self._since = None


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
        with logs.about(study=self._plan.name):
            return self._run()

    def _run(self) -> str:
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
        self._study_run = StudyRun(
            self._plan,
            self._store,
            self._dispatcher,
            lease,
            self._observer,
            self._study_run,
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
