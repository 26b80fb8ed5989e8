"""The store in an SQL database: one method, one transaction.

Longer than other modules, because it is the whole protocol with hardly a line a method.
What a method does stands in ``studies``, ``trials`` and ``outcomes``; here is only
where its transaction begins and ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from evomerge.core.recipes.recipe import Recipe
from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import BlockKey, Outcome, TaskDescription
from evomerge.core.trial import Candidate, Precision, Record, Trial
from evomerge.core.work import Wishes
from evomerge.errors import StudyLockedError
from evomerge.store import crew, generations, leases, parts, studies, trials
from evomerge.store import outcomes as known
from evomerge.store.audit.audit import audit
from evomerge.store.base import Store
from evomerge.store.databases.database import Database
from evomerge.store.deletion import delete, deletion, restart
from evomerge.store.leases import check_lease
from evomerge.store.queue import gpu_hours
from evomerge.store.studies import overview, size
from evomerge.store.tables import rows
from evomerge.store.tables.dialects import NOW, insert_absent
from evomerge.store.tables.schema import artifact, event
from evomerge.store.values import (
    Artifact,
    Attempt,
    CrewMember,
    Deleted,
    Ending,
    Event,
    Fault,
    Generation,
    Lease,
    Overview,
    Owner,
    Part,
    Report,
    Size,
    StoredStudy,
    Usage,
)

_KEPT_RECIPES = 1024
_REMEMBER = sa.insert(event).values(at=NOW)


def open_store(url: str, *, create: bool = True) -> Store:
    """Open the database behind a URL, for example ``sqlite:///evomerge.db``.

    Args:
        url: SQLAlchemy's form; three slashes for a relative path, four for an
            absolute one.
        create: Make the file if it does not exist.

    Raises:
        StoreError: The URL, folder or file cannot be used; says why.
        SchemaError: The file is no database, not ours, or of another version.
    """
    return SqlStore(Database(url, create=create))


class SqlStore:
    """A ``Store`` over SQLAlchemy Core; see the protocol for what it promises."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # All three are immutable once recorded, so remembering them is safe.
        self._tasks: dict[Lease, list[TaskDescription]] = {}  # every worker says them
        self._recipes: dict[str, Recipe] = {}
        self._blocks: dict[tuple[int, BlockKey], known.BlockFacts] = {}
        self._known = known.KnownItems()

    def __repr__(self) -> str:
        return f"SqlStore({self._database.shown!r})"

    def create_study(
        self,
        name: str,
        config: Mapping[str, Any],
        allowance: Mapping[str, Any],
        seed: int,
    ) -> StoredStudy:
        """Record a new study."""
        with self._database.writing() as connection:
            return studies.create(connection, name, config, allowance, seed)

    def study(self, name: str) -> StoredStudy:
        """Return the study of this name."""
        with self._database.reading() as connection:
            return studies.find(connection, name)

    def studies(self) -> Sequence[StoredStudy]:
        """Return every study, oldest first."""
        with self._database.reading() as connection:
            return studies.every(connection)

    def lease(self, study_id: int, owner: Owner, ttl_s: float) -> Lease:
        """Become the study's coordinator."""
        with self._database.writing() as connection:
            taken = leases.take(connection, study_id, owner, ttl_s)
        if isinstance(taken, StudyLockedError):
            raise taken
        return taken

    def renew(self, lease: Lease, spent_s: float) -> None:
        """Prolong the lease and add wall seconds spent since the last call."""
        with self._database.writing() as connection:
            leases.renew(connection, lease, spent_s)

    def release(self, lease: Lease) -> None:
        """Give the lease back; a lease already lost is no error."""
        with self._database.writing() as connection:
            leases.release(connection, lease)

    def set_allowance(self, lease: Lease, allowance: Mapping[str, Any]) -> None:
        """Record what this run is allowed."""
        text = rows.to_text("A study's allowance", dict(allowance))
        with self._database.writing() as connection:
            leases.change(connection, lease, allowance=text)

    def restart(
        self,
        lease: Lease,
        config: Mapping[str, Any],
        allowance: Mapping[str, Any],
        seed: int,
    ) -> None:
        """Give a study that never had a worker another configuration."""
        with self._database.writing() as connection:
            restart(connection, lease, config, allowance, seed)

    def set_finished(self, lease: Lease, reason: str | None) -> None:
        """Record that the search ended, or (None) that it goes on."""
        with self._database.writing() as connection:
            leases.change(connection, lease, finished=reason)

    def record_tasks(self, lease: Lease, tasks: Sequence[TaskDescription]) -> None:
        """Record the study's manifests and protocols, once."""
        same = self._tasks.get(lease)
        with self._database.writing() as connection:
            if same is not None and list(tasks) == same:
                check_lease(connection, lease)
            else:
                studies.record_tasks(connection, lease, tasks)
        self._tasks = {lease: list(tasks)}

    def tasks(self, study_id: int) -> Sequence[TaskDescription] | None:
        """Return the recorded manifests and protocols, None before the first worker."""
        with self._database.reading() as connection:
            return studies.tasks_of(connection, study_id)

    def add_generation(
        self,
        lease: Lease,
        number: int,
        candidates: Sequence[Candidate],
        memory: Mapping[str, Any],
        note: str | None,
        sample: Sample | None = None,
    ) -> Sequence[Trial]:
        """Record a generation and its pending trials, before anything is sent."""
        new = Generation(number, len(candidates), memory, note, sample)
        with self._database.writing() as connection:
            first = generations.add(connection, lease, new, candidates)
        return [Trial(first + i, candidate) for i, candidate in enumerate(candidates)]

    def extend_generation(
        self, lease: Lease, number: int, candidates: Sequence[Candidate]
    ) -> Sequence[Trial]:
        """Add pending trials to the last generation, which a budget had cut short."""
        with self._database.writing() as connection:
            first = generations.extend(connection, lease, number, candidates)
        return [Trial(first + i, candidate) for i, candidate in enumerate(candidates)]

    def generations(self, study_id: int) -> Sequence[Generation]:
        """Return the recorded generations, in order."""
        with self._database.reading() as connection:
            return generations.every(connection, study_id)

    def trials(self, study_id: int, generation: int | None = None) -> Sequence[Trial]:
        """Return the trials of one generation, or all, by number."""
        with self._database.reading() as connection:
            found = trials.select(connection, study_id, generation)
        return [self._trial(row) for row in found]

    def history(self, study_id: int, generation: int | None = None) -> Sequence[Record]:
        """Return the trials of one generation, or all, without their recipes."""
        with self._database.reading() as connection:
            found = trials.history(connection, study_id, generation)
        return [rows.record_of(row) for row in found]

    def trial(self, study_id: int, number: int) -> Trial:
        """Return one trial."""
        with self._database.reading() as connection:
            found = trials.select(connection, study_id, number=number)
            if not found:
                raise trials.missing(connection, study_id, number)
        return self._trial(found[0])

    def start_attempt(self, lease: Lease, number: int, worker: str) -> int:
        """Make a pending trial running and return its new attempt number."""
        with self._database.writing() as connection:
            return trials.start_attempt(connection, lease, number, worker)

    def record(self, lease: Lease, number: int, attempt: int, report: Report) -> None:
        """Record what came of a running attempt: blocks, parts that ended or began."""
        found = [
            (self._facts(lease.study_id, block), outcomes)
            for block, outcomes in report.blocks.items()
        ]
        with self._database.writing() as connection:
            row = trials.check_running(connection, lease, number, attempt)
            added = known.record(connection, lease, row, found, self._known)
            parts.move(connection, lease, (number, attempt), report)
        for new in added:
            self._known.learn(new)

    def end_attempt(
        self,
        lease: Lease,
        number: int,
        attempt: int,
        ending: Ending,
    ) -> None:
        """Move a running trial to a final state, or back to pending."""
        with self._database.writing() as connection:
            recipe = trials.end_attempt(connection, lease, number, attempt, ending)
        self._known.forget(recipe)

    def parts(self, study_id: int, number: int | None = None) -> Sequence[Part]:
        """Return the parts of the attempts at one trial, or at all, oldest first."""
        with self._database.reading() as connection:
            found = parts.of_trial(connection, study_id, number)
        return [rows.part_of(row) for row in found]

    def reuse(
        self,
        lease: Lease,
        number: int,
        scores: Mapping[str, float],
        precision: Precision | None = None,
    ) -> None:
        """Make a pending trial scored from outcomes that were already known."""
        with self._database.writing() as connection:
            trials.reuse(connection, lease, number, scores, precision)

    def recover(self, lease: Lease) -> Sequence[int]:
        """Make every running trial pending again (a coordinator died); list them."""
        with self._database.writing() as connection:
            running = trials.recover(connection, lease)
            if running:
                parts.interrupt(connection, lease)
            return running

    def outcomes(
        self, recipe_digest: str, protocol_digest: str
    ) -> Mapping[str, Outcome]:
        """Return every known outcome of a recipe under a protocol, by item id."""
        return self.outcomes_under(recipe_digest, (protocol_digest,))[protocol_digest]

    def outcomes_under(
        self, recipe_digest: str, protocol_digests: Iterable[str]
    ) -> Mapping[str, Mapping[str, Outcome]]:
        """Return a recipe's known outcomes by protocol, then by item id."""
        with self._database.reading() as connection:
            return known.find(connection, recipe_digest, protocol_digests)

    def add_outcomes(
        self,
        recipe_digest: str,
        protocol_digest: str,
        outcomes: Sequence[Outcome],
    ) -> None:
        """Record outcomes outside any trial (held-out items), if absent; no lease."""
        with self._database.writing() as connection:
            place = (recipe_digest, protocol_digest)
            added = known.add(connection, place, outcomes, self._known)
        if added is not None:
            self._known.learn(added)

    def usage(self, study_id: int) -> Usage:
        """Return what counts against the budget; cost does not grow with the study."""
        with self._database.reading() as connection:
            return studies.usage(connection, study_id)

    def record_crew(self, lease: Lease, members: Sequence[CrewMember]) -> None:
        """Say who works for the study now; whoever did before does not any more."""
        with self._database.writing() as connection:
            crew.record(connection, lease, members)

    def wishes(self, study_id: int) -> Wishes:
        """Return what is wanted of the study's workers from elsewhere."""
        with self._database.reading() as connection:
            wishes = crew.wishes(connection, study_id)
            return replace(wishes, gpu_time=gpu_hours.left(connection, study_id))

    def add_event(self, study_id: int, kind: str, data: Mapping[str, Any]) -> None:
        """Remember something; no lease."""
        text = rows.to_text("An event", dict(data))
        row = {"study_id": study_id, "kind": kind, "data": text}
        with self._database.writing() as connection:
            connection.execute(_REMEMBER, row)

    def events(self, study_id: int, kind: str | None = None) -> Sequence[Event]:
        """Return what was remembered, oldest first."""
        query = sa.select(event).where(event.c.study_id == study_id)
        if kind is not None:
            query = query.where(event.c.kind == kind)
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(event.c.id))
            return [rows.event_of(row) for row in found]

    def add_artifact(self, study_id: int, number: int, path: str, digest: str) -> None:
        """Remember a model written from a trial, if absent; no lease."""
        row = {"study_id": study_id, "trial": number, "path": path, "digest": digest}
        with self._database.writing() as connection:
            insert_absent(connection, artifact, row)

    def artifacts(self, study_id: int) -> Sequence[Artifact]:
        """Return the models written from this study, oldest first."""
        query = sa.select(artifact).where(artifact.c.study_id == study_id)
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(artifact.c.id))
            return [rows.artifact_of(row) for row in found]

    def attempts(self, study_id: int, number: int | None = None) -> Sequence[Attempt]:
        """Return the attempts at one trial, or at all, oldest first."""
        with self._database.reading() as connection:
            found = trials.attempts_of(connection, study_id, number)
        return [rows.attempt_of(row) for row in found]

    def overview(self, study_id: int | None = None) -> Sequence[Overview]:
        """Return every study, or one, at a glance, oldest first."""
        with self._database.reading() as connection:
            return overview(connection, study_id)

    def size(self) -> Size:
        """Return how much the database holds."""
        with self._database.reading() as connection:
            return size(connection)

    def deletion(self, study_id: int) -> Deleted:
        """Return what ``delete`` would remove now; nothing is changed."""
        with self._database.reading() as connection:
            return deletion(connection, study_id)

    def delete(self, lease: Lease) -> Deleted:
        """Delete a study, and every recipe and outcome that no other study names."""
        with self._database.writing() as connection:
            return delete(connection, lease)

    def check(self, notice: Callable[[str], None] | None = None) -> Sequence[Fault]:
        """Compare what is stored with every promise; nothing is changed."""
        with self._database.reading() as connection:
            return audit(connection, notice or (lambda text: None))

    def close(self) -> None:
        """Close the database; idempotent."""
        self._database.close()

    def _facts(self, study_id: int, block: BlockKey) -> known.BlockFacts:
        key = (study_id, block)
        if key not in self._blocks:
            with self._database.reading() as connection:
                self._blocks[key] = known.block_facts(connection, study_id, block)
        return self._blocks[key]

    def _trial(self, row: rows.Row) -> Trial:
        digest = row.recipe_digest
        found = self._recipes.get(digest)
        if found is None:
            if len(self._recipes) >= _KEPT_RECIPES:
                self._recipes.pop(next(iter(self._recipes)))
            found = self._recipes[digest] = rows.recipe_of(row.body)
        return rows.trial_of(row, found)
