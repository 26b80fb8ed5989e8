"""The blocks that all candidates of a generation answer, where they answer a share.

Candidates of one generation are compared with each other, so they have the same items:
how hard those are is then no difference between them. Another generation has others, so
that a search cannot fit some.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge.core.scoring_protocol import ItemRole, TaskDescription


@dataclass(frozen=True, slots=True)
class Sample:
    """Search blocks of every task.

    Attributes:
        blocks: Task and the indices of its blocks in order; by name of the task.
    """

    blocks: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def draw(
        cls,
        tasks: Sequence[TaskDescription],
        share: float,
        seed: int,
        generation: int,
    ) -> Sample:
        """Draw a generation's blocks: of every task the share, rounded up.

        What is drawn of a task follows from the arguments and from nothing else: not
        from other tasks, not from what was drawn before, not from a library's version.

        Args:
            tasks: What is scored.
            share: Of the blocks of each task, above 0.
            seed: The study's.
            generation: Its number as the strategy counts.
        """
        drawn = []
        for task in sorted(tasks, key=lambda one: one.manifest.task):
            name = task.manifest.task
            found = [b.index for b in task.manifest.blocks(ItemRole.SEARCH)]
            # Rounded first: 0.1 of 30 must not be 4 by the last bit of a product.
            n = math.ceil(round(share * len(found), 9))
            place = f"{seed} {generation} {name}"
            by_lot = sorted(found, key=lambda index: (_lot(place, index), index))
            drawn.append((name, tuple(sorted(by_lot[:n]))))
        return cls(tuple(drawn))

    def of(self, tasks: Sequence[TaskDescription]) -> tuple[TaskDescription, ...]:
        """Return tasks with these search blocks alone; held-out items stay."""
        kept = {name: set(indices) for name, indices in self.blocks}
        return tuple(
            replace(
                task,
                manifest=replace(
                    task.manifest,
                    items=tuple(
                        item
                        for item in task.manifest.items
                        if item.role is not ItemRole.SEARCH
                        or item.block in kept.get(task.manifest.task, ())
                    ),
                ),
            )
            for task in tasks
        )

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {name: list(indices) for name, indices in self.blocks}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sample:
        """Read the plain form.

        Raises:
            TypeError: It is something else.
        """
        for name, indices in data.items():
            if type(indices) is not list or {*map(type, indices)} - {int}:
                raise TypeError(f"the blocks of task {name!r:.60} are {indices!r:.60}")
        return cls(tuple((name, tuple(data[name])) for name in sorted(data)))


def _lot(place: str, index: int) -> bytes:
    text = f"{place} {index}".encode()
    return hashlib.blake2b(text, digest_size=8, person=b"item sample").digest()
