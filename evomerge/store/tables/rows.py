"""Values to rows and back: canonical JSON, nothing else, and nothing executable."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from math import fsum
from typing import Any, TypeAlias

import sqlalchemy as sa

from evomerge.core.aggregates import is_part
from evomerge.core.digest import canonical_json
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import BlockKey, ItemRole, Manifest, Outcome
from evomerge.core.trial import (
    Blame,
    Candidate,
    Cause,
    Failure,
    Precision,
    Record,
    Trial,
    TrialState,
)
from evomerge.errors import StoreError
from evomerge.store.tables.decoding import (
    MAX_TEXT,
    decoder,
    from_text,
    is_number,
    mapping,
    numbers,
    unpack,
)
from evomerge.store.tables.schema import (
    artifact,
    attempt,
    event,
    generation,
    part,
    study,
    trial,
)
from evomerge.store.values import (
    Artifact,
    Attempt,
    AttemptEnd,
    Event,
    Generation,
    Owner,
    Part,
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


def pack(what: str, value: Any) -> bytes:
    """Render plain data as compressed canonical JSON.

    Raises:
        StoreError: As for ``to_text``, or it is longer than what is read back.
    """
    text = to_text(what, value)
    if len(text) > MAX_TEXT:
        raise StoreError(
            f"{what} would take {len(text)} characters, more than {MAX_TEXT}. Use "
            "fewer items, or more blocks."
        )
    return compress(text)


def compress(text: str) -> bytes:
    """Compress canonical JSON."""
    return zlib.compress(text.encode(), 6)


def time_text(seconds: float) -> str:
    """Write seconds since 1970 as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


@decoder("A study", study)
def study_of(row: Row) -> StoredStudy:
    """Read a row of ``em_study``."""
    return StoredStudy(
        id=row.id,
        name=row.name,
        config=mapping("A study's configuration", row.config),
        allowance=mapping("A study's allowance", row.allowance),
        seed=row.seed,
        spent_s=row.spent_s,
        created=time_text(row.created),
        finished=row.finished,
    )


@decoder("A study's lease", study)
def owner_of(row: Row) -> Owner:
    """Read who holds a row of ``em_study`` that is held."""
    if None in (row.lease_host, row.lease_pid, row.lease_started):
        raise ValueError("it names no holder")
    return Owner(row.lease_host, row.lease_pid, row.lease_started)


@decoder("A generation", generation)
def generation_of(row: Row) -> Generation:
    """Read a row of ``em_generation``."""
    return Generation(
        row.number,
        row.size,
        mapping("A strategy's memory", row.memory),
        row.note,
        sample_of(row.sample),
    )


def sample_of(text: str | None) -> Sample | None:
    """Read the blocks that a generation answers; None for all."""
    return None if text is None else Sample.from_json(mapping("A sample", text))


@decoder("An event", event)
def event_of(row: Row) -> Event:
    """Read a row of ``em_event``."""
    return Event(time_text(row.at), row.kind, mapping("An event", row.data))


@decoder("An exported model", artifact)
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
        final_of=record.final_of,
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
        precision=record.precision,
    )


@decoder("A trial's state")
def state_of(text: str) -> TrialState:
    """Read the state of a trial alone."""
    return TrialState(text)


@decoder("A trial", trial)
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
        point=None if row.point is None else mapping("A trial's point", row.point),
        label=row.label,
        state=TrialState(row.state),
        attempt=row.attempt,
        scores=numbers("A trial's scores", row.scores),
        failure=failure,
        worker=row.worker,
        seconds=numbers("A trial's seconds", row.seconds),
        reused=row.reused,
        faults=row.faults,
        final_of=row.final_of,
        precision=_precision(row),
    )


def _precision(row: Row) -> Precision | None:
    if row.n_items is None:
        return None
    errors = numbers("Errors of a trial's scores", row.errors)
    return Precision(errors or {}, row.n_items, row.of_items)


@decoder("An attempt", attempt)
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


@decoder("A part of an attempt", part)
def part_of(row: Row) -> Part:
    """Read a row of ``em_part``."""
    blocks = []
    for entry in from_text("The blocks of a part", row.blocks):
        task, index = entry
        if (type(task), type(index)) != (str, int):
            raise TypeError(f"a block is {entry!r:.80}")
        blocks.append(BlockKey(task, ItemRole.SEARCH, index))
    return Part(
        trial=row.trial,
        attempt=row.attempt,
        part=row.part,
        worker=row.worker,
        blocks=tuple(blocks),
        began=time_text(row.began),
        ended=None if row.ended is None else time_text(row.ended),
        end=None if row.end is None else AttemptEnd(row.end),
        cause=None if row.cause is None else Cause(row.cause),
    )


def blocks_text(blocks: Sequence[BlockKey]) -> str:
    """Write the search blocks of a part."""
    return canonical_json([[block.task, block.index] for block in blocks])


def failure_columns(failure: Failure | None) -> dict[str, str | None]:
    """Spread a failure, or its absence, over its columns."""
    if failure is None:
        return {"cause": None, "blame": None, "message": None}
    # PostgreSQL keeps no NUL in a text; half a surrogate pair is no text anywhere.
    said = failure.message.replace("\0", "\\0")
    clean = said.encode(errors="backslashreplace").decode()
    return {**failure.to_json(), "message": clean}


@decoder("A recipe")
def recipe_of(body: bytes) -> Recipe:
    """Read a row of ``em_recipe``."""
    return Recipe.from_json(unpack("A recipe", body))


@decoder("A manifest")
def manifest_of(body: bytes) -> Manifest:
    """Read a row of ``em_manifest``."""
    manifest = Manifest.from_json(unpack("A manifest", body))
    for item in manifest.items:
        if (type(item.id), type(item.block)) != (str, int):
            raise TypeError(f"an item is {item!r:.80}")
    return manifest


@decoder("Metric names")
def metrics_of(text: str) -> tuple[str, ...]:
    """Read the names of a task's metrics."""
    names = from_text("Metric names", text)
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise TypeError(f"expected a list of names, got {names!r:.60}")
    return tuple(names)


@decoder("A block of outcomes")
def outcomes_of(body: bytes) -> list[Outcome]:
    """Read the outcomes of one block."""
    entries = unpack("A block of outcomes", body)
    for item, metrics, tokens, truncated in entries:
        numbers = (*metrics.values(), tokens)
        if not (type(item), type(truncated)) == (str, bool) or not all(
            map(is_number, numbers)
        ):
            raise TypeError(f"the outcome of item {item!r:.60} has other values")
    return [Outcome.from_json(entry) for entry in entries]


def items_of(body: bytes) -> list[str]:
    """Read only the item ids of one block."""
    return [outcome.item for outcome in outcomes_of(body)]


def means_of(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Average every metric that all outcomes have, and tokens and truncation."""
    shared = {name for name in outcomes[0].metrics if not is_part(name)}
    for outcome in outcomes:
        shared &= set(outcome.metrics)
    n = len(outcomes)
    means = {name: fsum(o.metrics[name] for o in outcomes) / n for name in shared}
    means["tokens"] = sum(o.tokens for o in outcomes) / n
    means["truncated"] = sum(o.truncated for o in outcomes) / n
    return means
