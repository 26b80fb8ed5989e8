"""Generations: committed whole, with their pending trials, before anything is sent.

Functions take a connection inside a transaction; ``SqlStore`` opens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from evomerge.core.trial import Candidate, TrialState
from evomerge.errors import StoreError
from evomerge.store.leases import check_lease
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import count, damaged
from evomerge.store.tables.dialects import NOW, insert_absent
from evomerge.store.tables.schema import generation, recipe, study, trial
from evomerge.store.trials import last_number
from evomerge.store.values import Generation, Lease


def add(
    connection: sa.Connection,
    lease: Lease,
    new: Generation,
    candidates: Sequence[Candidate],
) -> int:
    """Record a generation and its pending trials; return the first trial's number."""
    check_lease(connection, lease)
    expected = 1 + last_number(connection, generation.c.number, lease.study_id)
    if new.number < expected:
        raise StoreError(
            f"Generation {new.number} is recorded already; the next one is {expected}."
        )
    if new.number > expected:
        raise StoreError(
            f"Generation {new.number} came before generation {expected} was recorded."
        )
    connection.execute(
        sa.insert(generation).values(
            study_id=lease.study_id,
            number=new.number,
            size=new.size,
            memory=rows.to_text("A strategy's memory", dict(new.memory)),
            note=new.note,
            created=NOW,
            sample=None
            if new.sample is None
            else rows.to_text("A sample of blocks", new.sample.to_json()),
        )
    )
    if n_finals := sum(one.final_of is not None for one in candidates):
        connection.execute(
            sa.update(study)
            .where(study.c.id == lease.study_id)
            .values(n_finals=study.c.n_finals + n_finals)
        )
    return _add_trials(connection, lease.study_id, (new.number, 0), candidates)


def extend(
    connection: sa.Connection,
    lease: Lease,
    number: int,
    candidates: Sequence[Candidate],
) -> int:
    """Add pending trials to the last generation; return the first one's number."""
    check_lease(connection, lease)
    last = last_number(connection, generation.c.number, lease.study_id)
    if number != last:
        raise StoreError(
            f"Only the last generation ({last}) can be extended, not {number}."
        )
    this_one = (
        generation.c.study_id == lease.study_id,
        generation.c.number == number,
    )
    found = connection.scalar(sa.select(generation.c.size).where(*this_one))
    size = count("The size of a generation", found)
    first = _add_trials(connection, lease.study_id, (number, size), candidates)
    connection.execute(
        sa.update(generation).where(*this_one).values(size=size + len(candidates))
    )
    return first


def every(connection: sa.Connection, study_id: int) -> list[Generation]:
    """Return the recorded generations, in order."""
    found = connection.execute(
        sa.select(generation)
        .where(generation.c.study_id == study_id)
        .order_by(generation.c.number)
    )
    known = [rows.generation_of(row) for row in found]
    numbers = [one.number for one in known]
    if numbers != list(range(len(numbers))):
        raise damaged("The generations of a study", ValueError(f"they are {numbers}"))
    return known


def _add_trials(
    connection: sa.Connection,
    study_id: int,
    place: tuple[int, int],
    candidates: Sequence[Candidate],
) -> int:
    """Insert trials from a (generation, index) on; return the first one's number."""
    number, start = place
    for index, candidate in enumerate(candidates, start):
        if (candidate.generation, candidate.index) != (number, index):
            raise StoreError(
                f"Expected candidate {index} of generation {number}, but got "
                f"candidate {candidate.index} of generation {candidate.generation}."
            )
    first = 1 + last_number(connection, trial.c.number, study_id)
    if not candidates:
        return first
    recipes = {c.recipe.digest: c.recipe for c in candidates}
    bodies = [
        {"digest": digest, "body": rows.compress(merge.text)}
        for digest, merge in sorted(recipes.items())  # one order: no deadlock
    ]
    insert_absent(connection, recipe, *bodies)
    at = connection.scalar(sa.select(NOW))
    pending = [
        {"study_id": study_id, "number": first + i, "changed": at, **_columns(c)}
        for i, c in enumerate(candidates)
    ]
    connection.execute(sa.insert(trial), pending)
    return first


def _columns(candidate: Candidate) -> dict[str, Any]:
    point = candidate.point
    return {
        "generation": candidate.generation,
        "position": candidate.index,
        "label": candidate.label,
        "point": None if point is None else rows.to_text("A point", dict(point)),
        "recipe_digest": candidate.recipe.digest,
        "state": TrialState.PENDING.value,
        "final_of": candidate.final_of,
    }
