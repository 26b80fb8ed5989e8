"""Whether outcomes, recipes and scores agree; one recipe at a time, in one pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby

import sqlalchemy as sa

from evomerge.core.digest import digest
from evomerge.core.protocol import ItemRole, Outcome, TaskDescription
from evomerge.core.scores import scores_of
from evomerge.errors import StoreError
from evomerge.store import rows, studies
from evomerge.store.schema import outcome_block, protocol, recipe, study, trial
from evomerge.store.values import Fault

Known = dict[str, dict[str, Outcome]]
"""Protocol digest to item id to outcome."""

_NOTICE_EVERY = 1000


def check_blocks(
    connection: sa.Connection, notice: Callable[[str], None]
) -> Iterator[Fault]:
    """Return what is wrong with recipes, outcomes, or the scores made of them."""
    names, tasks = _studies(connection)
    protocols = set(connection.scalars(sa.select(protocol.c.digest)))
    blocks = _blocks(connection)
    place, group = next(blocks, (None, []))
    recipes = connection.execute(sa.select(recipe).order_by(recipe.c.digest))
    for n, row in enumerate(recipes):
        if n % _NOTICE_EVERY == 0:
            notice(f"recipe {n}")
        yield from _recipe(row)
        while place is not None and place < row.digest:
            yield Fault(f"outcomes of recipe {place[:10]}", "belong to no recipe")
            place, group = next(blocks, (None, []))
        known: Known = {}
        if place == row.digest:
            yield from _outcomes(row.digest, group, protocols, known)
            place, group = next(blocks, (None, []))
        yield from _scores(connection, row.digest, known, names, tasks)
    while place is not None:
        yield Fault(f"outcomes of recipe {place[:10]}", "belong to no recipe")
        place, group = next(blocks, (None, []))


def _studies(
    connection: sa.Connection,
) -> tuple[dict[int, str], dict[int, list[TaskDescription]]]:
    found = connection.execute(sa.select(study.c.id, study.c.name)).all()
    names = {row.id: row.name for row in found}
    return names, {key: studies.tasks_of(connection, key) or [] for key in names}


def _blocks(connection: sa.Connection) -> Iterator[tuple[str, list[rows.Row]]]:
    """Yield the blocks of one recipe after another, by digest."""
    found = connection.execution_options(yield_per=500).execute(
        sa.select(outcome_block).order_by(
            outcome_block.c.recipe_digest, outcome_block.c.id
        )
    )
    for place, group in groupby(found, key=lambda row: str(row.recipe_digest)):
        yield place, list(group)


def _recipe(row: rows.Row) -> Iterator[Fault]:
    where = f"recipe {row.digest[:10]}"
    try:
        found = rows.recipe_of(row.body).digest
    except StoreError as error:
        yield Fault(where, str(error))
        return
    if found != row.digest:
        yield Fault(where, f"has another content than its name says: {found[:10]}")


def _outcomes(
    recipe_digest: str, group: list[rows.Row], protocols: set[str], known: Known
) -> Iterator[Fault]:
    """Check the blocks of one recipe, and collect their outcomes in ``known``."""
    for row in group:
        where = f"outcome block {row.id} of recipe {recipe_digest[:10]}"
        if row.protocol_digest not in protocols:
            yield Fault(where, "was made by no protocol that is recorded")
        try:
            outcomes = rows.outcomes_of(row.body)
            means = json.loads(row.means)
        except (StoreError, ValueError) as error:
            yield Fault(where, str(error))
            continue
        items = sorted(outcome.item for outcome in outcomes)
        there = known.setdefault(row.protocol_digest, {})
        if twice := [item for item in items if item in there]:
            yield Fault(where, f"holds {len(twice)} items that another block holds")
        if len(items) != row.n_items or digest(items) != row.items_digest:
            yield Fault(where, "holds other items than its name says")
        if outcomes and means != rows.means_of(outcomes):
            yield Fault(where, "has means that are not those of its outcomes")
        for outcome in outcomes:
            there.setdefault(outcome.item, outcome)


def _scores(
    connection: sa.Connection,
    recipe_digest: str,
    known: Known,
    names: Mapping[int, str],
    tasks: Mapping[int, list[TaskDescription]],
) -> Iterator[Fault]:
    """Compare the scores of a recipe's trials with its outcomes."""
    found = connection.execute(
        sa.select(trial.c.study_id, trial.c.number, trial.c.state, trial.c.scores)
        .where(trial.c.recipe_digest == recipe_digest)
        .order_by(trial.c.study_id, trial.c.number)
    ).all()
    if not found:
        yield Fault(f"recipe {recipe_digest[:10]}", "belongs to no trial")
    for row in found:
        if row.state != "scored" or row.scores is None:
            continue
        where = f"study {names[row.study_id]!r}, trial {row.number}"
        of_study = tasks[row.study_id]
        by_task = {t.manifest.task: known.get(t.protocol.digest, {}) for t in of_study}
        missing = sum(
            item not in by_task[t.manifest.task]
            for t in of_study
            for item in t.manifest.ids_of(ItemRole.SEARCH)
        )
        if missing:
            yield Fault(where, f"is scored, but {missing} outcomes are not there")
        elif rows.from_text("Scores", row.scores) != scores_of(of_study, by_task):
            yield Fault(where, "has scores that are not the averages of its outcomes")
