"""Which nodes a study goes on with, and when it has none left; without Ray and clocks.

A node on which workers fail is set aside for this study, with its reason. The study
ends when that says nothing about nodes any more: when all of them fail alike, or three
do before any worker was ready. Else it waits for a node, as long as it has patience.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from evomerge.cluster.start import TRIES
from evomerge.core.trial import Failure
from evomerge.core.work import Node, NodeSetAside, WorkerLost
from evomerge.errors import WorkerError

ALIKE = 3
"""Nodes that fail alike before any worker was ready; another would too."""
START_PATIENCE_S = 600.0
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _Aside:
    node: Node
    loss: WorkerLost

    @property
    def reason(self) -> str:
        return _words(self.loss)


class Nodes:
    """What the starts of workers have shown of the nodes.

    Args:
        patience_s: How long to wait for a node when none is left.
    """

    def __init__(self, patience_s: float = START_PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._aside: dict[str, _Aside] = {}
        self._strikes: Counter[str | None] = Counter()
        self._was_ready = False
        self._since: float | None = None

    @property
    def aside(self) -> tuple[str, ...]:
        """Ids of the nodes that are set aside."""
        return tuple(self._aside)

    def succeeded(self, node: Node | None) -> None:
        """A worker is ready on a node."""
        self._was_ready = True
        self._strikes.pop(None, None)
        self._strikes.pop(None if node is None else node.id, None)

    def failed(
        self, node: Node | None, lost: WorkerLost, usable: Collection[str]
    ) -> Iterator[WorkerLost | NodeSetAside]:
        """A worker never became ready.

        Args:
            node: Where that was, None if it cannot be told.
            lost: Its loss; ``fatal`` if the next one there would be lost too.
            usable: Ids of the nodes that a worker fits on, this one included.

        Returns:
            What to tell: the loss, fatal if the study has to end, and before it the
            node if it is set aside.
        """
        key = None if node is None else node.id
        self._strikes[key] += 1
        is_tired = self._strikes[key] >= TRIES
        if not (lost.fatal or is_tired):
            yield lost
            return
        if node is None:
            yield replace(lost, fatal=True)
            return
        self._aside[node.id] = _Aside(node, lost)
        del self._strikes[key]
        if self._are_alike(lost, usable):
            yield replace(lost, failure=self._told(node, lost), fatal=True)
            return
        yield NodeSetAside(node, _words(lost))
        yield replace(lost, fatal=False, futile=False)

    def wait(self, now: float, usable: Collection[str], *, is_up: bool) -> None:
        """Look whether there is anything left to wait for.

        Args:
            now: Seconds of a clock that only runs while the cluster can be seen.
            usable: Ids of the nodes that a worker fits on.
            is_up: Some worker is ready.

        Raises:
            WorkerError: No node could be used for longer than there is patience.
        """
        if is_up or set(usable) - self._aside.keys():
            self._since = None
            return
        if self._since is None:
            self._since = now
        if now - self._since >= self._patience_s:
            raise WorkerError(
                f"No node that a worker could run on for {now - self._since:.0f} s. "
                f"{self._account()}"
            )

    def _are_alike(self, lost: WorkerLost, usable: Collection[str]) -> bool:
        alike = {key for key, it in self._aside.items() if it.loss.kind == lost.kind}
        if not set(usable) - alike:
            return True
        return len(alike) >= ALIKE and not self._was_ready

    def _told(self, node: Node, lost: WorkerLost) -> Failure:
        """Say how many nodes failed alike, if there are others."""
        alike = [it for it in self._aside.values() if it.loss.kind == lost.kind]
        if len(alike) == 1:
            return lost.failure
        head, end, rest = lost.failure.message.partition("\n")
        head = f"{len(alike)} nodes failed alike. On {node}: {head}"
        return replace(lost.failure, message=head + end + rest)

    def _account(self) -> str:
        if not self._aside:
            return "Add one, or ask for less per worker."
        found = list(self._aside.values())
        said = "; ".join(f"{it.node}: {it.reason}" for it in found[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"Set aside: {said}{more}"


def _words(lost: WorkerLost) -> str:
    return lost.failure.message.partition("\n")[0]
