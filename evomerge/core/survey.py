"""What is known of a study's tasks before any engine starts.

``scoring`` finds it out, from task files and data alone; ``specs`` judges the study
file by it: names of tasks and metrics, which way is better, the members of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.core.scoring_protocol import Share
from evomerge.core.work import TaskSettings
from evomerge.errors import Problem

ALWAYS = ("tokens", "truncated")
"""Measured of every task, whatever its metrics; less is better."""


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What can be measured of a task, of a group of tasks, or of one of its members.

    Attributes:
        senses: Metric to whether higher is better; None where nobody says.
        refused: Metric that the task has, but that cannot be scored here, to what to
            use instead.
        generates: Answers are texts, so that tokens are counted.
        images: Prompts hold images.
        rewards: Texts are rated by a reward model.
    """

    senses: Mapping[str, bool | None]
    refused: Mapping[str, str] = field(default_factory=dict)
    generates: bool = True
    images: bool = False
    rewards: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A task that a group stands for.

    Attributes:
        task: Its name in lm-eval.
        is_local: It stands in the folder of task files, not in lm-eval's library.
        overrides: What the group lays over the task's own config; plain JSON data.
        shares: The figures that its metrics count into.
    """

    task: str
    is_local: bool
    overrides: Mapping[str, Any]
    shares: tuple[Share, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "task": self.task,
            "is_local": self.is_local,
            "overrides": dict(self.overrides),
            "shares": [share.to_json() for share in self.shares],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Member:
        """Read the plain form."""
        shares = tuple(Share.from_json(share) for share in data["shares"])
        return cls(data["task"], data["is_local"], data["overrides"], shares)


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What was found out about tasks.

    Attributes:
        facts: Task to what can be measured of it. The members of a group, and groups
            within it, are there as ``group.member``. Tasks that could not be read are
            missing.
        items: Task to its number of search and of report items; of a group all
            members' together.
        members: Group, by its name in the study, to its members.
        problems: What is wrong; ``where`` is the key below ``tasks``.
        warnings: What must be seen, likewise.
    """

    facts: Mapping[str, TaskFacts] = field(default_factory=dict)
    items: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    members: Mapping[str, tuple[Member, ...]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


IMAGE_ENGINE = "hf"
"""The kind of engine that shows images to models."""


def no_images(kind: str) -> str:
    """Say that a kind of engine shows no images, and what to do."""
    why = " (vLLM needs torchvision for them)" if kind == "vllm" else ""
    return (
        f"expected a task without images (doc_to_image), as engine {kind} shows none"
        f"{why}; set engine: {{kind: {IMAGE_ENGINE}}}, or leave this task out"
    )


Survey = Callable[[Sequence[TaskSettings]], Surveyed]
"""Finds out about tasks, groups among them, without an engine."""
