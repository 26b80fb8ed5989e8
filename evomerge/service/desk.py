"""The verbs of a service over its database, for one who asks.

Routes of the HTTP service call it, and so do commands on the machine that has the
database. Whoever asks sees their own jobs; operators and admins see everybody's.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge import __version__
from evomerge.api import housekeeping
from evomerge.api.plain import plain
from evomerge.api.results import progress, reading
from evomerge.client.downloads import Archive, unpack
from evomerge.client.values import matches
from evomerge.client.verbs import (
    EVENTS_PAGE,
    LOG_PAGE,
    MOST_JOBS,
    PAGE,
    Checked,
    ExportJob,
    LogPart,
    Me,
    NewToken,
    NewUser,
    WorkerRow,
)
from evomerge.errors import (
    ExportError,
    ForbiddenError,
    JobNotFoundError,
    JobStateError,
    Problem,
    SpecError,
    StudyNotFoundError,
)
from evomerge.service import resolving
from evomerge.service.exporter import archive_of
from evomerge.service.records import Records
from evomerge.service.supervisor import LOG, Site
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.exports import Order
from evomerge.store.queue.submission import Submission
from evomerge.store.queue.values import (
    Caller,
    ExportState,
    Job,
    JobEvent,
    JobState,
    Role,
    Scope,
    Token,
    User,
    Wanted,
)

FOLLOW_S = 0.5
"""How often somebody who follows is told what is new."""


class Desk:
    """``Verbs`` for one caller, over the database.

    One thread's at a time, as its records are.

    Args:
        records: Of the database at ``site.url``.
        site: Where jobs run, and leave their logs.
        caller: Who asks.
    """

    def __init__(self, records: Records, site: Site, caller: Caller) -> None:
        self._queue = records.queue
        self._accounts = records.accounts
        self._exports = records.exports
        self._workers = records.workers
        self._site = site
        self._caller = caller

    def me(self) -> Me:
        """Return who asks."""
        user = self._caller.user
        return Me(user.name, user.role, self._caller.scopes, __version__)

    def submit(
        self,
        files: Mapping[str, bytes],
        *,
        name: str | None = None,
        priority: int = 0,
        place: Mapping[str, Any] | None = None,
    ) -> tuple[Job, bool]:
        """Queue a study; see ``Verbs``."""
        self._need(Scope.WRITE)
        bundle = Bundle(files)
        seen = resolving.look_at_words(files, self._site.policy)
        if seen.study is None or seen.problems:
            raise SpecError(seen.problems)
        wanted = Submission(
            name or seen.study, seen.study, bundle, priority, place or {}
        )
        return self._queue.submit(self._caller.user.name, wanted)

    def check(self, files: Mapping[str, bytes]) -> Checked:
        """Look at a study's files; see ``Verbs``."""
        self.may_check()
        return look(files, self._site)

    def jobs(
        self,
        *,
        states: Collection[JobState] = (),
        user: str | None = None,
        filters: Mapping[str, str] | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> Sequence[Job]:
        """Return jobs, oldest first; see ``Verbs``."""
        self._need(Scope.READ)
        whose = user if self._sees_all else self._caller.user.name
        if user is not None and user != whose:
            return []
        if limit < 1 or not filters:
            return self._queue.jobs(
                whose, tuple(states), self._place(after), min(limit, MOST_JOBS)
            )
        found: list[Job] = []
        last = self._place(after)
        while len(found) < min(limit, MOST_JOBS):
            page = self._queue.jobs(whose, tuple(states), last, MOST_JOBS)
            found += [job for job in page if matches(job, filters)]
            if len(page) < MOST_JOBS:
                break
            last = page[-1].user, page[-1].name
        return found[: min(limit, MOST_JOBS)]

    def job(self, name: str) -> Job:
        """Return a job."""
        self._need(Scope.READ)
        return self._queue.get(*self._address(name))

    def cancel(self, name: str) -> Job:
        """Want a job ended; idempotent."""
        return self._queue.want(*self._to_change(name), Wanted.CANCEL)

    def pause(self, name: str) -> Job:
        """Want a job to stop until it is resumed; idempotent."""
        return self._queue.want(*self._to_change(name), Wanted.PAUSE)

    def resume(
        self,
        name: str,
        *,
        budget: Mapping[str, float] | None = None,
        priority: int | None = None,
    ) -> Job:
        """Want a job to run; see ``Verbs``."""
        address = self._to_change(name)
        return self._queue.resume(*address, budget=budget, priority=priority)

    def scale(self, name: str, workers: int) -> Job:
        """Want another number of workers; see ``Verbs``."""
        policy = self._site.policy
        most = None if policy is None else policy.max_workers
        if most is not None and workers > most:
            said = f"expected at most {most} here, got {workers}"
            raise SpecError([Problem("place.workers", said)])
        return self._queue.scale(*self._to_change(name), workers)

    def delete(self, name: str) -> None:
        """Forget a job that has ended; see ``Verbs``."""
        address = self._to_change(name)
        job = self._queue.get(*address)
        if not job.state.is_final:
            raise JobStateError(
                f"Job {job.name!r} is {job.state}; only one that has ended can be "
                "deleted. Cancel it first."
            )
        if not self._sees_all and self._queue.gpu_hours(job.user) > 0:
            raise ForbiddenError(
                "The GPU-hours of a study count after it has ended; an operator can "
                f"delete {job.address}."
            )
        # It never began, or an earlier deletion was cut short.
        with suppress(StudyNotFoundError):
            housekeeping.delete(job.study, db=self._site.url)
        self._queue.delete(*address)
        shutil.rmtree(self._site.folder(job), ignore_errors=True)

    def status(self, name: str) -> Any:
        """Return what ``evomerge status --json`` prints of a job's study."""
        study = self.job(name).study
        if stages := progress.stages(study, db=self._site.url):
            return plain(stages)
        return plain(reading.status(study, db=self._site.url))

    def front(self, name: str) -> Any:
        """Return what ``evomerge front --json`` prints."""
        return plain(reading.front(self.job(name).study, db=self._site.url))

    def trials(self, name: str) -> Any:
        """Return what ``evomerge trials --json`` prints."""
        return plain(reading.trials(self.job(name).study, db=self._site.url))

    def attempts(self, name: str) -> Any:
        """Return what ``evomerge attempts --json`` prints."""
        return plain(housekeeping.attempts(self.job(name).study, db=self._site.url))

    def events(
        self, name: str, after: int = 0, limit: int = EVENTS_PAGE
    ) -> Sequence[JobEvent]:
        """Return a job's events after a number, in order; none is ever skipped."""
        self._need(Scope.READ)
        return self._queue.events(*self._address(name), after, min(limit, EVENTS_PAGE))

    def follow_events(self, name: str, after: int = 0) -> Iterator[JobEvent]:
        """Yield a job's events as they happen, until it is paused or has ended."""
        while True:
            is_still = is_at_rest(self.job(name))
            found = self.events(name, after)
            yield from found
            if found:
                after = found[-1].number
            elif is_still:
                return
            else:
                time.sleep(FOLLOW_S)

    def log(self, name: str, after: int = 0) -> LogPart:
        """Return a job's log from a byte on, at most ``LOG_PAGE`` bytes of it."""
        return read_log(self._site.folder(self.job(name)) / LOG, after)

    def follow_log(self, name: str, after: int = 0) -> Iterator[LogPart]:
        """Yield a job's log as it grows, until the job is paused or has ended."""
        while True:
            is_still = is_at_rest(self.job(name))
            part = self.log(name, after)
            after = part.next
            if part.text:
                yield part
            elif is_still:
                return
            else:
                time.sleep(FOLLOW_S)

    def export(
        self, name: str, trial: int | None = None, *, is_scored: bool = True
    ) -> ExportJob:
        """Ask for a trial to be written as a model folder; see ``Verbs``."""
        address = self._to_change(name)
        return exported(self._exports.ask(*address, trial, is_scored))

    def exports(self, name: str) -> Sequence[ExportJob]:
        """Return the exports of a job, oldest first."""
        self._need(Scope.READ)
        return [exported(o) for o in self._exports.of_job(*self._address(name))]

    def export_state(self, name: str, id: str) -> ExportJob:
        """Return how an export stands."""
        return exported(self._order(name, id))

    def archive(self, name: str, id: str) -> Path:
        """Return the archive of a finished export.

        Raises:
            ExportError: It is not finished.
        """
        order = self._order(name, id)
        if order.state is not ExportState.FINISHED:
            why = f": {order.why}" if order.why else ""
            raise ExportError(f"Export {id} of {name} is {order.state}{why}.")
        archive = archive_of(self._site, order)
        if not archive.is_file():
            raise ExportError(
                f"The archive of export {id} of {name} is not in the spool folder of "
                "this service. All services of a database share that folder."
            )
        return archive

    def download(
        self,
        name: str,
        id: str,
        folder: Path,
        *,
        replaced: bool = False,
    ) -> Path:
        """Unpack a finished export into a new folder; see ``Verbs``."""
        archive, order = self.archive(name, id), self._order(name, id)
        known = Archive(id, order.size_bytes, order.fingerprint)
        with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as work:
            link = Path(work) / "model.tar"
            link.symlink_to(archive)  # one that is refused is removed
            return unpack(link, folder, known, replaced=replaced)

    def workers(self) -> Sequence[WorkerRow]:
        """Return the workers of the cluster."""
        self._need(Scope.READ)
        return [
            one if self._sees_all else replace(one, study=None)
            for one in self._workers.all()
        ]

    def drain_worker(self, id: str) -> WorkerRow:
        """Let a worker end what it was handed, and get no more; see ``Verbs``."""
        self.may_operate()
        return self._workers.drain(id)

    def undrain_worker(self, id: str) -> None:
        """Let a drained worker's place be taken again; see ``Verbs``."""
        self.may_operate()
        self._workers.undrain(id)

    def tokens(self) -> Sequence[Token]:
        """Return one's own tokens, oldest first; never their secrets."""
        self._need(Scope.READ)
        return self._accounts.tokens(self._caller.user.name)

    def add_token(self, new: NewToken) -> str:
        """Make a token for oneself; see ``Verbs``."""
        self._need(Scope.WRITE)
        if more := new.scopes - self._caller.scopes:
            words = ", ".join(sorted(more))
            raise ForbiddenError(f"The token shown does not have the scopes {words}.")
        owner = self._caller.user.name
        return self._accounts.add_token(owner, new.name, new.scopes, new.lasts_s)

    def revoke_token(self, name: str) -> None:
        """Make one of one's own tokens hold no more; idempotent."""
        self._need(Scope.WRITE)
        self._accounts.revoke(self._caller.user.name, name)

    def users(self) -> Sequence[User]:
        """Return every user; for admins."""
        self._need(Scope.READ, Role.ADMIN)
        return self._accounts.users()

    def add_user(self, new: NewUser) -> User:
        """Add a user; for admins."""
        self._need(Scope.OPERATE, Role.ADMIN)
        return self._accounts.add_user(
            new.name,
            new.role,
            weight=new.weight,
            max_running=new.max_running,
            max_gpu_hours=new.max_gpu_hours,
        )

    def may_check(self) -> None:
        """Refuse who may not have files looked at.

        Raises:
            ForbiddenError: The token has not the scope.
        """
        self._need(Scope.READ)

    def may_operate(self) -> None:
        """Refuse who may not operate the service.

        Raises:
            ForbiddenError: Neither operator nor admin, or without the scope.
        """
        self._need(Scope.OPERATE, Role.OPERATOR)

    @property
    def _sees_all(self) -> bool:
        return self._caller.user.role in _ABOVE[Role.OPERATOR]

    def _need(self, scope: Scope, role: Role = Role.USER) -> None:
        if scope not in self._caller.scopes:
            raise ForbiddenError(f"This needs a token with the scope {scope.value!r}.")
        if self._caller.user.role not in _ABOVE[role]:
            raise ForbiddenError(f"This is for users with the role {role.value!r}.")

    def _address(self, name: str) -> tuple[str, str]:
        """Return user and name of a job that the caller may see."""
        user, slash, own = name.partition("/")
        if not slash:
            return self._caller.user.name, name
        if user != self._caller.user.name and not self._sees_all:
            raise JobNotFoundError(f"You have no job named {name!r:.80}.")
        return user, own

    def _to_change(self, name: str) -> tuple[str, str]:
        """Return user and name of a job that the caller may change."""
        self._need(Scope.WRITE)
        user, own = self._address(name)
        if user != self._caller.user.name:
            self._need(Scope.OPERATE)
        return user, own

    def _order(self, name: str, id: str) -> Order:
        self._need(Scope.READ)
        user, own = self._address(name)
        if not (id.isascii() and id.isdecimal() and len(id) < 10):
            raise JobNotFoundError(f"Job {own!r} has no export {id!r:.80}.")
        return self._exports.get(user, own, int(id))

    def _place(self, after: str | None) -> tuple[str, str] | None:
        return None if after is None else self._address(after)


_ABOVE = {
    Role.USER: (Role.USER, Role.OPERATOR, Role.ADMIN),
    Role.OPERATOR: (Role.OPERATOR, Role.ADMIN),
    Role.ADMIN: (Role.ADMIN,),
}


def look(files: Mapping[str, bytes], site: Site) -> Checked:
    """Look at files as they would run; takes seconds, and needs no database.

    Raises:
        SpecError: They are no bundle.
        ClusterUnreachableError: Too many others are looked at.
    """
    cache = site.spool / "cache"
    known = Bundle(files).files
    found = resolving.check(known, site.policy, cache=cache)
    if found.study is not None:
        return found
    return replace(found, study=resolving.look_at_words(known, site.policy).study)


def exported(order: Order) -> ExportJob:
    """Return an export as it is told."""
    return ExportJob(
        id=str(order.number),
        name=order.job.address,
        trial=order.trial,
        is_scored=order.is_scored,
        state=order.state,
        why=order.why,
        bytes=order.size_bytes,
        fingerprint=order.fingerprint,
    )


def is_at_rest(job: Job) -> bool:
    """Tell whether nothing happens to a job before somebody asks for it."""
    return job.state.is_final or job.state is JobState.PAUSED


def read_log(file: Path, after: int) -> LogPart:
    """Read a log from a byte on; one that is not there yet is empty."""
    try:
        with file.open("rb") as log:
            log.seek(after)
            text = log.read(LOG_PAGE)
    except FileNotFoundError:
        return LogPart(b"", after)
    return LogPart(text, after + len(text))
