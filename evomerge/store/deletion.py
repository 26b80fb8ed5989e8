"""Delete a study, and what only it named; or what it has, to begin it anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from evomerge.errors import StoreError
from evomerge.store import crew
from evomerge.store.leases import change, check_lease
from evomerge.store.studies import tasks_of
from evomerge.store.tables import rows
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import (
    artifact,
    attempt,
    event,
    generation,
    manifest,
    outcome_block,
    part,
    protocol,
    recipe,
    study,
    task,
    trial,
    worker,
)
from evomerge.store.values import Deleted, Lease

_OF_TRIALS = (artifact, event, part, attempt, trial, generation)


def deletion(connection: sa.Connection, study_id: int) -> Deleted:
    """Count what ``delete`` would remove of a study."""
    other = trial.alias()
    mine = (
        sa.select(trial.c.recipe_digest)
        .where(
            trial.c.study_id == study_id,
            ~sa.exists().where(
                other.c.recipe_digest == trial.c.recipe_digest,
                other.c.study_id != study_id,
            ),
        )
        .distinct()
        .subquery()
    )
    of_study = sa.select(sa.func.count()).where(trial.c.study_id == study_id)
    recipes = sa.select(sa.func.count()).select_from(mine)
    blocks = sa.select(sa.func.count()).select_from(
        outcome_block.join(mine, outcome_block.c.recipe_digest == mine.c.recipe_digest)
    )
    counts = [connection.scalar(query) or 0 for query in (of_study, recipes, blocks)]
    return Deleted(*counts)


def delete(connection: sa.Connection, lease: Lease) -> Deleted:
    """Remove a study's rows, and the recipes and outcomes that nobody names then.

    What other studies reuse stays, so none of them loses an outcome.
    """
    check_lease(connection, lease)
    n_trials = 0
    for table in (*_OF_TRIALS, task):
        gone = connection.execute(
            sa.delete(table).where(table.c.study_id == lease.study_id)
        )
        n_trials = gone.rowcount if table is trial else n_trials
    is_its = worker.c.study_id == lease.study_id
    for row in connection.execute(sa.select(worker).where(is_its)).all():
        crew.leave(connection, row)
    connection.execute(sa.update(worker).where(is_its).values(study_id=None))
    connection.execute(
        sa.update(outcome_block)
        .where(outcome_block.c.charged_to == lease.study_id)
        .values(charged_to=0)  # the number may be given to another study
    )
    connection.execute(sa.delete(study).where(study.c.id == lease.study_id))
    n_recipes, n_blocks = forget_unnamed(connection)
    return Deleted(n_trials, n_recipes, n_blocks)


def forget_unnamed(connection: sa.Connection) -> tuple[int, int]:
    """Remove recipes that no trial names, and what only they need.

    Returns:
        How many recipes and blocks of outcomes went.
    """
    if connection.dialect.name == "postgresql":
        # Nobody may come to name them between the look and the deletion.
        for table in (recipe, protocol, manifest):
            lock = f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"
            connection.execute(sa.text(lock))
    n_recipes = connection.execute(
        sa.delete(recipe).where(
            ~sa.exists().where(trial.c.recipe_digest == recipe.c.digest)
        )
    ).rowcount
    n_blocks = connection.execute(
        sa.delete(outcome_block).where(
            ~sa.exists().where(recipe.c.digest == outcome_block.c.recipe_digest)
        )
    ).rowcount
    connection.execute(
        sa.delete(manifest).where(
            ~sa.exists().where(task.c.manifest_digest == manifest.c.digest)
        )
    )
    connection.execute(
        sa.delete(protocol).where(
            ~sa.exists().where(task.c.protocol_digest == protocol.c.digest),
            ~sa.exists().where(outcome_block.c.protocol_digest == protocol.c.digest),
        )
    )
    return n_recipes, n_blocks


def restart(
    connection: sa.Connection,
    lease: Lease,
    config: Mapping[str, Any],
    allowance: Mapping[str, Any],
    seed: int,
) -> None:
    """Replace configuration and seed, and forget the trials nobody scored.

    It takes a worker to find out that a task or metric does not exist; whoever then
    puts the study file right must not be told that the name is taken. The row is kept
    and changed, never removed: leases count upwards in it, so an old one stays invalid.
    """
    check_lease(connection, lease)
    if tasks_of(connection, lease.study_id) is not None:
        name = connection.scalar(
            sa.select(study.c.name).where(study.c.id == lease.study_id)
        )
        raise StoreError(
            f"Study {name!r} has had a worker, so it may have results; its "
            "configuration stays. Give the other one another name."
        )
    for table in _OF_TRIALS:
        connection.execute(sa.delete(table).where(table.c.study_id == lease.study_id))
    forget_unnamed(connection)
    change(
        connection,
        lease,
        config=rows.to_text("A study's configuration", dict(config)),
        allowance=rows.to_text("A study's allowance", dict(allowance)),
        seed=seed,
        created=NOW,
        finished=None,
        spent_s=0.0,
        n_items=0,
    )
