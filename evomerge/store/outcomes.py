"""What is known of (recipe, protocol, item): recorded once, reused everywhere.

A row holds the outcomes of one report that were not known before, so no item is kept
or counted twice however blocks are cut. Cost depends on the one recipe's rows, not on
the size of any study.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from evomerge.core.digest import digest
from evomerge.core.scoring_protocol import BlockKey, Outcome
from evomerge.errors import StoreError
from evomerge.store.tables import rows
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.prepared import Prepared
from evomerge.store.tables.schema import manifest, outcome_block, recipe, study, task
from evomerge.store.values import Lease

BlockFacts = tuple[str, frozenset[str]]
"""A block's protocol digest and item ids."""

Found = tuple[BlockFacts, Sequence[Outcome]]
"""What a worker found of a block."""

Place = tuple[str, str]
"""Digests of recipe and protocol."""

_Seen = tuple[int, frozenset[str]]
"""The largest key of the rows that were read, and their items."""

NOBODY = 0
"""Charged to no study: baselines and held-out items are free."""

# Statements of the hot path are built once; building costs more than running.
_OF_PLACE = (
    outcome_block.c.recipe_digest == sa.bindparam("of_recipe"),
    outcome_block.c.protocol_digest == sa.bindparam("of_protocol"),
)
_LATER = (
    sa.select(outcome_block.c.id, outcome_block.c.body)
    .where(*_OF_PLACE, outcome_block.c.id > sa.bindparam("last"))
    .order_by(outcome_block.c.id)
)
# Whoever adds outcomes of a recipe holds its row, so that none is added twice.
_HOLD = (
    sa.select(recipe.c.digest)
    .where(recipe.c.digest == sa.bindparam("of_recipe"))
    .with_for_update(key_share=True)
)
_KNOWN = (
    sa.select(outcome_block.c.protocol_digest, outcome_block.c.body)
    .where(
        outcome_block.c.recipe_digest == sa.bindparam("of_recipe"),
        outcome_block.c.protocol_digest.in_(
            sa.bindparam("of_protocols", expanding=True)
        ),
    )
    .order_by(outcome_block.c.id)
)
_COLUMNS = (
    *("recipe_digest", "protocol_digest", "items_digest", "n_items", "means"),
    *("body", "charged_to"),
)
# Goes in only if nothing came later than what the caller knows.
_ADD = Prepared(
    sa.insert(outcome_block)
    .from_select(
        [*_COLUMNS, "created"],
        sa.select(
            *(
                sa.bindparam(name, type_=outcome_block.c[name].type)
                for name in _COLUMNS
            ),
            NOW,
        ).where(
            ~sa.exists().where(*_OF_PLACE, outcome_block.c.id > sa.bindparam("last"))
        ),
    )
    .returning(outcome_block.c.id)
)
_COUNT = Prepared(
    sa.update(study)
    .where(study.c.id == sa.bindparam("study"))
    .values(n_items=study.c.n_items + sa.bindparam("fresh"))
)


@dataclass(frozen=True, slots=True)
class Added:
    """A row that was added: where, its key, and its items."""

    place: Place
    id: int
    items: frozenset[str]


class KnownItems:
    """Which items are known of the recipes at work, so that no body is read twice.

    Rows are never changed and get growing keys, so those read before need not be read
    again. Only what is committed is kept, and only until the recipe's trial has ended.
    """

    def __init__(self, n_kept: int = 4096) -> None:
        """Begin with nothing.

        Args:
            n_kept: Recipes that are remembered at once; more than are ever at work.
        """
        self._kept: OrderedDict[str, dict[str, _Seen]] = OrderedDict()
        self._n_kept = n_kept

    def at(self, place: Place) -> _Seen:
        """Return the largest key seen, and the items of all rows up to it."""
        recipe, protocol = place
        return self._kept.get(recipe, {}).get(protocol, (-1, frozenset()))

    def read(self, connection: sa.Connection, place: Place) -> None:
        """Read the rows that came since."""
        last, items = self.at(place)
        for row in connection.execute(_LATER, {**_key(place), "last": last}):
            last, items = row.id, items.union(rows.items_of(row.body))
        self._keep(place, last, items)

    def learn(self, added: Added) -> None:
        """Remember a row of ours, once it is committed."""
        _, items = self.at(added.place)
        self._keep(added.place, added.id, items | added.items)

    def forget(self, recipe: str) -> None:
        """Let go of a recipe that nobody is at any more."""
        self._kept.pop(recipe, None)

    def _keep(self, place: Place, last: int, items: frozenset[str]) -> None:
        recipe, protocol = place
        self._kept.setdefault(recipe, {})[protocol] = (last, items)
        self._kept.move_to_end(recipe)
        if len(self._kept) > self._n_kept:
            self._kept.popitem(last=False)


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


