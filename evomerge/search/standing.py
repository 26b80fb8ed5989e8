"""Where the trials of a generation stand, and who can be given what of them.

Holds what the lifecycle decides by and what follows from that, so that a question costs
little with a thousand workers. Says what is next; steps are not its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from evomerge.core.trial import Trial, TrialState
from evomerge.errors import IllegalTransitionError
from evomerge.search.attempt import Part, Running, Starting
from evomerge.search.messages import WorkerIdle
from evomerge.search.portions import Portions
from evomerge.search.ranking import Ranking


class Standing:
    """The trials of a generation, each in one place.

    Attributes:
        active: By number, those that are being started or run.
        lacks_room: The next pending trial has more items than the budget has left.
    """

    def __init__(self) -> None:
        """Begin without trials."""
        self.active: dict[int, Starting | Running] = {}
        self.lacks_room = False
        self._pending: dict[int, Trial] = {}
        self._ended: dict[int, Trial] = {}
        self._busy: set[str] = set()  # workers
        self._recipes: set[str] = set()  # of active trials
        self._alike: Counter[str] = Counter()  # pending trials by recipe
        self._n_shut = 0  # pending ones whose recipe is that of an active trial
        self._open: dict[int, Running] = {}  # some block of theirs is with nobody
        self._ranking = Ranking(self._open)
        self._alone: dict[int, Running] = {}  # nobody is at one of those
        self._held: dict[str, int] = {}  # the trial that a worker was at last
        self._owed: dict[int, int] = {}  # items that count, and are not recorded yet
        self._n_owed = 0  # all of them
        self._failed_at: dict[int, str] = {}  # the worker that last failed at a trial

    @property
    def is_complete(self) -> bool:
        """Every trial has reached a final state."""
        return not self._pending and not self.active

    @property
    def n_unfinished(self) -> int:
        """Trials that have reached no final state."""
        return len(self._pending) + len(self.active)

    @property
    def n_pending(self) -> int:
        """Trials that can be begun: nobody is scoring their recipe."""
        return len(self._pending) - self._n_shut

    @property
    def n_at_work(self) -> int:
        """Workers that are at something that counts."""
        return len(self._busy)

    @property
    def n_owed(self) -> int:
        """Items of the running trials that will count, and are not recorded yet."""
        return self._n_owed

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial, by number."""
        active = {number: now.trial for number, now in self.active.items()}
        every = {**self._pending, **active, **self._ended}
        return tuple(every[number] for number in sorted(every))

    @property
    def parts(self) -> Iterator[Part]:
        """What workers are at."""
        for now in self.active.values():
            if isinstance(now, Running):
                yield from now.parts.values()

    def begin(self, trials: Sequence[Trial]) -> None:
        """Take the trials of a generation.

        Raises:
            IllegalTransitionError: Something is running, or was.
        """
        ordered = sorted(trials, key=lambda trial: trial.number)
        pending = {t.number: t for t in ordered if t.state is TrialState.PENDING}
        ended = {t.number: t for t in ordered if t.state.is_final}
        if self.active or len(pending) + len(ended) < len(ordered):
            raise IllegalTransitionError(
                "A generation begins with trials that are pending or final; what was "
                "running must be ended or made pending before."
            )
        self._pending, self._ended = pending, ended
        self._alike = Counter(t.candidate.recipe.digest for t in pending.values())
        self._n_shut = 0
        self.lacks_room = False
        self._held.clear()

    # Who can be given what.

    def is_busy(self, worker: str) -> bool:
        """Tell whether a worker is at something that counts."""
        return worker in self._busy

    def holds(self, worker: str) -> bool:
        """Tell whether a worker can go on with what it was at last."""
        return self._held.get(worker) in self._open

    def holds_any(self, workers: Iterable[str]) -> bool:
        """Tell whether one of these workers can."""
        held, open_ = self._held, self._open
        return any(held.get(worker) in open_ for worker in workers)

    def begun(self, worker: str, avoid: str | None) -> Running | None:
        """Return the trial that a worker is to go on with, or one left alone.

        Args:
            worker: Who has nothing to do.
            avoid: The same, if what failed there last is left for others.
        """
        mine = self._open.get(self._held.pop(worker, -1))
        return mine or self.left_alone(avoid)

    def left_alone(self, avoid: str | None) -> Running | None:
        """Return an open trial that nobody is at: whoever was is gone."""
        return next(self._not_failed(self._alone, avoid), None)

    def next(self, avoid: str | None) -> Trial | None:
        """Return the first pending trial whose recipe nobody is scoring."""
        if self.lacks_room:
            return None
        for trial in self._pending.values():
            failed_here = trial.failure is not None and avoid == self._failed_at.get(
                trial.number, trial.worker
            )
            if not failed_here and trial.candidate.recipe.digest not in self._recipes:
                return trial
        return None

    def to_help(self, avoid: str | None, costs: Portions, now: float) -> Running | None:
        """Return the open trial that would be done last of those worth a swap."""
        return self._ranking.last(
            costs,
            lambda number: avoid is not None and avoid == self._failed_at.get(number),
            now,
        )

    def _not_failed(
        self, trials: dict[int, Running], avoid: str | None
    ) -> Iterator[Running]:
        for number, now in trials.items():
            if avoid is None or avoid != self._failed_at.get(number):
                yield now

    # What happens to them.

    def start(self, trial: Trial, idle: WorkerIdle) -> None:
        """Choose a pending trial for a worker."""
        del self._pending[trial.number]
        self.active[trial.number] = Starting(trial, idle)
        self._busy.add(idle.worker)
        digest = trial.candidate.recipe.digest
        self._recipes.add(digest)
        self._alike[digest] -= 1
        self._n_shut += self._alike[digest]

    def reserve(self, starting: Starting, n_items: int) -> bool:
        """Set items of the budget aside for a trial.

        Returns:
            False if they are not there: the trial is pending again.
        """
        room = starting.idle.room
        if room is not None and self.n_owed + n_items > room:
            self.put(starting.trial)
            self.lacks_room = True
            return False
        self._owe(starting.trial.number, n_items)
        return True

    def recorded(self, number: int, n_items: int) -> None:
        """Count items that are recorded."""
        self._ranking.change(number)
        if number in self._owed:
            self._owe(number, self._owed[number] - n_items)

    def _owe(self, number: int, n_items: int) -> None:
        self._n_owed += n_items - self._owed.get(number, 0)
        self._owed[number] = n_items

    def run(self, running: Running) -> None:
        """Let a trial that was being started run; nothing of it is handed out."""
        number = running.trial.number
        self.active[number] = self._open[number] = self._alone[number] = running
        self._ranking.change(number)

    def handed_out(self, running: Running, worker: str) -> None:
        """Note that a worker is at a part."""
        number = running.trial.number
        self._busy.add(worker)
        self._ranking.change(number)
        self._alone.pop(number, None)
        if not running.is_open:
            self._open.pop(number, None)

    def failed(self, part: Part) -> None:
        """Note that a part failed: nothing more of its attempt is handed out."""
        self._open.pop(part.trial, None)
        self._failed_at[part.trial] = part.worker

    def over(self, running: Running, part: Part) -> bool:
        """Take a part from its worker; True if the attempt is over with it."""
        del running.parts[part.worker]
        self._busy.discard(part.worker)
        self._held[part.worker] = part.trial
        self._ranking.change(part.trial)
        if running.is_open and not running.parts:
            self._alone[part.trial] = running
        return not running.parts and not running.is_open

    def put(self, trial: Trial) -> None:
        """Take a trial from those who are at it, to be pending or final."""
        now = self.active.pop(trial.number)
        self._busy.difference_update(now.workers)
        digest = trial.candidate.recipe.digest
        self._recipes.discard(digest)
        self._n_shut -= self._alike[digest]
        self._owe(trial.number, 0)
        for index in (self._open, self._alone, self._owed):
            index.pop(trial.number, None)
        self._ranking.change(trial.number)
        self.lacks_room = False  # what was set aside and not used is free
        if trial.state.is_final:
            self._ended[trial.number] = trial
        else:
            self._alike[digest] += 1
            self._pending[trial.number] = trial
            self._pending = dict(sorted(self._pending.items()))

    def validate(self) -> None:
        """Check this object's own invariants; for tests.

        Raises:
            AssertionError: Names the trial and the broken rule.
        """
        places = [*self._pending, *self.active, *self._ended]
        assert len(places) == len(set(places)), "a trial is in two states"
        assert list(self._pending) == sorted(self._pending)
        active = self.active.values()
        digests = [now.trial.candidate.recipe.digest for now in active]
        assert len(set(digests)) == len(digests), "one recipe is scored twice at once"
        assert self._recipes == set(digests)
        shut = [
            t.candidate.recipe.digest in self._recipes for t in self._pending.values()
        ]
        assert self._n_shut == sum(shut)
        workers = [name for now in active for name in now.workers]
        assert len(set(workers)) == len(workers), "a worker is at two attempts"
        assert self._busy == set(workers)
        running = [now for now in active if isinstance(now, Running)]
        assert self._open == {now.trial.number: now for now in running if now.is_open}
        alone = {now.trial.number: now for now in running if not now.parts}
        assert self._alone == alone, "nobody is at a trial, or will be"
        assert self._alone.keys() <= self._open.keys()
        assert self._owed.keys() <= self.active.keys()
        assert all(n >= 0 for n in self._owed.values())
        assert self._n_owed == sum(self._owed.values())
