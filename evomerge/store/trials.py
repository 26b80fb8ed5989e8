"""The lives of trials, fenced by epoch and attempt.

Functions take a connection inside a transaction; ``SqlStore`` opens it. A step reads
study and trial in one row, decides, and writes under the same lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from evomerge.core.trial import Blame, Precision, TrialState
from evomerge.errors import IllegalTransitionError, StaleAttemptError, StoreError
from evomerge.store.leases import check_lease, refuse_stale
from evomerge.store.tables import rows
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.prepared import Prepared
from evomerge.store.tables.schema import attempt as attempts
from evomerge.store.tables.schema import recipe, study, trial
from evomerge.store.values import AttemptEnd, Ending, Lease

# Statements of the hot path are built once; building costs more than running.
_STEP = Prepared(
    sa.select(
        study.c.lease_epoch,
        study.c.lease_until,
        trial.c.number,
        trial.c.generation,
        trial.c.recipe_digest,
        trial.c.state,
        trial.c.attempt,
        trial.c.faults,
    )
    .join_from(study, trial, trial.c.study_id == study.c.id)
    # Held too, for whoever adds outcomes of it.
    .join(recipe, recipe.c.digest == trial.c.recipe_digest)
    .where(study.c.id == sa.bindparam("study"), trial.c.number == sa.bindparam("trial"))
    .with_for_update(key_share=True)
)
_MOVE = (
    sa.update(trial)
    .where(
        trial.c.study_id == sa.bindparam("of_study"),
        trial.c.number == sa.bindparam("of_number"),
    )
    .values(changed=NOW)
)
_BEGIN_ATTEMPT = sa.insert(attempts).values(began=NOW)
_END_ATTEMPT = (
    sa.update(attempts)
    .where(
        attempts.c.study_id == sa.bindparam("of_study"),
        attempts.c.trial == sa.bindparam("of_number"),
        attempts.c.attempt == sa.bindparam("of_attempt"),
    )
    .values(ended=NOW)
)


_AFTER_FAULT = (TrialState.PENDING, TrialState.QUARANTINED)


def select(
    connection: sa.Connection,
    study_id: int,
    generation_number: int | None = None,
    number: int | None = None,
) -> Sequence[rows.Row]:
    """Return trial rows with their recipes' bodies, by number."""
    query = (
        sa.select(trial, recipe.c.body)
        .join_from(trial, recipe)
        .where(trial.c.study_id == study_id)
        .order_by(trial.c.number)
    )
    if generation_number is not None:
        query = query.where(trial.c.generation == generation_number)
    if number is not None:
        query = query.where(trial.c.number == number)
    return connection.execute(query).all()


def history(
    connection: sa.Connection, study_id: int, generation_number: int | None = None
) -> Sequence[rows.Row]:
    """Return trial rows alone, by number."""
    query = (
        sa.select(trial).where(trial.c.study_id == study_id).order_by(trial.c.number)
    )
    if generation_number is not None:
        query = query.where(trial.c.generation == generation_number)
    return connection.execute(query).all()


def attempts_of(
    connection: sa.Connection, study_id: int, number: int | None
) -> Sequence[rows.Row]:
    """Return rows of attempts, oldest first."""
    query = (
        sa.select(attempts)
        .where(attempts.c.study_id == study_id)
        .order_by(attempts.c.trial, attempts.c.attempt)
    )
    if number is not None:
        query = query.where(attempts.c.trial == number)
    return connection.execute(query).all()


def missing(connection: sa.Connection, study_id: int, number: int) -> StoreError:
    """Make the error for a trial that is not there."""
    n = 1 + last_number(connection, trial.c.number, study_id)
    return StoreError(f"There is no trial {number}; the study has {n}, counted from 0.")


def start_attempt(
    connection: sa.Connection, lease: Lease, number: int, worker: str
) -> int:
    """Make a pending trial running; return the new attempt's number."""
    row = _step(connection, lease, number)
    attempt: int = row.attempt + 1
    _move(connection, lease, row, TrialState.RUNNING, attempt=attempt, worker=worker)
    key = {"study_id": lease.study_id, "trial": number, "attempt": attempt}
    connection.execute(_BEGIN_ATTEMPT, {**key, "worker": worker})
    return attempt


def check_running(
    connection: sa.Connection, lease: Lease, number: int, attempt: int
) -> rows.Row:
    """Return the trial's row if it is running this very attempt.

    Raises:
        LeaseLostError: Another coordinator took over.
        StaleAttemptError: The attempt is over.
    """
    row = _step(connection, lease, number)
    if row.attempt != attempt or row.state != TrialState.RUNNING:
        raise StaleAttemptError(
            f"Attempt {attempt} at trial {number} is over: the trial is {row.state} "
            f"at attempt {row.attempt}. The late answer was not recorded."
        )
    return row


