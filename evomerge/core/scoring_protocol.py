"""How a task is scored, on which items, and what came out.

A protocol fixes everything that changes a score; a manifest fixes the items; an
outcome is one item scored. Their digests let results be reused, and refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

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
        role: Searched on, or sealed for the report.
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
