"""One hold of a study's lease: one generation after another until the budget is used.

All it knows was read from the store when it began, so it ends with the lease, or when
the database goes away, and the next one begins afresh.
"""

from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from itertools import chain

from evomerge.core.cost import SPEED_MEASURE
from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import TaskDescription
from evomerge.core.trial import Record, Trial
from evomerge.core.work import (
    NODE_SET_ASIDE,
    ROSTER,
    NodeSetAside,
    Roster,
    WorkerReady,
)
from evomerge.errors import Problem, SpecError
from evomerge.search.attempt import Part
from evomerge.search.budget import BudgetWatch, GpuWatch
from evomerge.search.dispatcher import Dispatcher
from evomerge.search.executor import Executor
from evomerge.search.lifecycle import Lifecycle
from evomerge.search.messages import (
    GenerationBegan,
    SpeedKnown,
    TasksDescribed,
    Tick,
    WorkerIdle,
)
from evomerge.search.plan import Plan
from evomerge.search.replay import Replayed, replay
from evomerge.search.required_items import missing_measures
from evomerge.search.sampling import (
    Prices,
    Teller,
    check_finals,
    is_finals,
    samples_of,
)
from evomerge.search.scoreboard import Ahead, Progress, Scoreboard, is_outgrown
from evomerge.search.sharing import Sharing
from evomerge.store.base import Lease, Store
from evomerge.store.values import CrewMember
from evomerge.strategies.base import Proposal, Strategy, Told
from evomerge.strategies.registry import make_strategy

_log = logging.getLogger(__name__)

Observer = Callable[[Progress], None]
POLL_S = 0.2
ROSTER_EVERY_S = 5.0
"""Changes in the number of workers are recorded no more often."""


