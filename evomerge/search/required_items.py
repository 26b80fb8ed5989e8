"""What a study's tasks ask of a trial (blocks, their items), and what they measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from evomerge.core.measures import Evidence
from evomerge.core.meter import Meter
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import (
    BlockKey,
    ItemRole,
    Outcome,
    TaskDescription,
    errors_of,
    scores_of,
)
from evomerge.core.study import Constraint, Objective
from evomerge.core.survey import ALWAYS
from evomerge.core.trial import Blame, Cause, Failure, Precision
from evomerge.core.work import BlockScored

Known = dict[str, dict[str, Outcome]]
"""Task to item id to outcome."""


class RequiredItems:
    """The search items of every task, by block; made once, read for every trial."""

    def __init__(self, tasks: Sequence[TaskDescription]) -> None:
        self.tasks = tuple(tasks)
        places: list[tuple[float, BlockKey, tuple[str, ...]]] = []
        for task in tasks:
            blocks = task.manifest.blocks(ItemRole.SEARCH)
            places += (
                ((place + 0.5) / len(blocks), block, task.manifest.ids(block))
                for place, block in enumerate(blocks)
            )
        # Any few in a row are of all tasks alike, so what they take tells of the rest.
        places.sort(key=lambda found: found[0])
        self._ids = {block: ids for _, block, ids in places}
        self._n_items = sum(map(len, self._ids.values()))

    @property
    def n_items(self) -> int:
        """Items of every block."""
        return self._n_items

    def unknown(self, blocks: Iterable[BlockKey], known: Known) -> int:
        """Return how many items of these blocks have no outcome."""
        return sum(
            item not in known[block.task]
            for block in blocks
            for item in self._ids[block]
        )

    def n_of(self, blocks: Iterable[BlockKey]) -> int:
        """Return how many items these blocks have."""
        return sum(len(self._ids[block]) for block in blocks)

    @property
    def blocks(self) -> tuple[BlockKey, ...]:
        """Every block; those of several tasks in turn."""
        return tuple(self._ids)

    def missing(self, known: Known) -> tuple[BlockKey, ...]:
        """Return the blocks with an item that has no outcome, in order."""
        return tuple(
            block
            for block, ids in self._ids.items()
            if not all(item in known[block.task] for item in ids)
        )

    def asked(self, known: Known) -> Known:
        """Return the outcomes of these blocks' items, and of no others."""
        out: Known = {}
        for block, ids in self._ids.items():
            mine = known[block.task]
            out.setdefault(block.task, {}).update((item, mine[item]) for item in ids)
        return out

    def fault(self, event: BlockScored) -> Failure | None:
        """Say what is wrong with a block's answers, if something is."""
        if tuple(o.item for o in event.outcomes) != self._ids.get(event.block):
            return Failure(
                Cause.ENGINE,
                Blame.MACHINE,
                f"{event.worker} answered other items than block {event.block} has.",
            )
        for outcome in event.outcomes:
            for metric, value in outcome.metrics.items():
                if not math.isfinite(value):
                    return Failure(
                        Cause.EVALUATION,
                        Blame.CANDIDATE,
                        f"Metric {metric!r} of task {event.block.task!r} is {value} "
                        f"for item {outcome.item}.",
                    )
        return None

    def scores(self, known: Mapping[str, Mapping[str, Outcome]]) -> dict[str, float]:
        """Average the outcomes of each task; see ``core.scoring_protocol``."""
        return scores_of(self.tasks, known)

    def errors(self, known: Mapping[str, Mapping[str, Outcome]]) -> dict[str, float]:
        """Return the standard errors of these averages."""
        return errors_of(self.tasks, known)


class Requirements:
    """What a trial must have before it is scored, and its scores from all sources.

    Where a generation answers a sample of the blocks, only those count, whatever else
    is known of a recipe: what is told must not depend on what others have found.
    A recipe's speed is measured once, over all of its blocks, for one over some of them
    could not be compared with one over others.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        """Begin without tasks; no meter means that tasks give all measures."""
        self.items = RequiredItems(())
        self._all = self.items
        self._sample: Sample | None = None
        self._meter = meter
        self._is_timed = meter is not None and meter.is_timed
        self._speeds: dict[str, float] = {}

    @property
    def is_timed(self) -> bool:
        """The speed of a trial counts, so one worker does all of it."""
        return self._is_timed

    def describe(self, tasks: Sequence[TaskDescription]) -> None:
        """Take what has to be scored; every worker says so when it comes."""
        if tuple(tasks) != self._all.tasks:
            self._all = RequiredItems(tasks)
            self.choose(self._sample)

    def choose(self, sample: Sample | None) -> None:
        """Ask these blocks from now on; None for all."""
        tasks, self._sample = self._all.tasks, sample
        self.items = self._all if sample is None else RequiredItems(sample.of(tasks))

    def learn(self, recipe: str, tokens_per_second: float) -> None:
        """Take a speed for that of a recipe, unless it has one."""
        if self._is_timed:
            self._speeds.setdefault(recipe, tokens_per_second)

    def blocks(self, recipe: Recipe, known: Known) -> tuple[BlockKey, ...]:
        """Return the blocks to score, in order."""
        if self._is_timed and recipe.digest not in self._speeds:
            return self.items.blocks
        return self.items.missing(known)

    def scores(self, recipe: Recipe, known: Known) -> dict[str, float]:
        """Return the scores of a recipe of which no block is left to score."""
        scores = self.items.scores(known)
        if self._meter is None:
            return scores
        speed = self._speeds[recipe.digest] if self._is_timed else None
        asked = self.items.asked(known)
        found = Evidence(recipe, self._meter.lookup, asked, speed)
        return scores | self._meter.values(found)

    def precision(self, known: Known) -> Precision:
        """Return how much these scores tell."""
        n_items, of_items = self.items.n_items, self._all.n_items
        return Precision(self.items.errors(known), n_items, of_items)


def missing_measures(
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
    tasks: Sequence[TaskDescription],
) -> tuple[list[str], str]:
    """Compare what is wanted of tasks with what they offer.

    Returns:
        The wanted measures (``task/metric``) that no task offers, and all that are
        offered, as one line of text.
    """
    offered = {
        f"{task.manifest.task}/{metric}"
        for task in tasks
        for metric in (*task.metrics, *ALWAYS)
    } | {
        f"{share.group}/{metric}"
        for task in tasks
        for share in task.manifest.shares
        for metric in (share.metric, *ALWAYS)
    }
    bounded = [constraint.objective for constraint in constraints]
    wanted = {str(m) for o in (*objectives, *bounded) for m in o.measures if m.by_item}
    return sorted(wanted - offered), ", ".join(sorted(offered))
