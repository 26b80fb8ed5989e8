"""Whether outcomes, recipes and scores agree; one recipe at a time, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby

import sqlalchemy as sa

from evomerge.core.digest import digest
from evomerge.core.scoring_protocol import (
    ItemRole,
    Outcome,
    TaskDescription,
    errors_of,
    scores_of,
)
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import legible, mapping
from evomerge.store.tables.schema import (
    generation,
    manifest,
    outcome_block,
    protocol,
    recipe,
    trial,
)
from evomerge.store.values import Fault

Known = dict[str, dict[str, Outcome]]
"""Protocol digest to item id to outcome."""

Studies = Mapping[int, tuple[str, Sequence[TaskDescription] | None]]
"""Study id to name and tasks; None where it has none that can be read."""

_NOTICE_EVERY = 1000


def check_blocks(
    connection: sa.Connection, known_studies: Studies, notice: Callable[[str], None]
) -> Iterator[Fault]:
    """Return what is wrong with recipes, outcomes, or the scores made of them."""
    yield from _ways(connection)
    protocols = set(connection.scalars(sa.select(protocol.c.digest)))
    blocks = _blocks(connection)
    place, group = next(blocks, (None, []))
    recipes = connection.execute(
        sa.select(recipe).order_by(recipe.c.digest).execution_options(yield_per=500)
    )
    for n, row in enumerate(recipes):
        if n % _NOTICE_EVERY == 0:
            notice(f"recipe {n}")
        where = f"recipe {row.digest[:10]}"
        yield from _named(where, row.digest, partial(_name_of_recipe, row.body))
        while place is not None and place < row.digest:
            yield Fault(f"outcomes of recipe {place[:10]}", "belong to no recipe")
            place, group = next(blocks, (None, []))
        known: Known = {}
        if place == row.digest:
            yield from _outcomes(row.digest, group, protocols, known)
            place, group = next(blocks, (None, []))
        yield from _scores(connection, row.digest, known, known_studies)
    while place is not None:
        yield Fault(f"outcomes of recipe {place[:10]}", "belong to no recipe")
        place, group = next(blocks, (None, []))


def _ways(connection: sa.Connection) -> Iterator[Fault]:
    """Protocols and manifests have the content that their names say."""
    for row in connection.execute(sa.select(protocol).order_by(protocol.c.digest)):
        where = f"protocol {row.digest[:10]}"
        settings = partial(_name_of_protocol, row.settings)
        yield from _named(where, row.digest, settings)
    for row in connection.execute(sa.select(manifest).order_by(manifest.c.digest)):
        where = f"manifest {row.digest[:10]}"
        yield from _named(where, row.digest, partial(_name_of_manifest, row.body))


def _name_of_recipe(body: bytes) -> str:
    return rows.recipe_of(body).digest


def _name_of_manifest(body: bytes) -> str:
    return rows.manifest_of(body).digest


def _name_of_protocol(settings: str) -> str:
    return digest(mapping("A protocol", settings))


def _named(where: str, name: str, read: Callable[[], str]) -> Iterator[Fault]:
    """Compare a name with the digest of the content it stands for."""
    found = legible(where, read)
    if isinstance(found, Fault):
        yield found
    elif found != name:
        yield Fault(where, f"has another content than its name says: {found[:10]}")


def _blocks(connection: sa.Connection) -> Iterator[tuple[str, list[rows.Row]]]:
    """Yield the blocks of one recipe after another, by digest."""
    found = connection.execute(
        sa.select(outcome_block)
        .order_by(outcome_block.c.recipe_digest, outcome_block.c.id)
        .execution_options(yield_per=500)
    )
    for place, group in groupby(found, key=lambda row: str(row.recipe_digest)):
        yield place, list(group)


def _outcomes(
    recipe_digest: str, group: list[rows.Row], protocols: set[str], known: Known
) -> Iterator[Fault]:
    """Check the blocks of one recipe, and collect their outcomes in ``known``."""
    for row in group:
        where = f"outcome block {row.id} of recipe {recipe_digest[:10]}"
        if row.protocol_digest not in protocols:
            yield Fault(where, "was made by no protocol that is recorded")
        read = legible(where, partial(_content, row))
        if isinstance(read, Fault):
            yield read
            continue
        outcomes, has_means = read
        items = sorted(outcome.item for outcome in outcomes)
        there = known.setdefault(row.protocol_digest, {})
        if twice := [item for item in items if item in there]:
            yield Fault(where, f"holds {len(twice)} items that another block holds")
        if len(items) != row.n_items or digest(items) != row.items_digest:
            yield Fault(where, "holds other items than its name says")
        if not has_means:
            yield Fault(where, "has means that are not those of its outcomes")
        for outcome in outcomes:
            there.setdefault(outcome.item, outcome)


def _content(row: rows.Row) -> tuple[list[Outcome], bool]:
    """Return a block's outcomes, and whether its means are theirs."""
    outcomes = rows.outcomes_of(row.body)
    means = mapping("The means of a block", row.means)
    return outcomes, not outcomes or means == rows.means_of(outcomes)


