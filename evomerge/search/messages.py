"""What drives the life of trials: events that go in, instructions that come out.

``lifecycle`` turns the first into the second, ``executor`` carries the second out. What
workers say (``core.work.PoolEvent``) goes in as it comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.core.recipes.recipe import Recipe
from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import BlockKey, Outcome, TaskDescription
from evomerge.core.trial import Precision, Trial
from evomerge.core.work import Assignment, PoolEvent
from evomerge.search.required_items import Known, RequiredItems
from evomerge.store.base import Ending, PartBegun, PartEnded

# Events.


@dataclass(frozen=True, slots=True)
class TasksDescribed:
    """It is known what has to be scored; before any worker is idle."""

    tasks: tuple[TaskDescription, ...]


@dataclass(frozen=True, slots=True)
class SpeedKnown:
    """A recipe's tokens per second were measured before, and count for it."""

    recipe: str
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class GenerationBegan:
    """These trials are to be ended, as the store has them; none is running.

    Attributes:
        sample: The blocks that they answer; None for all.
    """

    trials: tuple[Trial, ...]
    sample: Sample | None = None


@dataclass(frozen=True, slots=True)
class WorkerIdle:
    """A worker has nothing to do.

    Attributes:
        is_alone: There is no other, so it gets also what failed on it last.
        room: Items that the budget has left beyond those recorded; None for any number.
    """

    worker: str
    is_alone: bool
    room: int | None = None


@dataclass(frozen=True, slots=True)
class OutcomesRead:
    """Answers ``ReadOutcomes``; the receiver owns ``known`` from now on."""

    trial: int
    known: Known


@dataclass(frozen=True, slots=True)
class AttemptBegan:
    """Answers ``BeginAttempt``: the trial is running in the store.

    Attributes:
        now: In seconds, of the clock that ticks.
    """

    trial: int
    attempt: int
    now: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; ``now`` is in seconds."""

    now: float


Event = (
    TasksDescribed
    | SpeedKnown
    | GenerationBegan
    | WorkerIdle
    | OutcomesRead
    | AttemptBegan
    | Tick
    | PoolEvent
)

# Instructions.


@dataclass(frozen=True, slots=True)
class ReadOutcomes:
    """Read what is known of a trial's recipe, under any digest of the same merge."""

    trial: int
    recipe: Recipe
    required: RequiredItems


@dataclass(frozen=True, slots=True)
class Reuse:
    """Make a pending trial scored in the store: every outcome was known."""

    trial: int
    scores: Mapping[str, float]
    precision: Precision


@dataclass(frozen=True, slots=True)
class BeginAttempt:
    """Make a pending trial running in the store."""

    trial: int
    worker: str


@dataclass(frozen=True, slots=True)
class MovePart:
    """Record that a part of an attempt ended, that another began, or both."""

    trial: int
    attempt: int
    ended: PartEnded | None
    begun: PartBegun | None


@dataclass(frozen=True, slots=True)
class Submit:
    """Send a worker its part of an attempt."""

    worker: str
    assignment: Assignment


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Record the outcomes of a block."""

    trial: int
    attempt: int
    block: BlockKey
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class EndAttempt:
    """Make a running trial final in the store, or pending for another try."""

    trial: int
    attempt: int
    ending: Ending


@dataclass(frozen=True, slots=True)
class EndTrial:
    """Count a trial that has become final."""

    trial: Trial


@dataclass(frozen=True, slots=True)
class StopWorker:
    """Kill a worker at this attempt; the pool brings up another."""

    worker: str
    trial: int
    attempt: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the run: workers cannot be brought up, now or (``is_futile``) ever."""

    reason: str
    is_futile: bool = False


Instruction = (
    ReadOutcomes
    | Reuse
    | BeginAttempt
    | MovePart
    | Submit
    | RecordBlock
    | EndAttempt
    | EndTrial
    | StopWorker
    | GiveUp
)