def record(
    connection: sa.Connection,
    lease: Lease,
    trial: rows.Row,
    found: Iterable[Found],
    known: KnownItems,
) -> list[Added]:
    """Record what a running attempt found, and count what was new.

    Args:
        connection: A writing transaction.
        lease: The study's.
        trial: The trial's row, held.
        found: Blocks, and one outcome per item of each.
        known: What is known already; the caller teaches it what was added, after the
            commit.
    """
    by_protocol: dict[str, list[Outcome]] = {}
    for (protocol_digest, items), outcomes in found:
        came = {outcome.item for outcome in outcomes}
        if came != items:
            raise StoreError(
                f"The block has {len(items)} items, but the {len(outcomes)} outcomes "
                f"lack {len(items - came)} of them and hold {len(came - items)} others."
            )
        by_protocol.setdefault(protocol_digest, []).extend(outcomes)
    payer = lease.study_id if trial.generation > 0 else NOBODY
    added = []
    for protocol_digest, came_in in by_protocol.items():
        place = (trial.recipe_digest, protocol_digest)
        new = _add(connection, place, came_in, known, payer)
        added += [] if new is None else [new]
    if added and payer != NOBODY:
        _COUNT(connection, {"study": payer, "fresh": sum(len(a.items) for a in added)})
    return added


def add(
    connection: sa.Connection,
    place: Place,
    outcomes: Sequence[Outcome],
    known: KnownItems,
) -> Added | None:
    """Record outcomes that cost no study anything."""
    if connection.execute(_HOLD, _key(place)).first() is None:
        raise StoreError(
            f"No recipe {place[0][:10]} is recorded with any trial, so its outcomes "
            "have no place; was its study deleted meanwhile?"
        )
    return _add(connection, place, outcomes, known, NOBODY)


def _add(
    connection: sa.Connection,
    place: Place,
    outcomes: Sequence[Outcome],
    known: KnownItems,
    payer: int,
) -> Added | None:
    """Record the outcomes that are not known yet; the recipe's row is held."""
    if len({outcome.item for outcome in outcomes}) != len(outcomes):
        raise StoreError("An item came twice in one report of outcomes.")
    for _ in range(2):
        last, there = known.at(place)
        fresh = [outcome for outcome in outcomes if outcome.item not in there]
        if not fresh:
            return None
        items = frozenset(outcome.item for outcome in fresh)
        row = {
            **_key(place),
            "last": last,
            "recipe_digest": place[0],
            "protocol_digest": place[1],
            "items_digest": _name_of(items),
            "n_items": len(fresh),
            "means": rows.to_text("A block's means", rows.means_of(fresh)),
            "body": rows.pack("Outcomes", [outcome.to_json() for outcome in fresh]),
            "charged_to": payer,
        }
        new = _ADD(connection, row)
        if new is not None:
            return Added(place, new.id, items)
        known.read(connection, place)  # somebody added more; see what is left
    raise StoreError("Outcomes were added to a recipe that this transaction holds.")


def find(
    connection: sa.Connection, recipe_digest: str, protocol_digests: Iterable[str]
) -> dict[str, dict[str, Outcome]]:
    """Return every known outcome by protocol and item; the first recorded stands."""
    known: dict[str, dict[str, Outcome]] = {way: {} for way in protocol_digests}
    key = {"of_recipe": recipe_digest, "of_protocols": list(known)}
    for row in connection.execute(_KNOWN, key):
        found = known[row.protocol_digest]
        for outcome in rows.outcomes_of(row.body):
            found.setdefault(outcome.item, outcome)
    return known


def _key(place: Place) -> dict[str, str]:
    return {"of_recipe": place[0], "of_protocol": place[1]}


@lru_cache(maxsize=1024)  # the blocks of a study come again with every trial
def _name_of(items: frozenset[str]) -> str:
    return digest(sorted(items))
