"""Strike again and again, and see how long whoever was hit needs to get on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import psycopg
from faults.kinds import Kind, Scene, Strike
from faults.stage import Stage, Standing

HUNG_S = 300.0
"""Whoever has not got on so long after a fault was over counts as hung."""

MANY = 2
"""Faults that hit more jobs than these do not keep others away from them."""
_LOOK_EVERY_S = 0.25
_PATIENCE_S = 400.0


@dataclass
class Sweep:
    """Strikes at random until the time is up; then everything must end.

    Attributes:
        pause_s: From one strike to the next, on the average.
        strikes: All there were.
    """

    stage: Stage
    kinds: Mapping[Kind, float]
    rng: np.random.Generator
    n_running: int = 6
    pause_s: float = 2.0
    strikes: list[Strike] = field(default_factory=list)
    _open: list[Strike] = field(default_factory=list)
    _standings: list[Standing] = field(default_factory=list)

    def run(self, seconds: float) -> None:
        """Strike for so long, and wait until every job has ended.

        Raises:
            TimeoutError: Jobs have not ended.
        """
        end = time.monotonic() + seconds
        due = time.monotonic() + 8
        while (now := time.monotonic()) < end:
            if self._look() and now >= due:
                self._strike()
                due = now + float(self.rng.exponential(self.pause_s))
            time.sleep(_LOOK_EVERY_S)
        end = time.monotonic() + _PATIENCE_S
        while self._open or not all(s.is_over for s in self._standings):
            if time.monotonic() > end:
                left = [s for s in self._standings if not s.is_over]
                raise TimeoutError(f"{left} have not ended. {self.stage.logs()}")
            self._look(more=False)
            time.sleep(_LOOK_EVERY_S)

    @property
    def hung(self) -> list[Strike]:
        """Faults that somebody did not get over."""
        return [strike for strike in self.strikes if strike.took_s is None]

    def _look(self, *, more: bool = True) -> bool:
        """Undo what is due and watch who gets on; tell whether the database is up."""
        now = time.monotonic()
        for strike in self._open:
            if strike.undo is not None and now >= strike.undo_at:
                try:
                    strike.undo()
                except psycopg.OperationalError:
                    continue  # by and by: the database is away, too
                strike.undo = None
        try:
            self._standings = self.stage.standings()
            self.stage.revive()
            n_alive = sum(not s.is_over for s in self._standings)
            if more and n_alive < self.n_running:
                self.stage.submit()
        except psycopg.OperationalError:
            return False
        for strike in self._open:
            self._watch(strike)
        self._open = [s for s in self._open if s.took_s is None and not _is_hung(s)]
        return True

    def _watch(self, strike: Strike) -> None:
        if strike.undo is not None:
            return
        now = time.monotonic()
        by_name = {s.name: s for s in self._standings}
        if strike.healed_at is None:
            strike.healed_at = now
            strike.before = {n: by_name[n].progress for n in strike.victims}
        if all(
            by_name[name].is_over or by_name[name].progress > before
            for name, before in strike.before.items()
        ):
            strike.took_s = now - strike.healed_at

    def _strike(self) -> None:
        alone = [strike for strike in self._open if len(strike.victims) <= MANY]
        hit = {name for strike in alone for name in strike.victims}
        unhurt = [
            s
            for s in self._standings
            if s.state == "running" and s.name not in hit and s.progress > 0
        ]
        scene = Scene(self.stage, self._standings, self.rng, unhurt)
        kinds = list(self.kinds)
        weights = np.array([self.kinds[kind] for kind in kinds])
        kind = kinds[int(self.rng.choice(len(kinds), p=weights / weights.sum()))]
        try:
            strike = kind(scene)
        except (ProcessLookupError, psycopg.OperationalError):
            return  # it had just ended, or the database is away: nothing was hit
        if strike is not None:
            self.strikes.append(strike)
            self._open.append(strike)


def _is_hung(strike: Strike) -> bool:
    healed_at = strike.healed_at
    return healed_at is not None and time.monotonic() - healed_at > HUNG_S
