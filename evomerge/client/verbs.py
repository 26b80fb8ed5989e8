"""What can be asked of a service, whoever answers: a database, or a cluster.

Two things implement ``Verbs``: a desk over the database, and a client over HTTP. Both
pass one class of contract tests. A job is called ``name``, or ``user/name``
where it is somebody else's; to whoever may not see it there is no such job.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from evomerge.errors import Problem
from evomerge.store.queue.values import (
    ExportState,
    Job,
    JobEvent,
    JobState,
    Role,
    Scope,
    Token,
    User,
)
from evomerge.store.queue.values import WorkerRow as WorkerRow

PAGE = 100
"""Jobs that are told at a time, if nothing else is asked for."""
MOST_JOBS = 1000
"""Jobs that are told at a time at most."""
EVENTS_PAGE = 500
"""Events that are told at a time at most."""
LOG_PAGE = 1 << 20
"""Bytes of a log that are told at a time at most."""
MAX_BODY = 12 << 20
"""Largest request in bytes: a bundle's files in base 64."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a look at a study's files found.

    Attributes:
        study: Name of the study, None if that cannot be told.
        problems: Every mistake; none if the files can be submitted.
    """

    study: str | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogPart:
    """Some of a log.

    Attributes:
        next: Byte of the log at which what follows begins.
    """

    text: bytes
    next: int


@dataclass(frozen=True, slots=True)
class ExportJob:
    """A model folder that a service writes.

    Attributes:
        id: Among the exports of its job; a text of letters and digits.
        name: The job's address, ``user/name``.
        trial: Which; None for the best of the first objective.
        is_scored: Whether it is scored on held-out items for its card.
        why: What it failed by, None if it did not.
        bytes: Of the archive to be downloaded, a plain tar without compression whose
            members are the files of the model folder; 0 before it is finished.
        fingerprint: Of the model folder's content, once it is finished.
    """

    id: str
    name: str
    trial: int | None
    is_scored: bool
    state: ExportState
    why: str | None
    bytes: int
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class Me:
    """Who asks, and who answers.

    Attributes:
        version: Of the evomerge that answers.
    """

    user: str
    role: Role
    scopes: frozenset[Scope]
    version: str


@dataclass(frozen=True, slots=True)
class NewUser:
    """A user to be added; see ``User``."""

    name: str
    role: Role = Role.USER
    weight: float = 1.0
    max_running: int | None = None
    max_gpu_hours: float | None = None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to be made for whoever asks.

    Attributes:
        lasts_s: Seconds for which it holds; None for ever.
    """

    name: str
    scopes: frozenset[Scope] = field(default_factory=frozenset)
    lasts_s: float | None = None


