"""One hold of a study's lease: one generation after another until the budget is used.

All it knows was read from the store when it began, so it ends with the lease, or when
the database goes away, and the next one begins afresh.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from evomerge.core.cost import SPEED_MEASURE
from evomerge.core.scoring_protocol import TaskDescription
from evomerge.core.trial import Record, Trial
from evomerge.core.work import PoolEvent, WorkerReady
from evomerge.errors import Problem, SpecError, WorkerError
from evomerge.search.ask_overhead import is_outgrown
from evomerge.search.attempts import Attempts, Limits
from evomerge.search.budget import BudgetWatch
from evomerge.search.dispatcher import Dispatcher
from evomerge.search.lifecycle import Lifecycle
from evomerge.search.measure_checks import missing_measures
from evomerge.search.plan import Plan
from evomerge.search.replay import Replayed, replay
from evomerge.search.scoreboard import Progress, Scoreboard
from evomerge.store.base import Lease, Store, StoredStudy
from evomerge.strategies.base import Proposal, Strategy, Told
from evomerge.strategies.ranks import told
from evomerge.strategies.registry import make_strategy

_log = logging.getLogger(__name__)

Observer = Callable[[Progress], None]
POLL_S = 0.2


class StudyRun:
    """The search loop under one lease."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        dispatcher: Dispatcher,
        study: StoredStudy,
        lease: Lease,
        observer: Observer,
    ) -> None:
        self._plan = plan
        self._store = store
        self._dispatcher = dispatcher
        self._study = study
        self._lease = lease
        self._observer = observer
        self._board = Scoreboard(plan.objectives, plan.constraints)
        self._budget = BudgetWatch(plan.budget, store, study.id)
        limits = Limits(plan.timeout_s, plan.retries)
        self._attempts = Attempts(store, dispatcher, lease, limits, plan.meter)

    def search(self) -> str:
        """Take the study up where it stands; search until the budget is used.

        Returns:
            What ended it.

        Raises:
            StaleAttemptError: Another coordinator took the study over.
            StoreUnreachableError: The database went away.
            ReplayError: The recorded history does not replay.
            SpecError: A task lacks a metric that an objective needs.
            WorkerError: No worker could be brought up.
        """
        self._store.recover(self._lease)
        self._store.set_finished(self._lease, None)
        if self._plan.allowance is not None:
            self._store.set_allowance(self._lease, self._plan.allowance)
        recorded = self._store.tasks(self._study.id)
        if recorded is not None:
            self._attempts.expect(recorded)
        strategy = make_strategy(
            self._plan.strategy,
            self._plan.space,
            n_objectives=len(self._plan.objectives),
            n_constraints=len(self._plan.constraints),
            seed=self._plan.seed,
        )
        reason = self._generations(strategy, self._take_up(strategy))
        self._store.set_finished(self._lease, reason)
        return reason

    def leave(self) -> None:
        """Leave nothing running in the store, and give the lease back.

        Raises:
            StaleAttemptError: The lease was lost.
        """
        self._store.recover(self._lease)
        self._renew()
        self._store.release(self._lease)

    def _take_up(self, strategy: Strategy) -> Replayed:
        generations = self._store.generations(self._study.id)
        if not generations:
            self._store.add_generation(self._lease, 0, self._plan.baselines(), {}, None)
        history: dict[int, list[Record]] = defaultdict(list)
        for record in self._store.history(self._study.id):
            history[record.generation].append(record)
            if record.state.is_final:
                self._board.add(record, is_new=False)
                self._attempts.remember(record)
        return replay(self._plan.name, strategy, generations, history, self._told)

    def _told(self, records: Sequence[Record]) -> list[Told]:
        return [
            told(
                record.point or {},
                self._plan.objectives,
                self._plan.constraints,
                record.scores,
                self._board.baselines,
            )
            for record in records
        ]

    def _generations(self, strategy: Strategy, at: Replayed) -> str:
        if not self._drive(0, self._store.trials(self._study.id, 0)):
            return "time budget used"
        self._check_baselines()
        number, proposal = at.last, at.open
        trials = () if proposal is None else self._extended(number, proposal)
        while True:
            if proposal is not None:
                if not self._drive(number, trials):
                    return self._budget.spent() or "budget used"
                records = self._store.history(self._study.id, number)
                if len(records) < len(proposal.points):
                    return "trial budget used"
                strategy.tell(number, proposal, self._told(records))
            if (reason := self._budget.spent()) is not None:
                return reason
            number += 1
            proposal = self._ask(strategy, number)
            trials = self._added(number, proposal)

    def _ask(self, strategy: Strategy, number: int) -> Proposal:
        began = time.monotonic()
        proposal = strategy.ask(number)
        asked_s = time.monotonic() - began
        trial_s = self._progress(number, 0).trial_s
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
            self._store.add_event(self._study.id, "slow_ask", found)
        return proposal

    def _added(self, number: int, proposal: Proposal) -> Sequence[Trial]:
        """Record a generation, as far as the budget goes."""
        points = proposal.points[: self._budget.room()]
        candidates = self._plan.candidates(number, points)
        return self._store.add_generation(
            self._lease, number, candidates, proposal.memory, proposal.note
        )

    def _extended(self, number: int, proposal: Proposal) -> Sequence[Trial]:
        """Add what an earlier, smaller budget had cut off the last generation."""
        recorded = self._store.trials(self._study.id, number)
        first, room = len(recorded), self._budget.room()
        points = proposal.points[first : None if room is None else first + room]
        if not points:
            return recorded
        candidates = self._plan.candidates(number, points, first)
        more = self._store.extend_generation(self._lease, number, candidates)
        return [*recorded, *more]

    def _drive(self, number: int, trials: Sequence[Trial]) -> bool:
        """Score a generation; False if the budget ran out before it was complete."""
        life = Lifecycle(trials)
        if not life.is_complete:
            self._dispatcher.start()
        while not life.is_complete:
            self._welcome_newcomers()
            # The budget is a question to the store: not asked after every block.
            is_free = bool(self._dispatcher.free())
            can_start = is_free and life.next_pending() is not None
            if can_start or not life.running:
                if self._budget.allows(number):
                    self._score(self._attempts.hand_out(life))
                elif not life.running:
                    return False
            for event in self._dispatcher.events(POLL_S):
                self._handle(life, event)
            self._score(self._attempts.stop_overdue(life))
            self._tick()
            self._observer(self._progress(number, len(life.running)))
        self._observer(self._progress(number, 0))
        return True

    def _handle(self, life: Lifecycle, event: PoolEvent) -> None:
        final, n_items = self._attempts.handle(life, event)
        self._board.add_items(n_items)
        self._budget.note_items(n_items)
        if final is not None:
            self._score([final])

    def _welcome_newcomers(self) -> None:
        for event in self._dispatcher.newcomers():
            self._check_metrics(event.tasks)
            self._store.record_tasks(self._lease, event.tasks)
            self._attempts.expect(event.tasks)
            self._store.add_event(self._study.id, "worker", _facts(event))
            self._dispatcher.welcome(event.worker)

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
        self._check_speeds()

    def _check_speeds(self) -> None:
        """Refuse to compare speeds of which there are none to be seen."""
        meter, scored = self._plan.meter, self._board.baselines.values()
        if meter is None or not meter.is_timed or not scored:
            return
        if not any(scores[SPEED_MEASURE] for scores in scored):
            raise SpecError(
                [
                    Problem(
                        f"study {self._plan.name!r}",
                        f"expected a task that generates text, for {SPEED_MEASURE}; "
                        "no baseline generated a token. Leave that measure out.",
                    )
                ]
            )

    def _score(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            self._board.add(trial.record())

    def _progress(self, generation: int, running: int) -> Progress:
        return self._board.progress(
            generation=generation,
            running=running,
            workers=self._dispatcher.n_up,
            budget=self._plan.budget,
        )

    def _tick(self) -> None:
        if self._budget.unrecorded_s > self._lease.ttl_s / 3:
            self._renew()

    def _renew(self) -> None:
        self._store.renew(self._lease, self._budget.take_unrecorded())


def _facts(event: WorkerReady) -> dict[str, object]:
    return {"worker": event.worker, **event.facts}
