"""From outcomes to the scores of a trial."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from evomerge.core.scoring_protocol import ItemRole, Outcome, Share, TaskDescription


def scores_of(
    tasks: Sequence[TaskDescription],
    known: Mapping[str, Mapping[str, Outcome]],
    role: ItemRole = ItemRole.SEARCH,
) -> dict[str, float]:
    """Average the outcomes of each task, and of each group, over the items of one role.

    Args:
        tasks: What is scored, and on which items.
        known: Task to item id to outcome; every item of the role is there.
        role: Which items count.

    Returns:
        ``task/metric`` to mean, with ``tokens`` and ``truncated`` as further metrics.
        Sums are exact (``fsum``), so the order of arrival cannot matter.
    """
    answers = {
        task.manifest.task: [
            known[task.manifest.task][item] for item in task.manifest.ids_of(role)
        ]
        for task in tasks
    }
    metrics = {task.manifest.task: task.metrics for task in tasks}
    for group, outcomes in pooled(tasks, answers).items():
        answers[group], metrics[group] = outcomes, tuple(outcomes[0].metrics)
    scores: dict[str, float] = {}
    for name, outcomes in answers.items():
        n = len(outcomes)
        for metric in metrics[name]:
            values = [outcome.metrics[metric] for outcome in outcomes]
            scores[f"{name}/{metric}"] = math.fsum(values) / n
        scores[f"{name}/tokens"] = sum(o.tokens for o in outcomes) / n
        scores[f"{name}/truncated"] = sum(o.truncated for o in outcomes) / n
    return scores


def pooled(
    tasks: Sequence[TaskDescription], answers: Mapping[str, Sequence[Outcome]]
) -> dict[str, list[Outcome]]:
    """Put the answers of every group's members together.

    Args:
        tasks: Among them the members.
        answers: Task to its outcomes, all of one role.

    Returns:
        Group to outcomes whose plain mean is the group's figure: where every task
        counts alike, the values of small tasks are raised and those of large lowered.
    """
    members: dict[str, dict[str, list[Share]]] = defaultdict(lambda: defaultdict(list))
    for task in tasks:
        for share in task.manifest.shares:
            if answers[task.manifest.task]:
                members[share.group][task.manifest.task].append(share)
    return {
        group: [
            outcome
            for name, shares in by_task.items()
            for outcome in _shared(name, shares, answers, by_task)
        ]
        for group, by_task in members.items()
    }


def _shared(
    name: str,
    shares: Sequence[Share],
    answers: Mapping[str, Sequence[Outcome]],
    members: Mapping[str, object],
) -> list[Outcome]:
    mine = answers[name]
    total = sum(len(answers[member]) for member in members)
    even = total / (len(members) * len(mine))
    return [
        Outcome(
            item=f"{name} {outcome.item}",
            metrics={
                share.metric: outcome.metrics[share.own]
                * (1.0 if share.by_size else even)
                for share in shares
            },
            tokens=outcome.tokens,
            truncated=outcome.truncated,
        )
        for outcome in mine
    ]
