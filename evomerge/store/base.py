"""The store protocol: what is written, by whom, and what can never be lost.

Longer than other modules, because it is one protocol with all its promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import Outcome, TaskDescription
from evomerge.core.trial import Candidate, Precision, Record, Trial
from evomerge.core.work import Wishes
from evomerge.store.values import (
    Artifact,
    Attempt,
    AttemptEnd,
    CrewMember,
    Deleted,
    Ending,
    Event,
    Fault,
    Generation,
    Holder,
    Lease,
    Overview,
    Owner,
    Part,
    PartBegun,
    PartEnded,
    Report,
    Size,
    StoredStudy,
    Usage,
)

__all__ = [
    "Artifact",
    "Attempt",
    "AttemptEnd",
    "Deleted",
    "Ending",
    "Event",
    "Fault",
    "Generation",
    "Holder",
    "Lease",
    "Overview",
    "Owner",
    "Part",
    "PartBegun",
    "PartEnded",
    "Report",
    "Size",
    "StoredStudy",
    "Usage",
    "Store",
]


class Store(Protocol):
    """The database behind every command.

    One transaction per call: it happened wholly or not at all, and what a call
    returned from survives any crash. Calls that take a lease raise
    ``LeaseLostError`` if another coordinator has taken over. Reads see committed
    data only. A store may be used from one thread; several processes may share the
    database.
    """

    def create_study(
        self,
        name: str,
        config: Mapping[str, Any],
        allowance: Mapping[str, Any],
        seed: int,
    ) -> StoredStudy:
        """Record a new study.

        Raises:
            StudyExistsError: The name is taken.
        """

    def study(self, name: str) -> StoredStudy:
        """Return the study of this name.

        Raises:
            StudyNotFoundError: The message lists the names there are.
        """

    def studies(self) -> Sequence[StoredStudy]:
        """Return every study, oldest first."""

    def lease(self, study_id: int, owner: Owner, ttl_s: float) -> Lease:
        """Become the study's coordinator.

        A lease is free when released, when older than its ttl by the database's
        clock, or when its holder ran on this host and is dead. The holder itself may
        take it anew, after it lost sight of the database; its earlier lease is over.

        Raises:
            StudyLockedError: Says who holds it and for how long still.
        """

    def renew(self, lease: Lease, spent_s: float) -> None:
        """Prolong the lease and add wall seconds spent since the last call."""

    def release(self, lease: Lease) -> None:
        """Give the lease back; a lease already lost is no error."""

    def set_allowance(self, lease: Lease, allowance: Mapping[str, Any]) -> None:
        """Record what this run is allowed (a larger budget, other workers)."""

    def restart(
        self,
        lease: Lease,
        config: Mapping[str, Any],
        allowance: Mapping[str, Any],
        seed: int,
    ) -> None:
        """Give a study that never had a worker another configuration.

        Raises:
            StoreError: Its tasks are recorded, so there may be results.
        """

    def set_finished(self, lease: Lease, reason: str | None) -> None:
        """Record that the search ended, or (None) that it goes on."""

    def record_tasks(self, lease: Lease, tasks: Sequence[TaskDescription]) -> None:
        """Record the study's manifests and protocols, once.

        Raises:
            StoreError: Others are recorded already, and differ.
        """

    def tasks(self, study_id: int) -> Sequence[TaskDescription] | None:
        """Return the recorded manifests and protocols, None before the first worker."""

    def add_generation(
        self,
        lease: Lease,
        number: int,
        candidates: Sequence[Candidate],
        memory: Mapping[str, Any],
        note: str | None,
        sample: Sample | None = None,
    ) -> Sequence[Trial]:
        """Record a generation and its pending trials, before anything is sent.

        Trial numbers continue the study's count, in candidate order. With a sample
        they answer its blocks only.

        Raises:
            StoreError: The generation exists, or is not the next one.
        """

    def extend_generation(
        self, lease: Lease, number: int, candidates: Sequence[Candidate]
    ) -> Sequence[Trial]:
        """Add pending trials to the last generation, which a budget had cut short.

        Raises:
            StoreError: It is not the last generation, or the indices do not continue.
        """

    def generations(self, study_id: int) -> Sequence[Generation]:
        """Return the recorded generations, in order."""

    def trials(self, study_id: int, generation: int | None = None) -> Sequence[Trial]:
        """Return the trials of one generation, or all, by number."""

    def history(self, study_id: int, generation: int | None = None) -> Sequence[Record]:
        """Return the trials of one generation, or all, without their recipes."""

    def trial(self, study_id: int, number: int) -> Trial:
        """Return one trial.

        Raises:
            StoreError: There is no such trial; says how many there are.
        """

    def start_attempt(self, lease: Lease, number: int, worker: str) -> int:
        """Make a pending trial running and return its new attempt number."""

    def record(self, lease: Lease, number: int, attempt: int, report: Report) -> None:
        """Record what came of a running attempt: blocks, parts that ended or began.

        Outcomes are kept under (recipe, protocol, item), if absent; recording them
        again changes nothing.

        Raises:
            StaleAttemptError: The attempt is over.
            StoreError: A block has other items.
        """

    def end_attempt(
        self,
        lease: Lease,
        number: int,
        attempt: int,
        ending: Ending,
    ) -> None:
        """Move a running trial to a final state, or back to pending.

        Raises:
            StaleAttemptError: The attempt is over.
            IllegalTransitionError: The state machine has no such arrow.
        """

    def parts(self, study_id: int, number: int | None = None) -> Sequence[Part]:
        """Return the parts of the attempts at one trial, or at all, oldest first."""

    def reuse(
        self,
        lease: Lease,
        number: int,
        scores: Mapping[str, float],
        precision: Precision | None = None,
    ) -> None:
        """Make a pending trial scored from outcomes that were already known."""

    def recover(self, lease: Lease) -> Sequence[int]:
        """Make every running trial pending again (a coordinator died); list them."""

    def outcomes(
        self, recipe_digest: str, protocol_digest: str
    ) -> Mapping[str, Outcome]:
        """Return every known outcome of a recipe under a protocol, by item id."""

    def outcomes_under(
        self, recipe_digest: str, protocol_digests: Iterable[str]
    ) -> Mapping[str, Mapping[str, Outcome]]:
        """Return a recipe's known outcomes by protocol, then by item id, at one go."""

    def add_outcomes(
        self,
        recipe_digest: str,
        protocol_digest: str,
        outcomes: Sequence[Outcome],
    ) -> None:
        """Record outcomes outside any trial (held-out items), if absent; no lease.

        Raises:
            StoreError: The recipe is not recorded with any trial.
        """

    def usage(self, study_id: int) -> Usage:
        """Return what counts against the budget; cost does not grow with the study."""

    def record_crew(self, lease: Lease, members: Sequence[CrewMember]) -> None:
        """Say who works for the study now; whoever did before does not any more."""

    def wishes(self, study_id: int) -> Wishes:
        """Return what is wanted of the study's workers from elsewhere."""

    def add_event(self, study_id: int, kind: str, data: Mapping[str, Any]) -> None:
        """Remember something; no lease."""

    def events(self, study_id: int, kind: str | None = None) -> Sequence[Event]:
        """Return what was remembered, oldest first."""

    def add_artifact(self, study_id: int, number: int, path: str, digest: str) -> None:
        """Remember a model written from a trial, if absent; no lease."""

    def artifacts(self, study_id: int) -> Sequence[Artifact]:
        """Return the models written from this study, oldest first."""

    def attempts(self, study_id: int, number: int | None = None) -> Sequence[Attempt]:
        """Return the attempts at one trial, or at all, oldest first."""

    def overview(self, study_id: int | None = None) -> Sequence[Overview]:
        """Return every study, or one, at a glance, oldest first."""

    def size(self) -> Size:
        """Return how much the database holds."""

    def deletion(self, study_id: int) -> Deleted:
        """Return what ``delete`` would remove now; nothing is changed."""

    def delete(self, lease: Lease) -> Deleted:
        """Delete a study, and every recipe and outcome that no other study names.

        The lease is gone with it.
        """

    def check(self, notice: Callable[[str], None] | None = None) -> Sequence[Fault]:
        """Compare what is stored with every promise; nothing is changed.

        Args:
            notice: Told what is being looked at, for progress.
        """

    def close(self) -> None:
        """Close the database; idempotent."""