def _scores(
    connection: sa.Connection,
    recipe_digest: str,
    known: Known,
    known_studies: Studies,
) -> Iterator[Fault]:
    """Compare the scores of a recipe's trials with its outcomes."""
    found = connection.execute(
        sa.select(trial, generation.c.sample)
        .join_from(
            trial,
            generation,
            (generation.c.study_id == trial.c.study_id)
            & (generation.c.number == trial.c.generation),
            isouter=True,
        )
        .where(trial.c.recipe_digest == recipe_digest)
        .order_by(trial.c.study_id, trial.c.number)
    ).all()
    if not found:
        yield Fault(f"recipe {recipe_digest[:10]}", "belongs to no trial")
    for row in found:
        name, of_study = known_studies.get(row.study_id, ("", None))
        if row.state != "scored" or row.scores is None or of_study is None:
            continue  # told elsewhere
        where = f"study {name!r}, trial {row.number}"
        sample = legible(where, partial(rows.sample_of, row.sample))
        if not isinstance(sample, Fault):  # which is told elsewhere
            asked = of_study if sample is None else sample.of(of_study)
            yield from _trial(where, row, asked, of_study, known)


def _trial(
    where: str,
    row: rows.Row,
    asked: Sequence[TaskDescription],
    every: Sequence[TaskDescription],
    known: Known,
) -> Iterator[Fault]:
    """Compare what a scored trial says with the outcomes of what it was asked."""
    by_task = {t.manifest.task: known.get(t.protocol.digest, {}) for t in asked}
    missing = sum(
        item not in by_task[t.manifest.task]
        for t in asked
        for item in t.manifest.ids_of(ItemRole.SEARCH)
    )
    if missing:
        yield Fault(where, f"is scored, but {missing} outcomes are not there")
        return
    agree = legible(where, partial(_agree, row, asked, by_task))
    if isinstance(agree, Fault):
        yield agree
    elif agree is not None:
        yield Fault(where, agree)
    said, there = (row.n_items, row.of_items), (_n_items(asked), _n_items(every))
    if said not in (there, (None, None)):
        yield Fault(
            where,
            f"says that it answered {said[0]} of {said[1]} items, its generation "
            f"asks {there[0]} of {there[1]}",
        )


def _n_items(tasks: Sequence[TaskDescription]) -> int:
    return sum(len(task.manifest.ids_of(ItemRole.SEARCH)) for task in tasks)


def _agree(
    row: rows.Row,
    tasks: Sequence[TaskDescription],
    by_task: Mapping[str, Mapping[str, Outcome]],
) -> str | None:
    """Say which of a trial's numbers do not come from its outcomes, if some do not."""
    wanted = scores_of(tasks, by_task)
    of_tasks = {measure.partition("/")[0] for measure in wanted}
    recorded = mapping("Scores", row.scores).items()
    if wanted != {m: v for m, v in recorded if m.partition("/")[0] in of_tasks}:
        return "has scores that are not the averages of its outcomes"
    if row.errors is None:
        return None  # not remembered
    if mapping("Errors of scores", row.errors) != errors_of(tasks, by_task):
        return "has errors that are not those of its outcomes"
    return None
