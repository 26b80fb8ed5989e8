"""The queue of jobs in an SQL database: one method, one transaction.

Owners submit jobs and say what they want of them; supervisors claim jobs, start their
processes and say how those ended. Whatever is said is a row, and outlives whoever said
it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evomerge.store.databases.database import Database
from evomerge.store.queue import claims, gpu_hours, jobs
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.ending import ProcessEnd
from evomerge.store.queue.submission import Submission
from evomerge.store.queue.values import (
    Claim,
    Head,
    Job,
    JobEvent,
    JobState,
    Wanted,
)

_ROUNDS = 3


class JobQueue:
    """Jobs, from submission to their end.

    A queue is one thread's at a time; each thread opens its own. Users and jobs are
    called by their names; a job's name is unique among its user's.

    Args:
        database: An open one; the queue closes it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"JobQueue({self._database.shown!r})"

    def close(self) -> None:
        """Close the database; idempotent."""
        self._database.close()

    def check(self) -> None:
        """Make sure that the database is still of this evomerge's schema.

        Raises:
            SchemaError: It is not.
        """
        self._database.check()

    def submit(self, user: str, submission: Submission) -> tuple[Job, bool]:
        """Queue a user's job; the same again changes nothing.

        Returns:
            The job, and whether it is new.

        Raises:
            JobExistsError: The user has a job of this name with other content, or the
                study is another job's.
            UserError: There is no such user.
        """
        with self._database.writing() as connection:
            return jobs.submit(connection, user, submission)

    def get(self, user: str, name: str) -> Job:
        """Return a user's job.

        Raises:
            JobNotFoundError: There is none of this name.
        """
        with self._database.reading() as connection:
            return jobs.find(connection, user, name)

    def jobs(
        self,
        user: str | None = None,
        states: Sequence[JobState] = (),
        after: tuple[str, str] | None = None,
        limit: int = 100,
    ) -> Sequence[Job]:
        """Return jobs, oldest first.

        Args:
            user: Whose; None for everybody's.
            states: Only those in one of these; any if empty.
            after: User and name of the job after which to go on.
            limit: At most so many.

        Raises:
            JobNotFoundError: There is no job ``after``.
        """
        with self._database.reading() as connection:
            return jobs.select(connection, user, states, after, limit)

    def bundle(self, job: Job) -> Bundle:
        """Return a job's files."""
        with self._database.reading() as connection:
            return jobs.bundle_of(connection, job.bundle_digest)

    def want(self, user: str, name: str, wanted: Wanted) -> Job:
        """Record what a job's owner wants of it; idempotent.

        A job that no supervisor has is paused, cancelled or queued at once; of another
        its supervisor learns with its next beat.

        Raises:
            JobNotFoundError: There is none of this name.
            JobStateError: It cannot be done to a job in its state.
        """
        with self._database.writing() as connection:
            return jobs.want(connection, user, name, wanted)

    def resume(
        self,
        user: str,
        name: str,
        *,
        budget: Mapping[str, float] | None = None,
        priority: int | None = None,
    ) -> Job:
        """Want a job to run, with a larger budget or another priority if given.

        Args:
            user: Its owner.
            name: Of the job.
            budget: ``trials``, ``items``, ``minutes``, for the whole study. A finished
                job goes on only with more.
            priority: As in ``Submission``.

        Raises:
            JobNotFoundError: There is none of this name.
            JobStateError: It cannot be resumed in its state.
            SpecError: A budget is smaller than before, or no budget.
        """
        with self._database.writing() as connection:
            return jobs.resume(connection, user, name, budget or {}, priority)

    def scale(self, user: str, name: str, workers: int) -> Job:
        """Want another number of workers; its coordinator learns of it in seconds.

        Raises:
            JobNotFoundError: There is none of this name.
            JobStateError: It has ended.
            SpecError: It is no number of workers.
        """
        with self._database.writing() as connection:
            return jobs.scale(connection, user, name, workers)

    def delete(self, user: str, name: str) -> None:
        """Forget a job that has ended, with its events; not the study.

        Raises:
            JobNotFoundError: There is none of this name.
            JobStateError: It has not ended.
        """
        with self._database.writing() as connection:
            jobs.delete(connection, user, name)

    def heads(self, ids: Collection[int]) -> Mapping[int, Head]:
        """Return how far jobs are, by their keys; those that are gone are left out."""
        with self._database.reading() as connection:
            return jobs.heads(connection, ids)

    def claim(self, by: str) -> Claim | None:
        """Claim the job whose turn it is; None if none is due, or others were faster.

        Args:
            by: Names the supervisor, and nobody else.
        """
        for _ in range(_ROUNDS):
            try:
                with self._database.writing() as connection:
                    return claims.take(connection, by)
            except claims.OverLimitError:
                continue
        return None

    def beat(self, claim: Claim) -> JobState:
        """Prolong a claim; return the job's state, which says what is wanted.

        Raises:
            ClaimLostError: The job is another's now, or ended.
        """
        with self._database.writing() as connection:
            return claims.beat(connection, claim)

    def started(self, claim: Claim) -> JobState:
        """Record that a job's process runs; return the job's state.

        Raises:
            ClaimLostError: The job is another's now, or ended.
        """
        with self._database.writing() as connection:
            return claims.started(connection, claim)

    def ended(self, claim: Claim, end: ProcessEnd) -> Job:
        """Record how a job's process ended; return the job with what becomes of it.

        Raises:
            ClaimLostError: The job is another's now, or ended.
        """
        with self._database.writing() as connection:
            return claims.ended(connection, claim, end)

    def release(self, claim: Claim) -> Job:
        """Give back a claim whose process was never started.

        Raises:
            ClaimLostError: The job is another's now, or ended.
        """
        with self._database.writing() as connection:
            return claims.release(connection, claim)

    def give_back(self, by: str, known: Collection[int]) -> None:
        """Release what a supervisor has without knowing: the answer to it was lost.

        Args:
            by: The supervisor, which calls this.
            known: Keys of the jobs it knows of.
        """
        with self._database.writing() as connection:
            claims.give_back(connection, by, known)

    def is_recorded(self, study: str) -> bool:
        """Tell whether a study of this name is in the database: its first run began."""
        with self._database.reading() as connection:
            return jobs.is_recorded(connection, study)

    def sweep(self) -> Sequence[Job]:
        """Free the jobs of supervisors that are gone; any supervisor may do it."""
        with self._database.writing() as connection:
            return claims.sweep(connection)

    def pause_beyond(self) -> None:
        """Pause jobs of users whose GPU-hours are used; any supervisor may do it."""
        with self._database.writing() as connection:
            claims.pause_beyond(connection)

    def gpu_hours(self, user: str) -> float:
        """Return the GPU-hours that a user's studies have used."""
        with self._database.reading() as connection:
            return gpu_hours.used(connection, user)

    def record(self, user: str, name: str, kind: str, data: Mapping[str, Any]) -> None:
        """Add an event to a job.

        Raises:
            JobNotFoundError: There is none of this name.
        """
        with self._database.writing() as connection:
            found = jobs.find(connection, user, name, locked=True)
            jobs.record_event(connection, found.id, kind, data)

    def events(
        self, user: str, name: str, after: int = 0, limit: int = 500
    ) -> Sequence[JobEvent]:
        """Return a job's events after a number, in order; none is ever skipped.

        Raises:
            JobNotFoundError: There is none of this name.
        """
        with self._database.reading() as connection:
            found = jobs.find(connection, user, name)
            return jobs.events(connection, found.id, after, limit)


def open_queue(url: str, *, create: bool = True) -> JobQueue:
    """Open the queue in the database behind a URL; see ``open_store``."""
    return JobQueue(Database(url, create=create))
