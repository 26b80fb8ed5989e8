"""The life of a candidate: states, failures, blame and scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from evomerge.core.digest import Scalar
from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import IllegalTransitionError
from evomerge.masking import masked

Point = Mapping[str, Scalar]
"""Axis name to value, rounded to its grid; only the axes that are active."""


class TrialState(StrEnum):
    """Where a trial stands.

    ::

        PENDING --lease--> RUNNING --all blocks--------> SCORED       (final)
          | ^                 |------candidate's fault-> FAILED       (final)
          | |--machine fault--|------machine, too often> QUARANTINED  (final)
          |--outcomes known------------------> SCORED
    """

    PENDING = "pending"
    RUNNING = "running"
    SCORED = "scored"
    FAILED = "failed"
    QUARANTINED = "quarantined"

    @property
    def is_final(self) -> bool:
        """No arrow leads out of this state."""
        return not _ARROWS[self]

    def to(self, new: TrialState) -> TrialState:
        """Return ``new``, or refuse if no arrow leads there.

        Raises:
            IllegalTransitionError: The step is not in the picture above.
        """
        if new not in _ARROWS[self]:
            allowed = ", ".join(sorted(_ARROWS[self])) or "nothing: the state is final"
            raise IllegalTransitionError(
                f"A {self} trial cannot become {new}; allowed: {allowed}."
            )
        return new


_ARROWS: Mapping[TrialState, frozenset[TrialState]] = {
    TrialState.PENDING: frozenset({TrialState.RUNNING, TrialState.SCORED}),
    TrialState.RUNNING: frozenset(
        {
            TrialState.SCORED,
            TrialState.FAILED,
            TrialState.PENDING,
            TrialState.QUARANTINED,
        }
    ),
    TrialState.SCORED: frozenset(),
    TrialState.FAILED: frozenset(),
    TrialState.QUARANTINED: frozenset(),
}


class Blame(StrEnum):
    """Whose fault a failure is; it decides whether another try makes sense."""

    CANDIDATE = "candidate"
    MACHINE = "machine"


class Cause(StrEnum):
    """What went wrong, in one word."""

    NON_FINITE = "non_finite"
    EVALUATION = "evaluation"
    TIMEOUT = "timeout"
    WORKER_LOST = "worker_lost"
    OUT_OF_MEMORY = "out_of_memory"
    DISK_FULL = "disk_full"
    ENGINE = "engine"

    @property
    def words(self) -> str:
        """The same for people."""
        return _CAUSE_WORDS[self]


_CAUSE_WORDS: Mapping[Cause, str] = {
    Cause.NON_FINITE: "not finite",
    Cause.EVALUATION: "error in the task",
    Cause.TIMEOUT: "timed out",
    Cause.WORKER_LOST: "worker lost",
    Cause.OUT_OF_MEMORY: "out of memory",
    Cause.DISK_FULL: "disk full",
    Cause.ENGINE: "engine failed",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt ended without scores; recorded, so it holds no secret."""

    cause: Cause
    blame: Blame
    message: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", masked(self.message))

    def __str__(self) -> str:
        return f"{self.cause.words} ({self.blame}'s fault): {self.message}"

    @property
    def first_line(self) -> str:
        """The same without what may follow, for example a traceback."""
        return str(self).partition("\n")[0]

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "cause": self.cause.value,
            "blame": self.blame.value,
            "message": self.message,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Failure:
        """Read the plain form."""
        return cls(Cause(data["cause"]), Blame(data["blame"]), data["message"])


