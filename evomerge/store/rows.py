"""Values to rows and back: canonical JSON, nothing else, and nothing executable."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import fsum
from typing import Any, TypeAlias

import sqlalchemy as sa

from evomerge.core.digest import canonical_json
from evomerge.core.protocol import Manifest, Outcome
from evomerge.core.recipe import Recipe
from evomerge.core.trial import (
    Blame,
    Candidate,
    Cause,
    Failure,
    Record,
    Trial,
    TrialState,
)
from evomerge.errors import EvomergeError, StoreError
from evomerge.store.values import (
    Artifact,
    Attempt,
    AttemptEnd,
    Event,
    Generation,
    StoredStudy,
)

Row: TypeAlias = "sa.Row[*tuple[Any, ...]]"


def to_text(what: str, value: Any) -> str:
    """Render plain data as canonical JSON.

    Raises:
        StoreError: It is not plain data, or holds NaN or infinity; names ``what``.
    """
    try:
        return canonical_json(value)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"{what} must be plain data with finite numbers: {error}."
        ) from error


def from_text(what: str, text: str) -> Any:
    """Read JSON text that this package wrote."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise _damaged(what, error) from error


def pack(what: str, value: Any) -> bytes:
    """Render plain data as compressed canonical JSON."""
    return compress(to_text(what, value))


def compress(text: str) -> bytes:
    """Compress canonical JSON."""
    return zlib.compress(text.encode(), 6)


def unpack(what: str, body: bytes) -> Any:
    """Read what ``pack`` wrote.

    Raises:
        StoreError: The bytes are damaged.
    """
    try:
        return json.loads(zlib.decompress(body))
    except (zlib.error, ValueError) as error:
        raise _damaged(what, error) from error


def time_text(seconds: float) -> str:
    """Write seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def study_of(row: Row) -> StoredStudy:
    """Read a row of ``em_study``."""
    return StoredStudy(
        id=row.id,
        name=row.name,
        config=from_text("A study's configuration", row.config),
        allowance=from_text("A study's allowance", row.allowance),
        seed=row.seed,
        spent_s=row.spent_s,
        created=time_text(row.created),
        finished=row.finished,
    )


def generation_of(row: Row) -> Generation:
    """Read a row of ``em_generation``."""
    return Generation(
        row.number, row.size, from_text("A strategy's memory", row.memory), row.note
    )


def event_of(row: Row) -> Event:
    """Read a row of ``em_event``."""
    return Event(time_text(row.at), row.kind, from_text("An event", row.data))


def artifact_of(row: Row) -> Artifact:
    """Read a row of ``em_artifact``."""
    return Artifact(time_text(row.at), row.trial, row.path, row.digest)


def trial_of(row: Row, recipe: Recipe) -> Trial:
    """Read a row of ``em_trial`` whose recipe is known."""
    record = record_of(row)
    candidate = Candidate(
        generation=record.generation,
        index=record.index,
        recipe=recipe,
        point=record.point,
        label=record.label,
    )
    return Trial(
        number=record.number,
        candidate=candidate,
        state=record.state,
        attempt=record.attempt,
        scores=record.scores,
        failure=record.failure,
        worker=record.worker,
        seconds=record.seconds,
        reused=record.reused,
        faults=record.faults,
    )


def record_of(row: Row) -> Record:
    """Read a row of ``em_trial``."""
    failure = None
    if row.cause is not None:
        failure = Failure(Cause(row.cause), Blame(row.blame), row.message)
    return Record(
        number=row.number,
        generation=row.generation,
        index=row.position,
        recipe=row.recipe_digest,
        point=_optional("A trial's point", row.point),
        label=row.label,
        state=TrialState(row.state),
        attempt=row.attempt,
        scores=_optional("A trial's scores", row.scores),
        failure=failure,
        worker=row.worker,
        seconds=_optional("A trial's seconds", row.seconds),
        reused=row.reused,
        faults=row.faults,
    )


def attempt_of(row: Row) -> Attempt:
    """Read a row of ``em_attempt``."""
    return Attempt(
        trial=row.trial,
        attempt=row.attempt,
        worker=row.worker,
        began=None if row.began is None else time_text(row.began),
        ended=None if row.ended is None else time_text(row.ended),
        end=None if row.end is None else AttemptEnd(row.end),
        cause=None if row.cause is None else Cause(row.cause),
        message=row.message,
    )


def failure_columns(failure: Failure | None) -> dict[str, str | None]:
    """Spread a failure, or its absence, over its columns."""
    if failure is None:
        return {"cause": None, "blame": None, "message": None}
    # PostgreSQL keeps no NUL in a text; half a surrogate pair is no text anywhere.
    said = failure.message.replace("\0", "\\0")
    clean = said.encode(errors="backslashreplace").decode()
    return {**failure.to_json(), "message": clean}


def recipe_of(body: bytes) -> Recipe:
    """Read a row of ``em_recipe``."""
    data = unpack("A recipe", body)
    try:
        return Recipe.from_json(data)
    except EvomergeError as error:
        raise _damaged("A recipe", error) from error


def manifest_of(body: bytes) -> Manifest:
    """Read a row of ``em_manifest``."""
    data = unpack("A manifest", body)
    try:
        return Manifest.from_json(data)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged("A manifest", error) from error


def outcomes_of(body: bytes) -> list[Outcome]:
    """Read the outcomes of one block."""
    data = unpack("A block of outcomes", body)
    try:
        return [Outcome.from_json(entry) for entry in data]
    except (TypeError, ValueError) as error:
        raise _damaged("A block of outcomes", error) from error


def items_of(body: bytes) -> list[str]:
    """Read only the item ids of one block."""
    return [entry[0] for entry in unpack("A block of outcomes", body)]


def means_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Average every metric that all outcomes have, and tokens and truncation."""
    shared = set(outcomes[0].metrics)
    for outcome in outcomes:
        shared &= set(outcome.metrics)
    n = len(outcomes)
    means = {name: fsum(o.metrics[name] for o in outcomes) / n for name in shared}
    means["tokens"] = sum(o.tokens for o in outcomes) / n
    means["truncated"] = sum(o.truncated for o in outcomes) / n
    return means


def _optional(what: str, text: str | None) -> Mapping[str, Any] | None:
    return None if text is None else from_text(what, text)


def _damaged(what: str, error: Exception) -> StoreError:
    return StoreError(
        f"{what} in the database cannot be read ({error}); the file is damaged, "
        "restore it from a copy."
    )
