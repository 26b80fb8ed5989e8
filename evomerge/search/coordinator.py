"""The loop: one generation after another until the budget is used.

It is the only writer of its study while it holds the lease. Everything it knows is
in the store: killing it at any moment loses at most the blocks being scored, and
``resume`` is this same loop entered again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from evomerge.core.protocol import TaskDescription
from evomerge.core.trial import Trial
from evomerge.core.work import Pool, PoolEvent, WorkerLost, WorkerReady
from evomerge.errors import Problem, SpecError, StaleAttemptError, WorkerError
from evomerge.search.attempts import Attempts, Limits
from evomerge.search.budget import BudgetWatch
from evomerge.search.goals import missing_measures
from evomerge.search.lifecycle import Lifecycle
from evomerge.search.pace import is_outgrown
from evomerge.search.plan import Plan
from evomerge.search.replay import Replayed, replay
from evomerge.search.scoreboard import Progress, Scoreboard
from evomerge.store.base import Lease, Owner, Store, StoredStudy
from evomerge.strategies.base import Proposal, Strategy, Told
from evomerge.strategies.ranks import told
from evomerge.strategies.registry import make_strategy

_log = logging.getLogger(__name__)

Observer = Callable[[Progress], None]
POLL_S = 0.2


class Coordinator:
    """Runs one study to the end of its budget."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        pool: Pool,
        owner: Owner,
        observer: Observer | None = None,
        lease_ttl_s: float = 30.0,
    ) -> None:
        self._plan = plan
        self._store = store
        self._pool = pool
        self._owner = owner
        self._observer = observer or (lambda progress: None)
        self._ttl_s = lease_ttl_s
        self._board = Scoreboard(plan.objectives, plan.constraints)
        self._workers: set[str] = set()
        self._is_pool_up = (
            False  # started when there is work: a finished study has none
        )
        self._tasks: tuple[TaskDescription, ...] | None = None

    def run(self) -> str:
        """Search until the budget is used, and say what ended it.

        Raises:
            StudyLockedError: Another living coordinator has the study.
            ReplayError: The recorded history does not replay.
            SpecError: A task lacks a metric that an objective needs.
            WorkerError: No worker could be brought up.
        """
        study = self._store.study(self._plan.name)
        self._lease = self._store.lease(study.id, self._owner, self._ttl_s)
        self._study = study
        self._budget = BudgetWatch(self._plan.budget, self._store, study.id)
        try:
            return self._search(study)
        finally:
            self._pool.close()
            self._leave(self._lease)

    def _leave(self, lease: Lease) -> None:
        """Leave nothing running in the store; a lost lease leaves that to its heir."""
        with suppress(StaleAttemptError):
            self._store.recover(lease)
            self._renew()
            self._store.release(lease)

    def _search(self, study: StoredStudy) -> str:
        self._attempts = Attempts(
            self._store,
            self._pool,
            self._lease,
            Limits(self._plan.timeout_s, self._plan.retries),
        )
        self._store.recover(self._lease)
        self._store.set_finished(self._lease, None)
        if self._plan.allowance is not None:
            self._store.set_allowance(self._lease, self._plan.allowance)
        recorded = self._store.tasks(study.id)
        self._tasks = tuple(recorded) if recorded is not None else None
        strategy = self._strategy()
        at = self._take_up(study, strategy)
        reason = self._generations(study, strategy, at)
        self._store.set_finished(self._lease, reason)
        return reason

    def _strategy(self) -> Strategy:
        return make_strategy(
            self._plan.strategy,
            self._plan.space,
            n_objectives=len(self._plan.objectives),
            n_constraints=len(self._plan.constraints),
            seed=self._plan.seed,
        )

    def _take_up(self, study: StoredStudy, strategy: Strategy) -> Replayed:
        generations = self._store.generations(study.id)
        if not generations:
            self._store.add_generation(self._lease, 0, self._plan.baselines(), {}, None)
        for trial in self._store.trials(study.id):
            if trial.state.is_final:
                self._board.add(trial, is_new=False)
        return replay(
            self._plan.name,
            strategy,
            generations,
            lambda number: self._store.trials(study.id, number),
            self._told,
        )

    def _told(self, trials: Sequence[Trial]) -> list[Told]:
        return [
            told(
                trial.candidate.point or {},
                self._plan.objectives,
                self._plan.constraints,
                trial.scores,
                self._board.baselines,
            )
            for trial in trials
        ]

    def _generations(self, study: StoredStudy, strategy: Strategy, at: Replayed) -> str:
        if not self._drive(study, 0):
            return "time budget used"
        self._check_baselines()
        number, proposal = at.last, at.open
        while True:
            if proposal is not None:
                self._extend(study, number, proposal)
                if not self._drive(study, number):
                    return self._budget.spent() or "budget used"
                trials = self._store.trials(study.id, number)
                if len(trials) < len(proposal.points):
                    return "trial budget used"
                strategy.tell(number, proposal, self._told(trials))
            if (reason := self._budget.spent()) is not None:
                return reason
            number += 1
            proposal = self._ask(study, strategy, number)

    def _ask(self, study: StoredStudy, strategy: Strategy, number: int) -> Proposal:
        began = time.monotonic()
        proposal = strategy.ask(number)
        asked_s = time.monotonic() - began
        progress = self._progress(number, 0)
        trial_s = progress.trial_s
        if trial_s is not None and is_outgrown(asked_s, len(proposal.points), trial_s):
            _log.warning(
                "Asking %s for the %d candidates of generation %d took %.2f s, and a "
                "trial takes %.2f s: this study outgrows it. 'cma' and 'random' stay "
                "fast at any size.",
                self._plan.strategy.kind,
                len(proposal.points),
                number,
                asked_s,
                trial_s,
            )
            found = {"generation": number, "seconds": asked_s}
            self._store.add_event(study.id, "slow_ask", found)
        room = self._budget.room()
        points = proposal.points if room is None else proposal.points[:room]
        self._store.add_generation(
            self._lease,
            number,
            self._plan.candidates(number, points),
            proposal.memory,
            proposal.note,
        )
        return proposal

    def _extend(self, study: StoredStudy, number: int, proposal: Proposal) -> None:
        """Add what an earlier, smaller budget had cut off the generation."""
        n_recorded = len(self._store.trials(study.id, number))
        room = self._budget.room()
        end = None if room is None else n_recorded + room
        points = proposal.points[n_recorded:end]
        if points:
            self._store.extend_generation(
                self._lease,
                number,
                self._plan.candidates(number, points, first=n_recorded),
            )

    def _drive(self, study: StoredStudy, number: int) -> bool:
        """Score a generation; False if the budget ran out before it was complete."""
        life = Lifecycle(self._store.trials(study.id, number))
        if not life.is_complete and not self._is_pool_up:
            self._is_pool_up = True
            self._pool.start()
        while not life.is_complete:
            if self._budget.allows(number):
                tasks = self._tasks or ()
                self._score(self._attempts.hand_out(life, tasks, self._workers))
            elif not life.running:
                return False
            for event in self._pool.poll(POLL_S):
                self._handle(study, life, event)
            self._score(self._attempts.stop_overdue(life))
            self._tick()
            self._observer(self._progress(number, len(life.running)))
        self._observer(self._progress(number, 0))
        return True

    def _handle(self, study: StoredStudy, life: Lifecycle, event: PoolEvent) -> None:
        if isinstance(event, WorkerReady):
            self._welcome(study, event)
            return
        if isinstance(event, WorkerLost):
            self._workers.discard(event.worker)
        final, n_items = self._attempts.handle(life, event, self._tasks or ())
        self._board.add_items(n_items)
        if final is not None:
            self._score([final])

    def _welcome(self, study: StoredStudy, event: WorkerReady) -> None:
        self._check_metrics(event.tasks)
        self._store.record_tasks(self._lease, event.tasks)
        self._tasks = event.tasks
        self._workers.add(event.worker)
        self._store.add_event(
            study.id, "worker", {"worker": event.worker, **event.facts}
        )

    def _check_metrics(self, tasks: Sequence[TaskDescription]) -> None:
        missing, offered = missing_measures(
            self._plan.objectives, self._plan.constraints, tasks
        )
        if missing:
            raise SpecError(
                Problem(
                    f"study {self._plan.name!r}",
                    f"{name} is not measured; the tasks offer {offered}.",
                )
                for name in missing
            )

    def _check_baselines(self) -> None:
        for constraint in self._plan.constraints:
            label = constraint.relative_to
            if label is not None and label not in self._board.baselines:
                raise WorkerError(
                    f"A constraint is relative to baseline {label!r}, but that could "
                    "not be scored; see `evomerge trials`."
                )

    def _score(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._board.add(trial)

    def _progress(self, generation: int, running: int) -> Progress:
        return self._board.progress(
            generation=generation,
            running=running,
            workers=len(self._workers),
            budget=self._plan.budget,
        )

    def _tick(self) -> None:
        if self._budget.unrecorded_s > self._ttl_s / 3:
            self._renew()

    def _renew(self) -> None:
        self._store.renew(self._lease, self._budget.take_unrecorded())