def end_attempt(
    connection: sa.Connection, lease: Lease, number: int, attempt: int, ending: Ending
) -> str:
    """Move a running trial on, with its scores or its failure; return its recipe."""
    end = _end_of(number, ending)
    row = check_running(connection, lease, number, attempt)
    columns: dict[str, Any] = {**rows.failure_columns(ending.failure)}
    if ending.scores is not None:
        columns |= _scores_columns(ending.scores, ending.precision)
    if ending.seconds is not None and ending.state.is_final:
        columns["seconds"] = rows.to_text("A trial's seconds", dict(ending.seconds))
    if end is AttemptEnd.FAULT:
        columns["faults"] = row.faults + 1
    _move(connection, lease, row, ending.state, **columns)
    key = {"of_study": lease.study_id, "of_number": number, "of_attempt": attempt}
    why = {"cause": columns["cause"], "message": columns["message"]}
    connection.execute(_END_ATTEMPT, {**key, "end": end.value, **why})
    recipe_digest: str = row.recipe_digest
    return recipe_digest


def reuse(
    connection: sa.Connection,
    lease: Lease,
    number: int,
    scores: Mapping[str, float],
    precision: Precision | None,
) -> None:
    """Make a pending trial scored without running it."""
    row = _step(connection, lease, number)
    if row.state != TrialState.PENDING:
        raise IllegalTransitionError(
            f"Only a pending trial can take known outcomes; trial {number} is "
            f"{row.state}."
        )
    columns = {**_scores_columns(scores, precision), **rows.failure_columns(None)}
    _move(connection, lease, row, TrialState.SCORED, reused=True, **columns)


def recover(connection: sa.Connection, lease: Lease) -> list[int]:
    """Make every running trial pending again; return their numbers."""
    check_lease(connection, lease)
    running = (
        trial.c.study_id == lease.study_id,
        trial.c.state == TrialState.RUNNING.value,
    )
    numbers = list(
        connection.scalars(
            sa.select(trial.c.number).where(*running).order_by(trial.c.number)
        )
    )
    if numbers:
        pending = TrialState.RUNNING.to(TrialState.PENDING)
        connection.execute(
            sa.update(trial).where(*running).values(state=pending.value, changed=NOW)
        )
        connection.execute(
            sa.update(attempts)
            .where(attempts.c.study_id == lease.study_id, attempts.c.ended.is_(None))
            .values(ended=NOW, end=AttemptEnd.INTERRUPTED.value)
        )
    return numbers


def _end_of(number: int, ending: Ending) -> AttemptEnd:
    """Return the word for an ending, refusing one that contradicts itself."""
    state, failure = ending.state, ending.failure
    if failure is None and ending.scores is not None and state is TrialState.SCORED:
        return AttemptEnd.SCORED
    if failure is not None and ending.scores is None:
        if failure.blame is Blame.CANDIDATE and state is TrialState.FAILED:
            return AttemptEnd.FAILED
        if failure.blame is Blame.MACHINE and state in _AFTER_FAULT:
            return AttemptEnd.FAULT
    raise StoreError(
        "An attempt ends scored with scores, failed by the candidate's fault, or "
        "pending or quarantined by a machine's; the one at trial "
        f"{number} came as {ending!r}."
    )


def _step(connection: sa.Connection, lease: Lease, number: int) -> rows.Row:
    """Read study and trial under the lock, refusing a stale lease."""
    key = {"study": lease.study_id, "trial": number}
    row: rows.Row | None = _STEP(connection, key)
    if row is None:
        check_lease(connection, lease)
        raise missing(connection, lease.study_id, number)
    refuse_stale(lease, row.lease_epoch, row.lease_until)
    return row


def _move(
    connection: sa.Connection,
    lease: Lease,
    row: rows.Row,
    new: TrialState,
    **columns: Any,
) -> None:
    state = TrialState(row.state).to(new)
    key = {"of_study": lease.study_id, "of_number": row.number}
    connection.execute(_MOVE, {**key, "state": state.value, **columns})


def last_number(
    connection: sa.Connection, column: sa.Column[Any], study_id: int
) -> int:
    """Return the largest number of a study's rows, -1 if there are none."""
    last: int | None = connection.scalar(
        sa.select(sa.func.max(column)).where(column.table.c.study_id == study_id)
    )
    return -1 if last is None else last


def _scores_columns(
    scores: Mapping[str, float], precision: Precision | None
) -> dict[str, Any]:
    if not scores:
        raise StoreError("A scored trial needs at least one score.")
    columns: dict[str, Any] = {"scores": rows.to_text("Scores", dict(scores))}
    if precision is not None:
        columns["errors"] = rows.to_text("Errors of scores", dict(precision.errors))
        columns["n_items"] = precision.n_items
        columns["of_items"] = precision.of_items
    return columns
