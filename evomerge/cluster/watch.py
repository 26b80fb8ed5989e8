"""The cluster as it was last seen, by a thread of its own.

Asking the cluster's head blocks while that is away, and the study goes on meanwhile:
workers and coordinator talk to each other without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from evomerge.core.work import Node

_log = logging.getLogger(__name__)

PERIOD_S = 1.0
STALE_S = 6.0
"""Seconds without an answer after which the head counts as away."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A node that is alive, and what it has in all, in use or not.

    Attributes:
        memory: In bytes.
    """

    node: Node
    cpus: float
    gpus: float
    memory: float


@dataclass(frozen=True, slots=True)
class Seen:
    """The cluster at one moment.

    Attributes:
        machines: The nodes that are alive, by id.
        places: Actor to the id of the node it runs or ran on.
    """

    machines: Mapping[str, Machine] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)


class Watch:
    """Looks at the cluster again and again.

    Args:
        look: Asks the head; may block, and raise anything.
        clock: In seconds.
    """

    def __init__(
        self, look: Callable[[], Seen], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._clock = clock
        self._seen = Seen()
        self._at = clock()
        self._away_s = 0.0
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look once now, and from then on in a thread.

        Raises:
            Exception: What the first look raised.
        """
        self._note(self._look())
        self._thread = threading.Thread(
            target=self._go_on, name="evomerge-watch", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Look no more; idempotent. A look that hangs is left to itself."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join(timeout=PERIOD_S)
            self._thread = None

    @property
    def seen(self) -> Seen:
        """What was seen last."""
        return self._seen

    @property
    def is_away(self) -> bool:
        """The head has not answered for some time."""
        return self._clock() - self._at > STALE_S

    @property
    def now(self) -> float:
        """Seconds of a clock that stands still while the head is away."""
        unseen = self._clock() - self._at
        return self._clock() - self._away_s - (unseen if self.is_away else 0.0)

    def _go_on(self) -> None:
        while not self._is_over.wait(PERIOD_S):
            try:
                self._note(self._look())
            except Exception as error:  # noqa: BLE001 - the head may be away
                _log.debug("the cluster was not seen: %s", error)

    def _note(self, seen: Seen) -> None:
        now = self._clock()
        unseen = now - self._at
        if unseen > STALE_S:
            self._away_s += unseen
            _log.warning("The head of the cluster answers again, after %.0f s.", unseen)
        self._seen, self._at = seen, now
