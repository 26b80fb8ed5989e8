"""Compare the parts of attempts with the attempts, and with what was recorded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import sqlalchemy as sa

from evomerge.core.scoring_protocol import BlockKey, ItemRole, TaskDescription
from evomerge.core.trial import Cause
from evomerge.store.tables.decoding import legible
from evomerge.store.tables.rows import Row, part_of
from evomerge.store.tables.schema import attempt, outcome_block, part, trial
from evomerge.store.values import AttemptEnd, Fault, Part

_NEEDED = (AttemptEnd.FAILED, AttemptEnd.FAULT)
"""Ends of an attempt that it has from one of its parts."""

Place = tuple[int, int]
"""A trial and an attempt at it."""


def check_parts(
    connection: sa.Connection, row: Row, tasks: Sequence[TaskDescription] | None
) -> Iterator[Fault]:
    """Find every broken promise of a study's parts.

    Args:
        connection: A transaction.
        row: Of the study.
        tasks: What it scores; None if that cannot be told.
    """
    where = f"study {row.name!r}"
    found = defaultdict[Place, list[Part]](list)
    query = sa.select(part).where(part.c.study_id == row.id)
    for one in connection.execute(
        query.order_by(part.c.trial, part.c.attempt, part.c.part)
    ):
        here = f"{where}, trial {one.trial}, attempt {one.attempt}, part {one.part}"
        read = legible(here, partial(part_of, one))
        if isinstance(read, Fault):
            yield read
        else:
            found[one.trial, one.attempt].append(read)
    bare: set[int] = set()  # trials with an attempt of before parts were remembered
    for tried in connection.execute(
        sa.select(attempt).where(attempt.c.study_id == row.id)
    ):
        place = (tried.trial, tried.attempt)
        if place in found:
            here = f"{where}, trial {tried.trial}, attempt {tried.attempt}"
            yield from _attempt(here, tried, found[place])
        else:
            bare.add(tried.trial)
    if tasks is not None:
        yield from _covered(connection, row, tasks, found, bare)


def _attempt(where: str, tried: Row, parts: Sequence[Part]) -> Iterator[Fault]:
    numbers = [one.part for one in parts]
    if numbers != list(range(1, len(numbers) + 1)):
        yield Fault(where, f"has parts {numbers[:20]}, not 1, 2, 3 ...")
    times = Counter(block for one in parts for block in one.blocks)
    if twice := [block for block, n in times.items() if n > 1]:
        yield Fault(where, f"hands {len(twice)} blocks out twice, such as {twice[0]}")
    open_ones = [one.part for one in parts if one.ended is None or one.end is None]
    if open_ones and tried.ended is not None:
        yield Fault(where, f"is over, but its parts {open_ones} are open")
    if tried.end in _NEEDED and not any(_explains(one, tried.end) for one in parts):
        yield Fault(where, f"ended as {tried.end}, but no part of it did")


def _explains(one: Part, end: str) -> bool:
    """Tell whether an attempt may have this end from this part."""
    # A timeout is put down to the candidate when it repeats; its part does not know.
    is_repeated = one.end is AttemptEnd.FAULT and one.cause is Cause.TIMEOUT
    return one.end == end or (end == AttemptEnd.FAILED and is_repeated)


def _covered(
    connection: sa.Connection,
    row: Row,
    tasks: Sequence[TaskDescription],
    found: dict[Place, list[Part]],
    bare: set[int],
) -> Iterator[Fault]:
    """What was recorded of a recipe was handed out in some part."""
    sizes: dict[BlockKey, int] = Counter(
        BlockKey(task.manifest.task, item.role, item.block)
        for task in tasks
        for item in task.manifest.items
        if item.role is ItemRole.SEARCH
    )
    handed = defaultdict[str, set[BlockKey]](set)
    unsure: set[str] = set()
    blocks = defaultdict[int, set[BlockKey]](set)
    for (number, _), parts in found.items():
        blocks[number].update(block for one in parts for block in one.blocks)
    recipes = sa.select(trial.c.number, trial.c.recipe_digest)
    for one in connection.execute(recipes.where(trial.c.study_id == row.id)):
        handed[one.recipe_digest] |= blocks[one.number]
        if one.number in bare:
            unsure.add(one.recipe_digest)
    for name, known in handed.items():
        if odd := known - sizes.keys():
            where = f"study {row.name!r}, recipe {name[:10]}"
            yield Fault(where, f"parts hold {len(odd)} blocks that no task has")
    charged = (
        sa.select(outcome_block.c.recipe_digest, sa.func.sum(outcome_block.c.n_items))
        .where(outcome_block.c.charged_to == row.id)
        .group_by(outcome_block.c.recipe_digest)
    )
    for name, n_items in connection.execute(charged):
        n_handed = sum(sizes.get(block, 0) for block in handed[name])
        if name not in unsure and n_items > n_handed:
            yield Fault(
                f"study {row.name!r}, recipe {name[:10]}",
                f"{n_items} items are recorded, its parts hold {n_handed}",
            )