class StudyRun:
    """The search loop under one lease."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        dispatcher: Dispatcher,
        lease: Lease,
        observer: Observer,
        before: StudyRun | None = None,
    ) -> None:
        """Begin a hold; what the one before it learnt of workers is taken over."""
        self._plan = plan
        self._store = store
        self._dispatcher = dispatcher
        self._study_id = lease.study_id
        self._lease = lease
        self._observer = observer
        self._teller = Teller(plan, store, lease.study_id)
        self._is_begun = False  # the baselines are scored
        self._board = Scoreboard(plan.objectives, plan.constraints)
        self._budget = BudgetWatch(plan.budget, store, self._study_id)
        self._gpu_watch = GpuWatch()
        self._roster: Roster | None = None
        self._crew: Sequence[CrewMember] = ()
        self._roster_at = -math.inf
        self._sharing = Sharing(
            is_on=plan.shares_trials, times_by_block=plan.times_by_block
        )
        strays: Sequence[Part] = ()
        if before is not None:
            self._sharing, strays = before._sharing, before._life.in_flight
        self._life: Lifecycle = Lifecycle(
            plan.timeout_s, plan.retries, plan.meter, strays, self._sharing
        )
        self._executor = Executor(
            self._life, store, lease, dispatcher, self._board, self._budget
        )

    def search(self) -> str:
        """Take the study up where it stands; search until the budget is used.

        Returns:
            What ended it.

        Raises:
            LeaseLostError: Another coordinator took the study over.
            StaleAttemptError: A running attempt was ended by hand.
            StoreUnreachableError: The database went away.
            ReplayError: The recorded history does not replay.
            SpecError: A task lacks a metric that an objective needs, or there are no
                scores of a baseline that a constraint needs.
            SetupError: No worker can ever be what the study asks for.
            WorkerError: No worker could be brought up.
        """
        self._store.recover(self._lease)
        self._store.set_finished(self._lease, None)
        if self._plan.allowance is not None:
            self._store.set_allowance(self._lease, self._plan.allowance)
        recorded = self._store.tasks(self._study_id)
        if recorded is not None:
            self._executor.feed(TasksDescribed(tuple(recorded)))
        strategy = make_strategy(
            self._plan.strategy,
            self._plan.space,
            n_objectives=len(self._plan.objectives),
            n_constraints=len(self._plan.constraints),
            seed=self._plan.seed,
            identity=lambda point: self._plan.blueprint.recipe(point).digest,
        )
        reason = self._generations(strategy, self._take_up(strategy))
        if self._plan.sampling is not None and self._is_begun:
            self._finals()
        self._store.set_finished(self._lease, reason)
        return reason

    def leave(self) -> None:
        """Leave nothing running in the store, and give the lease back.

        Raises:
            LeaseLostError: Another coordinator took the study over.
        """
        self._executor.settle()
        self._store.recover(self._lease)
        if self._crew:
            self._store.record_crew(self._lease, ())
        self._renew()
        self._store.release(self._lease)

    def _take_up(self, strategy: Strategy) -> Replayed:
        generations = list(self._store.generations(self._study_id))
        if not generations:
            self._store.add_generation(self._lease, 0, self._plan.baselines(), {}, None)
        history: dict[int, list[Record]] = defaultdict(list)
        for record in self._store.history(self._study_id):
            history[record.generation].append(record)
            if record.state.is_final:
                self._board.add(record, is_new=False)
                speed = (record.scores or {}).get(SPEED_MEASURE)
                if speed is not None:
                    self._executor.feed(SpeedKnown(record.recipe, speed))
        at = replay(
            self._plan.name, strategy, generations, history, self._told, self._drawn
        )
        samples = samples_of(generations, history)
        for number in [n for n in history if n and n not in samples]:
            before = {n: one for n, one in samples.items() if n < number}
            again = self._teller.finalists(history, before, self._board.baselines)
            check_finals(self._plan.name, number, history[number], again)
        return at

    def _told(self, records: Sequence[Record], sample: Sample | None) -> list[Told]:
        return self._teller.told(records, sample, self._board.baselines)

    def _drawn(self, turn: int) -> Sample | None:
        """Return what a generation answers, by its number as the strategy counts."""
        if self._plan.sampling is None:
            return None
        tasks = self._store.tasks(self._study_id) or ()
        return Sample.draw(tasks, self._plan.sampling.share, self._plan.seed, turn)

    def _generations(self, strategy: Strategy, at: Replayed) -> str:
        if not self._drive(0, self._store.trials(self._study_id, 0)):
            return "time budget used"
        self._is_begun = True
        self._check_baselines()
        self._begin_sampling()
        number, turn, proposal = at.last, at.turn, at.open
        sample = None if proposal is None else self._drawn(turn)
        trials = () if proposal is None else self._taken_up(number, proposal)
        while True:
            if proposal is not None:
                if not self._drive(number, trials, sample):
                    if self._life.lacks_room:
                        return "item budget used"
                    return self._budget.spent() or "budget used"
                records = self._store.history(self._study_id, number)
                if len(records) < len(proposal.points):
                    # Some may have taken less than was set aside for them.
                    trials = self._extended(number, proposal)
                    if len(trials) > len(records):
                        continue
                    return self._budget.spent() or "trial budget used"
                strategy.tell(turn, proposal, self._told(records, sample))
            if (reason := self._budget.spent()) is not None:
                return reason
            number, turn = self._next(), turn + 1
            proposal = self._ask(strategy, number, turn)
            if not proposal.points:
                return "every point of the space tried"
            sample = self._drawn(turn)
            trials = self._added(number, proposal, sample)

    def _next(self) -> int:
        """Return the number of the next generation; finals have one too."""
        return self._store.generations(self._study_id)[-1].number + 1

    def _begin_sampling(self) -> None:
        """Keep items for the finals, and score those that were begun."""
        if self._plan.sampling is None:
            return
        prices = Prices(self._plan.sampling, self._store.tasks(self._study_id) or ())
        limit, least = self._plan.budget.items, prices.finals + prices.trial
        if limit is not None and limit < least:
            raise SpecError(
                [
                    Problem(
                        f"study {self._plan.name!r}",
                        f"expected budget.items of at least {least}, got {limit}: "
                        f"finals take up to {prices.finals} and a candidate "
                        f"{prices.trial}. Raise it, or lower items.finalists.",
                    )
                ]
            )
        self._budget.reserve(prices.finals, prices.trial)
        number = self._next() - 1
        if is_finals(self._store.history(self._study_id, number)):
            self._drive(number, self._store.trials(self._study_id, number))

    def _finals(self) -> None:
        """Score the most promising on all items, unless that was done already."""
        generations = self._store.generations(self._study_id)
        history: dict[int, list[Record]] = defaultdict(list)
        for record in self._store.history(self._study_id):
            history[record.generation].append(record)
        number = generations[-1].number
        if is_finals(history[number]):
            return
        samples = samples_of(generations, history)
        best = self._teller.finalists(history, samples, self._board.baselines)
        candidates = [
            replace(
                self._store.trial(self._study_id, one.number).candidate,
                generation=number + 1,
                index=index,
                final_of=one.number,
            )
            for index, one in enumerate(best)
        ]
        if candidates:
            trials = self._store.add_generation(
                self._lease, number + 1, candidates, {}, "finals"
            )
            self._drive(number + 1, trials)

    def _ask(self, strategy: Strategy, number: int, turn: int) -> Proposal:
        began = time.monotonic()
        proposal = strategy.ask(turn)
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
            self._store.add_event(self._study_id, "slow_ask", found)
        return proposal

    def _added(
        self, number: int, proposal: Proposal, sample: Sample | None
    ) -> Sequence[Trial]:
        """Record a generation, as far as the budget goes."""
        points = proposal.points[: self._budget.room()]
        candidates = self._plan.candidates(number, points)
        return self._store.add_generation(
            self._lease, number, candidates, proposal.memory, proposal.note, sample
        )

    def _taken_up(self, number: int, proposal: Proposal) -> Sequence[Trial]:
        """Return the trials of a generation that is open."""
        if self._plan.sampling is None:
            return self._extended(number, proposal)
        # What is left is known when those that are recorded have been scored.
        return self._store.trials(self._study_id, number)

    def _extended(self, number: int, proposal: Proposal) -> Sequence[Trial]:
        """Add what an earlier, smaller budget had cut off the last generation."""
        recorded = self._store.trials(self._study_id, number)
        first, room = len(recorded), self._budget.room()
        points = proposal.points[first : None if room is None else first + room]
        if not points:
            return recorded
        candidates = self._plan.candidates(number, points, first)
        more = self._store.extend_generation(self._lease, number, candidates)
        return [*recorded, *more]

    def _drive(
        self, number: int, trials: Sequence[Trial], sample: Sample | None = None
    ) -> bool:
        """Score a generation; False if the budget ran out before it was complete.

        In a sampled search it does not: what a generation takes was set aside before it
        was recorded, so that finals can follow, and time is looked at between two.
        """
        self._executor.feed(GenerationBegan(tuple(trials), sample))
        is_complete = self._score(number)
        self._executor.settle()
        if is_complete:
            self._observer(self._progress(number, 0))
        return is_complete

    def _score(self, number: int) -> bool:
        life = self._life
        if not life.is_complete:
            self._dispatcher.start()
        while not life.is_complete:
            self._welcome_newcomers()
            # The budget is a question to the store: not asked after every block.
            idle = self._idle()
            if (idle and life.has_work_for(idle)) or not life.n_at_work:
                if self._is_paid(number) or self._budget.allows(number):
                    self._offer_work(number, idle)
                elif not life.n_at_work:
                    return False
                if life.lacks_room and not life.n_running:
                    return False
            self._executor.settle()
            for event in self._dispatcher.events(POLL_S):
                if isinstance(event, NodeSetAside):
                    self._note_aside(event)
                else:
                    self._executor.feed(event)
            self._executor.feed(Tick(self._dispatcher.now()))
            self._note_roster()
            self._prolong()
            self._observer(self._progress(number, life.n_running))
        return True

    def _is_paid(self, number: int) -> bool:
        """Tell whether a recorded generation is scored whatever is left."""
        return self._plan.sampling is not None and number > 0

    def _idle(self) -> Sequence[str]:
        """Return who may be handed something: nobody once the GPU time is used."""
        if self._gpu_watch.is_used(self._dispatcher.now()):
            if not self._life.n_at_work:
                time.sleep(POLL_S)  # a pool without work does not wait
            return ()
        return self._dispatcher.free()

    def _offer_work(self, number: int, idle: Sequence[str]) -> None:
        is_alone = self._dispatcher.is_single
        enough = self._life.n_owed + len(idle) * self._life.n_items
        room = None
        if not self._is_paid(number):
            room = self._budget.items_left(number, enough)
        if idle:
            self._board.begin_work()
        # Who can go on comes first, before another one takes that over.
        first = {worker: None for worker in idle if self._life.holds(worker)}
        for worker in chain(first, (name for name in idle if name not in first)):
            if not self._life.has_work_for((worker,)):
                break
            self._executor.feed(WorkerIdle(worker, is_alone, room))

    def _welcome_newcomers(self) -> None:
        for event in self._dispatcher.newcomers():
            self._check_metrics(event.tasks)
            self._store.record_tasks(self._lease, event.tasks)
            self._executor.feed(TasksDescribed(event.tasks))
            self._store.add_event(self._study_id, "worker", _facts(event))
            self._dispatcher.welcome(event.worker)

    def _note_aside(self, event: NodeSetAside) -> None:
        _log.warning("Node %s is set aside: %s", event.node, event.reason)
        found = {**asdict(event.node), "reason": event.reason}
        self._store.add_event(self._study_id, NODE_SET_ASIDE, found)

    def _note_roster(self) -> None:
        """Record who works, for those who look from elsewhere; do as they wish."""
        now = self._dispatcher.now()
        if now - self._roster_at < ROSTER_EVERY_S:
            return
        self._roster_at = now
        roster, crew = self._dispatcher.roster(), self._dispatcher.crew()
        wishes = self._store.wishes(self._study_id)
        self._dispatcher.heed(wishes)
        n_gpus = sum(member.gpus for member in crew)
        self._gpu_watch.look(wishes.gpu_time, n_gpus, now)
        if crew != self._crew:
            self._crew = crew
            self._store.record_crew(self._lease, crew)
        if roster != self._roster:
            self._roster = roster
            self._store.add_event(self._study_id, ROSTER, asdict(roster))

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
                raise SpecError(
                    [
                        Problem(
                            f"study {self._plan.name!r}",
                            f"a constraint is relative to baseline {label!r}, but that "
                            "could not be scored; see `evomerge trials`.",
                        )
                    ]
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

    def _progress(self, generation: int, running: int) -> Progress:
        count = self._dispatcher.count
        return self._board.progress(
            generation=generation,
            running=running,
            workers=count.n_up,
            roster=count.roster,
            ahead=Ahead(
                self._plan.budget,
                self._life.n_items,
                0 if generation else self._life.n_unfinished,
            ),
        )

    def _prolong(self) -> None:
        if self._budget.unrecorded_s > self._lease.ttl_s / 3:
            self._renew()

    def _renew(self) -> None:
        self._store.renew(self._lease, self._budget.take_unrecorded())


def _facts(event: WorkerReady) -> dict[str, object]:
    return {"worker": event.worker, **event.facts}