@dataclass(frozen=True, slots=True)
class Precision:
    """How much a trial's scores tell.

    Attributes:
        errors: Measure to the standard error of its score, where one is known.
        n_items: Search items that the scores are means over.
        of_items: How many there are. Scores over fewer can be compared with those of
            the same generation only.
    """

    errors: Mapping[str, float]
    n_items: int
    of_items: int

    @property
    def is_partial(self) -> bool:
        """Some search items were not asked."""
        return self.n_items < self.of_items


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a strategy, or the user, proposed.

    Attributes:
        generation: 0 for baselines and the user's starts, then 1, 2, ...
        index: Place within the generation, from 0.
        recipe: The decided merge.
        point: Its coordinates; None for a baseline that is not a point of the space.
        label: Name of a baseline or start, for example ``parent math``; else None.
        final_of: Number of the trial whose merge is scored on all items here, at the
            end of a search whose candidates answer some; else None.
    """

    generation: int
    index: int
    recipe: Recipe
    point: Point | None = None
    label: str | None = None
    final_of: int | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """The stored life of a candidate.

    Attributes:
        number: Counts the trials of a study, from 0.
        attempt: 0 before the first lease; the fencing token afterwards.
        faults: Attempts that ended by a machine's fault; those that ended because a
            coordinator died are not among them.
        scores: Measure name (``task/metric``) to mean over the search items.
        failure: Why the last attempt failed, if one did.
        worker: Who ran it last.
        seconds: Time of the successful attempt by part; empty before.
        reused: Every outcome was already known, nothing was computed.
        precision: Of the scores; None before, and where it was not remembered.
    """

    number: int
    candidate: Candidate
    state: TrialState = TrialState.PENDING
    attempt: int = 0
    scores: Mapping[str, float] | None = None
    failure: Failure | None = None
    worker: str | None = None
    seconds: Mapping[str, float] | None = None
    reused: bool = False
    faults: int = 0
    precision: Precision | None = None

    def record(self) -> Record:
        """Return the same without the recipe's body."""
        candidate = self.candidate
        return Record(
            number=self.number,
            generation=candidate.generation,
            index=candidate.index,
            recipe=candidate.recipe.digest,
            point=candidate.point,
            label=candidate.label,
            state=self.state,
            attempt=self.attempt,
            scores=self.scores,
            failure=self.failure,
            worker=self.worker,
            seconds=self.seconds,
            reused=self.reused,
            faults=self.faults,
            final_of=candidate.final_of,
            precision=self.precision,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """A trial as history needs it: all but the recipe's body.

    A recipe is by far the largest part of a trial, and only who materialises it wants
    it; thousands of records are read in the time of a few recipes.

    Attributes:
        recipe: The recipe's digest.
    """

    number: int
    generation: int
    index: int
    recipe: str
    point: Point | None
    label: str | None
    state: TrialState
    attempt: int
    scores: Mapping[str, float] | None
    failure: Failure | None
    worker: str | None
    seconds: Mapping[str, float] | None
    reused: bool
    faults: int
    final_of: int | None = None
    precision: Precision | None = None

    @property
    def is_proposed(self) -> bool:
        """A strategy proposed it: it is neither a baseline, a start nor a final."""
        return self.generation > 0 and self.final_of is None

    @property
    def is_selected(self) -> bool:
        """The search chooses by its scores, so those of the best flatter it."""
        return self.generation > 0

    @property
    def is_partial(self) -> bool:
        """Its scores are over some of the search items."""
        return self.precision is not None and self.precision.is_partial

    @property
    def title(self) -> str | None:
        """Its label, or whose final it is."""
        is_final = self.label is None and self.final_of is not None
        return f"final of {self.final_of}" if is_final else self.label


@dataclass(frozen=True, slots=True)
class Repeats:
    """How often a search met a merge again.

    Attributes:
        asked: Candidates that a strategy proposed.
        distinct: Different recipes among them.
        share: Share of the candidates that were met before.
    """

    asked: int
    distinct: int
    share: float

    @classmethod
    def of(cls, recipes: Iterable[str]) -> Repeats:
        """Count recipes by their digests, one for each candidate."""
        listed = list(recipes)
        asked, distinct = len(listed), len(set(listed))
        return cls(asked, distinct, 1.0 - distinct / asked if asked else 0.0)

    def __str__(self) -> str:
        return f"{self.asked - self.distinct} of {self.asked} ({self.share:.1%})"
