"""Wait for a database that went away, a little longer each time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from evomerge.errors import StoreUnreachableError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How a coordinator waits for its database, in seconds.

    Attributes:
        limit_s: Longest time without an answer.
        first_s: First pause; each one after it is twice as long.
        longest_s: No pause is longer.
    """

    limit_s: float = 600.0
    first_s: float = 0.2
    longest_s: float = 5.0


class Outage:
    """How long the database has been away, if it is."""

    def __init__(
        self,
        study: str,
        patience: Patience,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._study = study
        self._patience = patience
        self._clock = clock
        self._sleep = sleep
        self._since: float | None = None
        self._pause_s = patience.first_s

    def wait(self, error: StoreUnreachableError) -> None:
        """Pause before the next try.

        Raises:
            StoreUnreachableError: The limit is reached; says how to go on later.
        """
        now = self._clock()
        if self._since is None:
            self._since, self._pause_s = now, self._patience.first_s
            _log.warning(
                "%s Waiting up to %g s for it; the workers stay up, and what is "
                "recorded is safe.",
                error,
                self._patience.limit_s,
            )
        left_s = self._since + self._patience.limit_s - now
        if left_s <= 0:
            raise StoreUnreachableError(
                f"{error} It has not answered for {now - self._since:.0f} s. All that "
                "was recorded is kept; when it answers again, go on with: evomerge "
                f"resume {self._study}"
            ) from error
        self._sleep(min(self._pause_s, left_s))
        self._pause_s = min(2 * self._pause_s, self._patience.longest_s)

    def over(self) -> None:
        """The database answers again."""
        if self._since is not None:
            away_s = self._clock() - self._since
            _log.warning("The database answers again, after %.1f s.", away_s)
            self._since = None
