"""What a study's tasks ask of a trial: blocks, their items, and the mean of answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evomerge.core.scoring_protocol import (
    BlockKey,
    ItemRole,
    Outcome,
    TaskDescription,
    scores_of,
)
from evomerge.core.trial import Blame, Cause, Failure
from evomerge.core.work import BlockScored

Known = dict[str, dict[str, Outcome]]
"""Task to item id to outcome."""


class RequiredItems:
    """The search items of every task, by block; made once, read for every trial."""

    def __init__(self, tasks: Sequence[TaskDescription]) -> None:
        self.tasks = tuple(tasks)
        self._ids = {
            block: task.manifest.ids(block)
            for task in tasks
            for block in task.manifest.blocks(ItemRole.SEARCH)
        }

    @property
    def blocks(self) -> tuple[BlockKey, ...]:
        """Every block, in order."""
        return tuple(self._ids)

    def missing(self, known: Known) -> tuple[BlockKey, ...]:
        """Return the blocks with an item that has no outcome, in order."""
        return tuple(
            block
            for block, ids in self._ids.items()
            if not all(item in known[block.task] for item in ids)
        )

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
