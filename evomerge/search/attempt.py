"""An attempt at a trial: what is held of it, and what its end means for the trial."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from evomerge.core.cost import Speed
from evomerge.core.scoring_protocol import BlockKey
from evomerge.core.trial import (
    Blame,
    Cause,
    Failure,
    Precision,
    Trial,
    TrialState,
)
from evomerge.errors import IllegalTransitionError
from evomerge.search.messages import WorkerIdle
from evomerge.search.portions import N_LAST
from evomerge.search.required_items import Known
from evomerge.store.base import Ending

LEAST_TIME = 0.25
"""Share of the time for an attempt that any part of it has: each swaps in anew."""


@dataclass(slots=True)
class Part:
    """What one worker was handed of an attempt, and is at.

    Attributes:
        number: Within the attempt, from 1.
        limit_s: Longest that it may take.
        began: In seconds, of the clock that ticks; None until it ticks.
        blocks: What it was handed, in order.
        left: Those of them that it has not reported.
        took: Seconds of those that it has.
        calls: How many blocks the engine is asked at a time; empty for all at once.
    """

    worker: str
    trial: int
    attempt: int
    number: int
    limit_s: float
    began: float | None
    blocks: tuple[BlockKey, ...]
    left: set[BlockKey]
    took: dict[BlockKey, float] = field(default_factory=dict)
    calls: tuple[int, ...] = ()

    def ends(self, now: float) -> float:
        """Return when its time is over; it begins at the first look."""
        if self.began is None:
            self.began = now
        return self.began + self.limit_s

    def call_times(self) -> Iterator[tuple[tuple[BlockKey, ...], float]]:
        """Yield the blocks and seconds of each call."""
        first = 0
        for size in self.calls or (len(self.blocks),):
            blocks = self.blocks[first : first + size]
            first += size
            yield blocks, sum(self.took[block] for block in blocks)


@dataclass(frozen=True, slots=True)
class Way:
    """How the blocks of an attempt are handed out.

    Attributes:
        portion: Blocks that go out at once, for others to take what is left; None
            for all.
        last: The same, for the last few portions.
        calls: Of the engine, where all go out at once.
        is_measured: What the calls take tells how large portions are to be.
    """

    portion: int | None = None
    last: int = 1
    calls: tuple[int, ...] = ()
    is_measured: bool = False


@dataclass(frozen=True, slots=True)
class Starting:
    """A pending trial that is chosen for a worker, while the store is asked.

    Attributes:
        idle: What it was chosen for.
        known: What was read of its outcomes; None before.
        blocks: What of them is missing.
    """

    trial: Trial
    idle: WorkerIdle
    known: Known | None = None
    blocks: tuple[BlockKey, ...] = ()

    @property
    def workers(self) -> Collection[str]:
        """Whom it keeps busy."""
        return (self.idle.worker,)

    def reused(self, scores: Mapping[str, float], precision: Precision) -> Trial:
        """Return the trial as it ends when every outcome was known."""
        return replace(
            self.trial,
            state=self.trial.state.to(TrialState.SCORED),
            scores=scores,
            precision=precision,
            failure=None,
            reused=True,
        )

    def running(self, attempt: int, way: Way) -> Running:
        """Return the attempt, nothing handed out.

        Raises:
            IllegalTransitionError: It was not asked for, or had its number before.
        """
        trial, worker = self.trial, self.idle.worker
        if self.known is None or attempt <= trial.attempt:
            raise IllegalTransitionError(
                f"Trial {trial.number} had attempt {trial.attempt}; the next must be "
                f"larger, and what is known be read before, not {attempt}."
            )
        state = trial.state.to(TrialState.RUNNING)
        taken = replace(trial, state=state, attempt=attempt, worker=worker)
        return Running(taken, self.known, list(self.blocks), way, len(self.blocks))


@dataclass(slots=True)
class Running:
    """An attempt, all of it.

    Attributes:
        known: The outcomes of before and of this attempt, added as they come.
        unstarted: Blocks that nobody was handed, in order.
        n_blocks: How many there were at first.
        parts: What is being worked on, by worker.
        n_parts: How many there ever were.
        clock: Tokens and seconds of what is reported.
        seconds: Time by kind of work, of the parts that are done.
        n_done: Blocks of those parts.
        failure: Why nothing more is handed out: what failed first, or a fault of the
            candidate's.
    """

    trial: Trial
    known: Known
    unstarted: list[BlockKey]
    way: Way
    n_blocks: int
    parts: dict[str, Part] = field(default_factory=dict)
    n_parts: int = 0
    clock: Speed = field(default_factory=Speed)
    seconds: dict[str, float] = field(default_factory=dict)
    n_done: int = 0
    failure: Failure | None = None

    @property
    def workers(self) -> Collection[str]:
        """Whom it keeps busy."""
        return self.parts.keys()

    @property
    def is_open(self) -> bool:
        """Somebody else may be handed a part."""
        return bool(self.unstarted) and self.failure is None

    @property
    def block_s(self) -> float | None:
        """Seconds of a block, as far as can be told of this one."""
        return self.clock.seconds / self.n_done if self.n_done else None

    def hand_out(
        self,
        worker: str,
        timeout_s: float,
        now: float | None,
        *,
        is_small: bool = False,
    ) -> Part:
        """Return the next part, now a worker's.

        Args:
            worker: Whose.
            timeout_s: Longest that the whole attempt may take from one worker.
            now: In seconds; None if that is not known.
            is_small: It is to be as small as the last ones, where trials are shared.
        """
        n = self.way.portion or len(self.unstarted)
        if self.way.portion and (is_small or len(self.unstarted) <= N_LAST * n):
            n = self.way.last
        blocks = tuple(self.unstarted[:n])
        del self.unstarted[:n]
        self.n_parts += 1
        part = Part(
            worker=worker,
            trial=self.trial.number,
            attempt=self.trial.attempt,
            number=self.n_parts,
            limit_s=timeout_s * max(len(blocks) / self.n_blocks, LEAST_TIME),
            began=now,
            blocks=blocks,
            left=set(blocks),
            calls=self.way.calls,
        )
        self.parts[worker] = part
        return part

    def done(self, part: Part, seconds: Mapping[str, float]) -> None:
        """Count a part whose every block is reported."""
        self.n_done += len(part.blocks)
        for kind, spent in seconds.items():
            self.seconds[kind] = self.seconds.get(kind, 0.0) + spent

    def fail(self, failure: Failure) -> None:
        """Hand nothing more out, for this reason unless there is a better one."""
        is_better = failure.blame is Blame.CANDIDATE
        if self.failure is None or (is_better and self.failure.blame is Blame.MACHINE):
            self.failure = failure

    def ended(self, ending: Ending) -> Trial:
        """Return the trial as the store has it after this end."""
        trial, failure = self.trial, ending.failure
        is_fault = failure is not None and failure.blame is Blame.MACHINE
        return replace(
            trial,
            state=trial.state.to(ending.state),
            scores=ending.scores,
            precision=ending.precision,
            failure=failure,
            seconds=ending.seconds,
            faults=trial.faults + is_fault,
        )


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a trial is tried when machines fail.

    Attributes:
        faults: Attempts that machines may spoil before a trial is quarantined.
    """

    faults: int = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a trial after a failed attempt."""

    state: TrialState
    failure: Failure


def judge(trial: Trial, failure: Failure, policy: RetryPolicy) -> Verdict:
    """Decide what a failed attempt means for its trial.

    The candidate's fault is final. A machine's fault is tried again, until machines
    have spoilt ``policy.faults`` attempts; attempts that ended because a coordinator
    died do not count. A timeout could be either: it is first put down to the machine,
    and when it repeats, to the candidate.

    Args:
        trial: The running trial; its ``failure`` is that of the attempt before.
        failure: What ended this attempt.
        policy: The limits.
    """
    if failure.blame is Blame.CANDIDATE:
        return Verdict(TrialState.FAILED, failure)
    timed_out_before = (
        trial.failure is not None and trial.failure.cause is Cause.TIMEOUT
    )
    if failure.cause is Cause.TIMEOUT and timed_out_before:
        blamed = replace(
            failure,
            blame=Blame.CANDIDATE,
            message=f"{failure.message} It had timed out before.",
        )
        return Verdict(TrialState.FAILED, blamed)
    n_faults = trial.faults + 1
    if n_faults >= policy.faults:
        # In the first line: the lines after it may be a traceback.
        head, line_end, rest = failure.message.partition("\n")
        head += f" Machines failed {n_faults} times on this trial: not tried again."
        tired = replace(failure, message=head + line_end + rest)
        return Verdict(TrialState.QUARANTINED, tired)
    return Verdict(TrialState.PENDING, failure)
