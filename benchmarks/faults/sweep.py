"""Strike again and again, and see how long whoever was hit needs to get on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from faults.kinds import Kind, Scene, Strike
from faults.stage import AWAY, Stage, Standing

HUNG_S = 120.0
"""Whoever has not got on so long after a fault was over counts as hung."""

_LOOK_EVERY_S = 0.25
_PATIENCE_S = 400.0


@dataclass
class Sweep:
    """Strikes at random until the time is up; then everything must end.

    A study that has not got over a fault is struck by no other one, but for those of
    what all have in common.

    Attributes:
        kinds: They strike in turn.
        pause_s: From one strike to the next, on the average.
        strikes: All there were.
    """

    stage: Stage
    kinds: Sequence[Kind]
    rng: np.random.Generator
    n_running: int
    pause_s: float = 2.0
    strikes: list[Strike] = field(default_factory=list)
    _turn: list[Kind] = field(default_factory=list)
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
                    if strike.undo() is False:
                        continue
                except AWAY:
                    continue  # by and by: the database is away, too
                strike.undo = None
        try:
            self._standings = self.stage.standings()
            self.stage.revive()
            n_alive = sum(not s.is_over for s in self._standings)
            if more and n_alive < self.n_running:
                self.stage.submit()
        except AWAY:
            return False
        for strike in self._open:
            self._watch(strike)
        for strike in filter(_is_hung, self._open):
            print(
                f"{strike} is hung. {self._standings} {self.stage.logs()}", flush=True
            )
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
        hit = {name for strike in self._open for name in strike.victims}
        unhurt = [
            s
            for s in self._standings
            if s.state == "running" and s.name not in hit and s.progress > 0
        ]
        scene = Scene(self.stage, self._standings, self.rng, unhurt)
        if not self._turn:
            self._turn = [*self.kinds]
            self.rng.shuffle(self._turn)
        for kind in self._turn:
            try:
                strike = kind(scene)
            except (ProcessLookupError, *AWAY):
                return  # it had just ended, or the database is away: nothing was hit
            if strike is not None:
                self._turn.remove(kind)
                self.strikes.append(strike)
                self._open.append(strike)
                return


def _is_hung(strike: Strike) -> bool:
    if strike.took_s is not None or strike.healed_at is None:
        return False
    return time.monotonic() - strike.healed_at > HUNG_S
