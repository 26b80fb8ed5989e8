"""What is known of (recipe, protocol, item): recorded once, reused everywhere.

A row holds the outcomes of one report that were not known before, so no item is kept
or counted twice however blocks are cut. Cost depends on the one recipe's rows, not on
the size of any study.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from evomerge.core.digest import digest
from evomerge.core.protocol import BlockKey, Outcome
from evomerge.errors import StoreError
from evomerge.store import rows
from evomerge.store.base import Lease
from evomerge.store.dialect import insert_absent
from evomerge.store.schema import manifest, outcome_block, study, task
from evomerge.store.trials import check_running

BlockFacts = tuple[str, frozenset[str]]
"""A block's protocol digest and item ids."""

# Statements of the hot path are built once; building costs more than running.
_BODIES = (
    sa.select(outcome_block.c.body)
    .where(
        outcome_block.c.recipe_digest == sa.bindparam("recipe"),
        outcome_block.c.protocol_digest == sa.bindparam("protocol"),
    )
    .order_by(outcome_block.c.id)
)
_COUNT = (
    sa.update(study)
    .where(study.c.id == sa.bindparam("study"))
    .values(n_items=study.c.n_items + sa.bindparam("fresh"))
)


def block_facts(
    connection: sa.Connection, study_id: int, block: BlockKey
) -> BlockFacts:
    """Look up how, and on which items, a block of a study is scored.

    Raises:
        StoreError: The study has no such block.
    """
    row = connection.execute(
        sa.select(task.c.protocol_digest, manifest.c.body)
        .join_from(task, manifest)
        .where(task.c.study_id == study_id, task.c.task == block.task)
    ).first()
    if row is None:
        raise StoreError(f"No task {block.task!r} is recorded for this study.")
    items = frozenset(rows.manifest_of(row.body).ids(block))
    if not items:
        raise StoreError(
            f"Task {block.task!r} has no {block.role} block {block.index}."
        )
    return row.protocol_digest, items


def record_block(
    connection: sa.Connection,
    lease: Lease,
    attempt: tuple[int, int],
    facts: BlockFacts,
    outcomes: Sequence[Outcome],
) -> None:
    """Record what a running attempt found of a block, and count what was new.

    Args:
        connection: A writing transaction.
        lease: The study's.
        attempt: Trial number and attempt.
        facts: The block's protocol and items.
        outcomes: One per item of the block.
    """
    protocol_digest, items = facts
    row = check_running(connection, lease, *attempt)
    came = {outcome.item for outcome in outcomes}
    if came != items:
        raise StoreError(
            f"The block has {len(items)} items, but the {len(outcomes)} outcomes "
            f"lack {len(items - came)} of them and hold {len(came - items)} others."
        )
    fresh = add(connection, row.recipe_digest, protocol_digest, outcomes)
    if fresh and row.generation > 0:  # baselines are not charged
        connection.execute(_COUNT, {"study": lease.study_id, "fresh": fresh})


def add(
    connection: sa.Connection,
    recipe_digest: str,
    protocol_digest: str,
    outcomes: Sequence[Outcome],
) -> int:
    """Record the outcomes that are not known yet; return how many those were."""
    if len({outcome.item for outcome in outcomes}) != len(outcomes):
        raise StoreError("An item came twice in one report of outcomes.")
    key = {"recipe": recipe_digest, "protocol": protocol_digest}
    known: set[str] = set()
    for body in connection.scalars(_BODIES, key):
        known.update(rows.items_of(body))
    fresh = [outcome for outcome in outcomes if outcome.item not in known]
    if not fresh:
        return 0
    insert_absent(
        connection,
        outcome_block,
        {
            "recipe_digest": recipe_digest,
            "protocol_digest": protocol_digest,
            "items_digest": digest(sorted(outcome.item for outcome in fresh)),
            "n_items": len(fresh),
            "means": rows.to_text("A block's means", rows.means_of(fresh)),
            "body": rows.pack("Outcomes", [outcome.to_json() for outcome in fresh]),
        },
    )
    return len(fresh)


def find(
    connection: sa.Connection, recipe_digest: str, protocol_digest: str
) -> dict[str, Outcome]:
    """Return every known outcome by item id; the first one recorded stands."""
    key = {"recipe": recipe_digest, "protocol": protocol_digest}
    known: dict[str, Outcome] = {}
    for body in connection.scalars(_BODIES, key):
        for outcome in rows.outcomes_of(body):
            known.setdefault(outcome.item, outcome)
    return known
