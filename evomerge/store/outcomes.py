"""What is known of (recipe, protocol, item): recorded once, reused everywhere.

A row holds the outcomes of one report that were not known before, so no item is kept
or counted twice however blocks are cut. Cost depends on the one recipe's rows, not on
the size of any study.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import sqlalchemy as sa

from evomerge.core.digest import digest
from evomerge.core.protocol import BlockKey, Outcome
from evomerge.errors import StoreError
from evomerge.store import rows
from evomerge.store.absent import insert_absent
from evomerge.store.schema import manifest, outcome_block, recipe, study, task
from evomerge.store.trials import check_running
from evomerge.store.values import Lease

BlockFacts = tuple[str, frozenset[str]]
"""A block's protocol digest and item ids."""

Report = tuple[BlockFacts, Sequence[Outcome]]
"""What a worker found of a block."""

NOBODY = 0
"""Charged to no study: baselines and sealed items are free."""

# Statements of the hot path are built once; building costs more than running.
_LATER = (
    sa.select(outcome_block.c.id, outcome_block.c.body)
    .where(
        outcome_block.c.recipe_digest == sa.bindparam("recipe"),
        outcome_block.c.protocol_digest == sa.bindparam("protocol"),
        outcome_block.c.id > sa.bindparam("last"),
    )
    .order_by(outcome_block.c.id)
)
# Whoever adds outcomes of a recipe holds its row, so that none is added twice.
_HOLD = (
    sa.select(recipe.c.digest)
    .where(recipe.c.digest == sa.bindparam("recipe"))
    .with_for_update(key_share=True)
)
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


class KnownItems:
    """Which items are known of the recipes at work, so that no body is read twice.

    Rows are never changed, so those read before need not be read again. Only what a
    finished transaction saw is kept.
    """

    def __init__(self, n_kept: int = 256) -> None:
        self._kept: OrderedDict[tuple[str, str], tuple[int, frozenset[str]]]
        self._kept = OrderedDict()
        self._n_kept = n_kept

    def read(
        self, connection: sa.Connection, recipe_digest: str, protocol_digest: str
    ) -> frozenset[str]:
        """Return the items known of a recipe that this transaction holds."""
        place = (recipe_digest, protocol_digest)
        last, items = self._kept.get(place, (-1, frozenset()))
        key = {"recipe": recipe_digest, "protocol": protocol_digest, "last": last}
        for row in connection.execute(_LATER, key):
            last, items = row.id, items.union(rows.items_of(row.body))
        self._kept[place] = (last, items)
        self._kept.move_to_end(place)
        if len(self._kept) > self._n_kept:
            self._kept.popitem(last=False)
        return items


def record_block(
    connection: sa.Connection,
    lease: Lease,
    attempt: tuple[int, int],
    report: Report,
    known: KnownItems,
) -> None:
    """Record what a running attempt found of a block, and count what was new.

    Args:
        connection: A writing transaction.
        lease: The study's.
        attempt: Trial number and attempt.
        report: The block, and one outcome per item of it.
        known: What is known already.
    """
    (protocol_digest, items), outcomes = report
    row = check_running(connection, lease, *attempt)
    came = {outcome.item for outcome in outcomes}
    if came != items:
        raise StoreError(
            f"The block has {len(items)} items, but the {len(outcomes)} outcomes "
            f"lack {len(items - came)} of them and hold {len(came - items)} others."
        )
    payer = lease.study_id if row.generation > 0 else NOBODY
    place = (row.recipe_digest, protocol_digest)
    fresh = add(connection, place, outcomes, known, payer)
    if fresh and payer != NOBODY:
        connection.execute(_COUNT, {"study": payer, "fresh": fresh})


def add(
    connection: sa.Connection,
    place: tuple[str, str],
    outcomes: Sequence[Outcome],
    known: KnownItems,
    payer: int = NOBODY,
) -> int:
    """Record the outcomes that are not known yet; return how many those were.

    Args:
        connection: A writing transaction.
        place: Digests of recipe and protocol.
        outcomes: No item twice.
        known: What is known already.
        payer: The study whose budget they count against.
    """
    if len({outcome.item for outcome in outcomes}) != len(outcomes):
        raise StoreError("An item came twice in one report of outcomes.")
    recipe_digest, protocol_digest = place
    if connection.execute(_HOLD, {"recipe": recipe_digest}).first() is None:
        raise StoreError(
            f"No recipe {recipe_digest[:10]} is recorded with any trial, so its "
            "outcomes have no place; was its study deleted meanwhile?"
        )
    there = known.read(connection, recipe_digest, protocol_digest)
    fresh = [outcome for outcome in outcomes if outcome.item not in there]
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
            "charged_to": payer,
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
