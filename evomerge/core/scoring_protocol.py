"""How a task is scored, on which items, and what came out.

A protocol fixes everything that changes a score; a manifest fixes the items; an
outcome is one item scored. Their digests let results be reused, and refused. The scores
of a trial are means of outcomes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from evomerge.core.aggregates import score_of
from evomerge.core.digest import digest


class ItemRole(StrEnum):
    """What an item may be used for; no item has both roles."""

    SEARCH = "search"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a task.

    Attributes:
        id: Hash of its content, so equal questions have equal ids everywhere.
        role: Searched on, or held out for the report.
        block: Which block of its role it is scored in, from 0.
    """

    id: str
    role: ItemRole
    block: int


@dataclass(frozen=True, slots=True, order=True)
class BlockKey:
    """A group of items of one task that is scored and recorded together."""

    task: str
    role: ItemRole
    index: int


@dataclass(frozen=True, slots=True)
class Share:
    """A figure of a group of tasks that a metric of one of them counts into.

    Attributes:
        group: Name of the group; its figure is ``group/metric``.
        metric: What the group calls the metric.
        own: What the task calls it.
        by_size: Every item counts alike; else every task does.
    """

    group: str
    metric: str
    own: str
    by_size: bool

    def to_json(self) -> list[Any]:
        """Return the plain form."""
        return [self.group, self.metric, self.own, self.by_size]

    @classmethod
    def from_json(cls, data: list[Any]) -> Share:
        """Read the plain form."""
        return cls(*data)


@dataclass(frozen=True)
class Manifest:
    """A task's items, without their text.

    Attributes:
        shares: What the task counts into, where it is a member of groups.
    """

    task: str
    items: tuple[Item, ...]
    shares: tuple[Share, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Name of this set of items and blocks."""
        return digest(self.to_json())

    def blocks(self, role: ItemRole) -> tuple[BlockKey, ...]:
        """Return the blocks of one role, in order."""
        indices = sorted({item.block for item in self.items if item.role == role})
        return tuple(BlockKey(self.task, role, index) for index in indices)

    def ids(self, block: BlockKey) -> tuple[str, ...]:
        """Return the item ids of a block, in order."""
        return tuple(
            item.id
            for item in self.items
            if item.role == block.role and item.block == block.index
        )

    def ids_of(self, role: ItemRole) -> tuple[str, ...]:
        """Return the item ids of a role, in block order."""
        return tuple(item.id for item in self.items if item.role == role)

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        plain: dict[str, Any] = {
            "task": self.task,
            "items": [[item.id, item.role.value, item.block] for item in self.items],
        }
        if self.shares:
            plain["shares"] = [share.to_json() for share in self.shares]
        return plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Read the plain form."""
        items = tuple(
            Item(i, ItemRole(role), block) for i, role, block in data["items"]
        )
        shares = tuple(Share.from_json(share) for share in data.get("shares", ()))
        return cls(task=data["task"], items=items, shares=shares)


@dataclass(frozen=True)
class ScoringProtocol:
    """Everything that decides how a task's items become outcomes.

    Attributes:
        task: The task's name in the study.
        settings: Plain data: resolved task config, few-shot, generation settings, chat
            template, tokenizer digest, dtype, length limit, engine kind and version,
            lm-eval version.
    """

    task: str
    settings: Mapping[str, Any]

    @cached_property
    def digest(self) -> str:
        """Name of this way of scoring; the task's own name is not part of it."""
        return digest(dict(self.settings))

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"task": self.task, "settings": dict(self.settings)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScoringProtocol:
        """Read the plain form."""
        return cls(task=data["task"], settings=data["settings"])


@dataclass(frozen=True, slots=True)
class TaskDescription:
    """What a worker says of a task before it gets work."""

    manifest: Manifest
    protocol: ScoringProtocol
    metrics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One item scored.

    Attributes:
        item: The item's id.
        metrics: Metric name to value; higher or lower is better as the task says.
        tokens: Tokens generated for this item (0 where nothing is generated).
        truncated: The answer ran into the token limit.
    """

    item: str
    metrics: Mapping[str, float]
    tokens: int = 0
    truncated: bool = False

    def to_json(self) -> list[Any]:
        """Return the plain form."""
        return [self.item, dict(self.metrics), self.tokens, self.truncated]

    @classmethod
    def from_json(cls, data: list[Any]) -> Outcome:
        """Read the plain form."""
        item, metrics, tokens, truncated = data
        return cls(item, metrics, tokens, truncated)


def scores_of(
    tasks: Sequence[TaskDescription],
    known: Mapping[str, Mapping[str, Outcome]],
    role: ItemRole = ItemRole.SEARCH,
) -> dict[str, float]:
    """Put together the outcomes of each task and group, over the items of one role.

    Args:
        tasks: What is scored, and on which items.
        known: Task to item id to outcome; every item of the role is there.
        role: Which items count.

    Returns:
        ``task/metric`` to mean, or to what ``core.aggregates`` makes of its parts,
        with ``tokens`` and ``truncated`` as further metrics.
        Sums are exact (``fsum``), so the order of arrival cannot matter.
    """
    scores: dict[str, float] = {}
    for name, metrics, outcomes in _answers(tasks, known, role):
        n = len(outcomes)
        for metric in metrics:
            values = [outcome.metrics for outcome in outcomes]
            scores[f"{name}/{metric}"] = score_of(metric, values)
        scores[f"{name}/tokens"] = sum(o.tokens for o in outcomes) / n
        scores[f"{name}/truncated"] = sum(o.truncated for o in outcomes) / n
    return scores


def errors_of(
    tasks: Sequence[TaskDescription], known: Mapping[str, Mapping[str, Outcome]]
) -> dict[str, float]:
    """Return how far the means of ``scores_of`` may be from those of further items.

    Args:
        tasks: What is scored, and on which search items.
        known: Task to item id to outcome; every search item is there.

    Returns:
        Measure to the standard error of its mean, as if items were drawn at random. A
        group's is no smaller than that of tasks that are drawn from one by one. A
        mean over one item has none, nor has what is no mean.
    """
    errors: dict[str, float] = {}
    for name, metrics, outcomes in _answers(tasks, known, ItemRole.SEARCH):
        if len(outcomes) > 1:
            for metric in metrics:
                if metric in outcomes[0].metrics:
                    values = [outcome.metrics[metric] for outcome in outcomes]
                    errors[f"{name}/{metric}"] = _standard_error(values)
            errors[f"{name}/tokens"] = _standard_error([o.tokens for o in outcomes])
            truncated = [o.truncated for o in outcomes]
            errors[f"{name}/truncated"] = _standard_error(truncated)
    return errors


def _standard_error(values: Sequence[float]) -> float:
    n = len(values)
    mean = math.fsum(values) / n
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n * (n - 1)))


def _answers(
    tasks: Sequence[TaskDescription],
    known: Mapping[str, Mapping[str, Outcome]],
    role: ItemRole,
) -> Iterator[tuple[str, Sequence[str], Sequence[Outcome]]]:
    """Yield every task and group, its metrics, and its outcomes of one role."""
    answers = {
        task.manifest.task: [
            known[task.manifest.task][item] for item in task.manifest.ids_of(role)
        ]
        for task in tasks
    }
    metrics = {task.manifest.task: task.metrics for task in tasks}
    for group, outcomes in pooled(tasks, answers).items():
        answers[group], metrics[group] = outcomes, tuple(outcomes[0].metrics)
    for name, outcomes in answers.items():
        yield name, metrics[name], outcomes


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
