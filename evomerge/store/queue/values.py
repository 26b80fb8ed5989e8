"""Jobs and who submits them, as plain frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class JobState(StrEnum):
    """Where a job stands.

    ``queued -> starting -> running -> finished | failed``;
    ``running -> waiting -> starting``, a restart that is due later;
    any -> ``pausing -> paused``, which a resume queues again;
    any -> ``cancelling -> cancelled``. A resume queues what failed or was cancelled.
    """

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    WAITING = "waiting"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FINISHED = "finished"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing happens any more unless somebody asks for it."""
        return self in (JobState.CANCELLED, JobState.FINISHED, JobState.FAILED)

    @property
    def is_held(self) -> bool:
        """Whether a supervisor has claimed the job."""
        return self in HELD


HELD = (
    JobState.STARTING,
    JobState.RUNNING,
    JobState.PAUSING,
    JobState.CANCELLING,
)


class Wanted(StrEnum):
    """What a job's owner wants of it."""

    RUN = "run"
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Job:
    """A job: a study that somebody submitted, until it ends.

    Attributes:
        id: Database key; with gaps, and not for users.
        user: Its owner's name.
        name: Unique among the owner's jobs.
        study: Name of the study that its file describes, unique in the database.
        bundle_digest: Of its files.
        priority: The higher goes first among one user's jobs.
        budget: What a resume raised: ``trials``, ``items``, ``minutes``; empty for what
            the study file says.
        place: Where and how it is to run: ``workers``.
        claim_by: The supervisor that has it, None for none.
        due: When it is started again; None for at once.
        starts: How often it was claimed.
        fruitless: Starts in a row that brought the study on by nothing.
        last_progress: Final trials and items recorded, when a start last ended.
        why: What the last start ended with, None if there is nothing to tell.
        created: Database time, ISO 8601 in UTC.
        changed: When its state last changed.
    """

    id: int
    user: str
    name: str
    study: str
    bundle_digest: str
    state: JobState
    wanted: Wanted
    priority: int
    budget: Mapping[str, float]
    place: Mapping[str, Any]
    claim_by: str | None
    due: str | None
    starts: int
    fruitless: int
    last_progress: int
    why: str | None
    created: str
    changed: str

    @property
    def address(self) -> str:
        """``user/name``: unique in the database."""
        return f"{self.user}/{self.name}"


@dataclass(frozen=True, slots=True)
class JobEvent:
    """Something that happened to a job; numbered from 1 without a gap."""

    number: int
    at: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Head:
    """How far a job is.

    Attributes:
        last: Number of its last event.
    """

    last: int
    state: JobState


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to start a job's process and to say how it ended.

    Attributes:
        job: As it was when it was claimed.
        by: The supervisor.
        epoch: Grows with every claim; older ones are refused.
    """

    job: Job
    by: str
    epoch: int


class ExportState(StrEnum):
    """Where an export stands: ``queued -> running -> finished | failed``."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        """Whether nothing happens to it any more."""
        return self in (ExportState.FINISHED, ExportState.FAILED)


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker that a cluster has or had.

    Attributes:
        id: Unique in the cluster.
        state: ``ready``, ``busy``, ``draining``, ``drained`` or ``lost``.
        study: What it works for, None for nothing.
        since: Since when it is in this state, ISO 8601 in UTC.
        seen: When it was last heard of.
    """

    id: str
    node: str
    host: str
    address: str
    state: str
    study: str | None
    versions: Mapping[str, Any]
    resources: Mapping[str, Any]
    since: str
    seen: str


class Role(StrEnum):
    """What a user is to the service."""

    USER = "user"
    OPERATOR = "operator"
    ADMIN = "admin"


class Scope(StrEnum):
    """What a token may be used for."""

    READ = "read"
    WRITE = "write"
    OPERATE = "operate"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who submits jobs.

    Attributes:
        weight: Share of the cluster, against other users' weights.
        max_running: Jobs at once; None for any number.
        max_gpu_hours: None for any number.
    """

    id: int
    name: str
    role: Role
    weight: float
    max_running: int | None
    max_gpu_hours: float | None


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; its secret is not.

    Attributes:
        name: Unique among the user's tokens.
        expires: ISO 8601 in UTC, None for never.
        revoked: Since when it holds no more, None while it does.
        last_used: To the minute.
    """

    user: str
    name: str
    scopes: frozenset[Scope]
    created: str
    expires: str | None
    revoked: str | None
    last_used: str | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever showed a token that holds."""

    user: User
    scopes: frozenset[Scope]