class Verbs(Protocol):
    """What can be asked of a service.

    Every method raises ``TokenError`` for whoever may not ask, ``JobNotFoundError``
    for a job that is not there for the caller, and ``StoreUnreachableError`` or
    ``ClusterUnreachableError`` if nobody answers now; others are named.
    """

    def me(self) -> Me:
        """Return who asks."""
        ...

    def submit(
        self,
        files: Mapping[str, bytes],
        *,
        name: str | None = None,
        priority: int = 0,
        place: Mapping[str, Any] | None = None,
    ) -> tuple[Job, bool]:
        """Queue a study; the same again changes nothing.

        Args:
            files: Relative name to content; ``study.yaml`` is the study file.
            name: Of the job; the study's if not given.
            priority: From -10 to 10; the higher goes first among one user's jobs.
            place: ``workers``: how many.

        Returns:
            The job, and whether it is new.

        Raises:
            SpecError: The files, or what is asked, are refused; says each mistake.
            JobExistsError: The name, or the study, is another job's.
        """
        ...

    def check(self, files: Mapping[str, bytes]) -> Checked:
        """Look at a study's files where they would run; nothing is queued.

        Raises:
            SpecError: They are no bundle.
        """
        ...

    def jobs(
        self,
        *,
        states: Collection[JobState] = (),
        user: str | None = None,
        filters: Mapping[str, str] | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> Sequence[Job]:
        """Return jobs, oldest first: one's own; of an operator, everybody's.

        Args:
            states: Only those in one of these; any if empty.
            user: Only this one's.
            filters: Only those that ``evomerge.client.values.matches``.
            after: Address of the job after which to go on.
            limit: At most so many, and at most ``MOST_JOBS``.
        """
        ...

    def job(self, name: str) -> Job:
        """Return a job."""
        ...

    def cancel(self, name: str) -> Job:
        """Want a job ended; idempotent.

        Raises:
            JobStateError: It has finished or failed.
        """
        ...

    def pause(self, name: str) -> Job:
        """Want a job to stop until it is resumed; idempotent.

        Raises:
            JobStateError: It has ended.
        """
        ...

    def resume(
        self,
        name: str,
        *,
        budget: Mapping[str, float] | None = None,
        priority: int | None = None,
    ) -> Job:
        """Want a job to run, with a larger budget or another priority if given.

        Args:
            name: Of the job.
            budget: ``trials``, ``items``, ``minutes``, for the whole study. A finished
                job goes on only with more.
            priority: As for ``submit``.

        Raises:
            JobStateError: It cannot be resumed in its state.
            SpecError: A budget is smaller than before, or no budget.
        """
        ...

    def scale(self, name: str, workers: int) -> Job:
        """Want another number of workers for a job that has not ended.

        Of one that runs, workers come or go within seconds; those at work first end
        what they were handed.

        Raises:
            JobStateError: It has ended.
            SpecError: It is no number of workers, or more than are allowed.
        """
        ...

    def delete(self, name: str) -> None:
        """Forget a job that has ended, with its study, log and exports.

        Raises:
            JobStateError: It has not ended.
        """
        ...

    def status(self, name: str) -> Any:
        """Return what ``evomerge status --json`` prints of a job's study.

        Raises:
            StudyNotFoundError: The job has not begun.
        """
        ...

    def front(self, name: str) -> Any:
        """Return what ``evomerge front --json`` prints; see ``status``."""
        ...

    def trials(self, name: str) -> Any:
        """Return what ``evomerge trials --json`` prints; see ``status``."""
        ...

    def attempts(self, name: str) -> Any:
        """Return what ``evomerge attempts --json`` prints; see ``status``."""
        ...

    def events(
        self, name: str, after: int = 0, limit: int = EVENTS_PAGE
    ) -> Sequence[JobEvent]:
        """Return a job's events after a number, in order; none is ever skipped."""
        ...

    def follow_events(self, name: str, after: int = 0) -> Iterator[JobEvent]:
        """Yield a job's events as they happen, until it is paused or has ended."""
        ...

    def log(self, name: str, after: int = 0) -> LogPart:
        """Return a job's log from a byte on, at most ``LOG_PAGE`` bytes of it."""
        ...

    def follow_log(self, name: str, after: int = 0) -> Iterator[LogPart]:
        """Yield a job's log as it grows, until the job is paused or has ended."""
        ...

    def export(
        self, name: str, trial: int | None = None, *, is_scored: bool = True
    ) -> ExportJob:
        """Ask for a trial to be written as a model folder; the same again is the same.

        Args:
            name: Of the job.
            trial: Which; the best of the first objective if not given.
            is_scored: Score it and the baselines on held-out items for its card.
        """
        ...

    def export_state(self, name: str, id: str) -> ExportJob:
        """Return how an export stands.

        Raises:
            JobNotFoundError: There is no such export.
        """
        ...

    def download(
        self,
        name: str,
        id: str,
        folder: Path,
    ) -> Path:
        """Fetch a finished export into a new folder, which is whole or absent.

        Returns:
            The folder.

        Raises:
            ExportError: It is not finished, or does not hold what its card says.
        """
        ...

    def workers(self) -> Sequence[WorkerRow]:
        """Return the workers of the cluster."""
        ...

    def drain_worker(self, id: str) -> WorkerRow:
        """Let a worker end what it was handed, and its study do with one fewer.

        That holds until it is let back, or its node is gone; idempotent; for operators.

        Raises:
            WorkerNotFoundError: None of this name is at work.
        """
        ...

    def undrain_worker(self, id: str) -> None:
        """Let a drained worker's place be taken again; idempotent; for operators.

        Raises:
            WorkerNotFoundError: There is none of this name.
        """
        ...

    def tokens(self) -> Sequence[Token]:
        """Return one's own tokens, oldest first; never their secrets."""
        ...

    def add_token(self, new: NewToken) -> str:
        """Make a token for oneself; its scopes are among those of the one shown.

        Returns:
            Its secret, which nobody can be shown again.

        Raises:
            UserError: There is one of this name.
        """
        ...

    def revoke_token(self, name: str) -> None:
        """Make one of one's own tokens hold no more; idempotent.

        Raises:
            UserError: There is none of this name.
        """
        ...

    def users(self) -> Sequence[User]:
        """Return every user; for admins."""
        ...

    def add_user(self, new: NewUser) -> User:
        """Add a user; for admins.

        Raises:
            UserError: There is one of this name.
            SpecError: A value is not what is expected.
        """
        ...
