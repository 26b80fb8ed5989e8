"""What a store takes and gives: plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import BlockKey, Outcome
from evomerge.core.trial import Cause, Failure, Precision, TrialState


@dataclass(frozen=True, slots=True)
class StoredStudy:
    """A study as recorded.

    Attributes:
        id: Database key.
        name: Unique within the database.
        config: What may never change, as plain JSON data; compared on resume.
        allowance: What a resume may change (budget, workers, engine placement).
        seed: The study's seed.
        spent_s: Wall seconds of all runs so far.
        created: Database time, ISO 8601 in UTC.
        finished: Why the search ended (``budget``, ...), None while it goes on.
    """

    id: int
    name: str
    config: Mapping[str, Any]
    allowance: Mapping[str, Any]
    seed: int
    spent_s: float
    created: str
    finished: str | None


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a lease: enough to tell, on the same host, whether it still lives."""

    host: str
    pid: int
    started: str
    """The process's start time as the operating system tells it; pids are reused."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a study; every write carries it.

    Attributes:
        epoch: Grows with every new holder; older ones are refused.
    """

    study_id: int
    epoch: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Generation:
    """One recorded generation.

    Attributes:
        size: Number of trials in it.
        memory: The strategy's plain data, as recorded.
        sample: The blocks that its trials answer; None for all.
    """

    number: int
    size: int
    memory: Mapping[str, Any]
    note: str | None
    sample: Sample | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended.

    Attributes:
        state: A final state, or pending for another try.
        scores: Measure name (``task/metric``) to mean; only with ``scored``.
        failure: Why; with every other state.
        seconds: Time by part.
        precision: Of the scores; None if it is not known.
    """

    state: TrialState
    scores: Mapping[str, float] | None = None
    failure: Failure | None = None
    seconds: Mapping[str, float] | None = None
    precision: Precision | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a study has used; generation 0 (baselines, starts) is free.

    Finals count among the items and not among the trials.

    Attributes:
        trials: Candidates asked of the strategy.
        items: Items scored for them, reused ones not counted.
        seconds: Wall time of all runs.
    """

    trials: int
    items: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth remembering: a worker came, report items were opened."""

    at: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model folder written from a trial; the digest is that of its weights."""

    at: str
    trial: int
    path: str
    digest: str


class AttemptEnd(StrEnum):
    """How an attempt ended."""

    SCORED = "scored"
    FAILED = "failed"
    """By the candidate's fault."""
    FAULT = "fault"
    """By a machine's fault."""
    INTERRUPTED = "interrupted"
    """The coordinator stopped or died; nobody's fault."""
    UNKNOWN = "unknown"
    """Before the schema remembered attempts."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a trial.

    Attributes:
        began: Database time, ISO 8601 in UTC; None where it was not remembered.
        ended: None while it runs.
        end: How; None while it runs.
        cause: Of a failure or fault.
        message: The cause in words.
    """

    trial: int
    attempt: int
    worker: str | None
    began: str | None
    ended: str | None
    end: AttemptEnd | None
    cause: Cause | None
    message: str | None


@dataclass(frozen=True, slots=True)
class PartBegun:
    """Blocks that a worker is handed of a running attempt.

    Attributes:
        part: Its number within the attempt, from 1.
    """

    part: int
    worker: str
    blocks: tuple[BlockKey, ...]


@dataclass(frozen=True, slots=True)
class PartEnded:
    """How a part of a running attempt ended.

    Attributes:
        end: ``scored`` if every block of it was, else whose fault it was.
    """

    part: int
    end: AttemptEnd
    cause: Cause | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a running attempt, to be recorded at one go.

    Attributes:
        blocks: Outcomes, one for every item of each block.
        ended: Parts that did.
        begun: One that did.
    """

    blocks: Mapping[BlockKey, Sequence[Outcome]] = field(default_factory=dict)
    ended: Sequence[PartEnded] = ()
    begun: PartBegun | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """What one worker was handed of an attempt; times as those of the attempt.

    Attributes:
        blocks: What it was handed, in order.
        end: How; None while it runs.
    """

    trial: int
    attempt: int
    part: int
    worker: str
    blocks: tuple[BlockKey, ...]
    began: str
    ended: str | None
    end: AttemptEnd | None
    cause: Cause | None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who runs a study, as its lease tells.

    Attributes:
        left_s: Seconds until the lease ends, unless it is renewed.
    """

    host: str
    pid: int
    left_s: float


@dataclass(frozen=True, slots=True)
class Overview:
    """A study at a glance.

    Attributes:
        counts: Trial state to number of trials.
        holder: Who runs it; None if nobody does.
    """

    study: StoredStudy
    usage: Usage
    counts: Mapping[TrialState, int]
    holder: Holder | None


@dataclass(frozen=True, slots=True)
class CrewMember:
    """A worker that is up.

    Attributes:
        facts: What it said of itself: versions, node, host, address, device.
    """

    name: str
    is_busy: bool
    facts: Mapping[str, Any]

    @property
    def gpus(self) -> float:
        """GPUs that it says it has."""
        said = self.facts.get("gpus")
        return float(said) if isinstance(said, int | float) else 0.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much a database holds."""

    studies: int
    trials: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion removes."""

    trials: int
    recipes: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A broken promise that ``check`` found.

    Attributes:
        where: Study and trial, or the table.
        what: What was expected, and what is there.
    """

    where: str
    what: str
