"""From outcomes to the scores of a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evomerge.core.protocol import ItemRole, Outcome, TaskDescription


def scores_of(
    tasks: Sequence[TaskDescription],
    known: Mapping[str, Mapping[str, Outcome]],
    role: ItemRole = ItemRole.SEARCH,
) -> dict[str, float]:
    """Average the outcomes of each task over the items of one role.

    Args:
        tasks: What is scored, and on which items.
        known: Task to item id to outcome; every item of the role is there.
        role: Which items count.

    Returns:
        ``task/metric`` to mean, with ``tokens`` and ``truncated`` as further metrics.
        Sums are exact (``fsum``), so the order of arrival cannot matter.
    """
    scores: dict[str, float] = {}
    for task in tasks:
        name = task.manifest.task
        outcomes = [known[name][item] for item in task.manifest.ids_of(role)]
        n = len(outcomes)
        for metric in task.metrics:
            values = [outcome.metrics[metric] for outcome in outcomes]
            scores[f"{name}/{metric}"] = math.fsum(values) / n
        scores[f"{name}/tokens"] = sum(o.tokens for o in outcomes) / n
        scores[f"{name}/truncated"] = sum(o.truncated for o in outcomes) / n
    return scores
