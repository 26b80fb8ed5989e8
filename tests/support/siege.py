"""Kill a study again and again, and look after each kill what is left of it."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from evomerge.testing.forks import ForkServer
from support.contents import Contents, contents, verdict
from support.doomed import UNREACHABLE, Doom, Life, live, promised
from support.postgres import Server

_KILLS = (-signal.SIGKILL, -signal.SIGALRM)
_LATE_S = 0.003
_AWAY_S = 0.7
_SERVER_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Tally:
    """What a siege came to.

    Attributes:
        kills: Of the coordinator's process.
        server_kills: Of the database's server, while a coordinator was running.
        gave_up: Coordinators that ended because the database did not answer.
        studies: Finished.
        candidates: In them.
    """

    database: str
    strategy: str
    kills: int = 0
    server_kills: int = 0
    gave_up: int = 0
    studies: int = 0
    candidates: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0


def table(tallies: Iterable[Tally]) -> str:
    """Return a table in Markdown, with a line of sums."""
    rows = list(tallies)
    names = list(asdict(rows[0]))
    lines = [names, ["---", "---", *("---:" for _ in names[2:])]]
    lines += [[str(value) for value in asdict(row).values()] for row in rows]
    sums = [str(sum(getattr(row, name) for row in rows)) for name in names[2:]]
    lines.append(["all", "", *sums])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


class Siege:
    """Runs one kind of study over and over, with a kill in most of its processes.

    Each process has another number of workers. A study has half of its budget first,
    which cuts a generation short, and all of it when that is used.

    Args:
        forks: Of a script that runs one ``Life``, given as JSON; of different salts.
        new_url: Makes a database.
        life: What all the lives have in common.
        rng: Decides when and how they end.
        span: A life gets at most this number of steps far, if it is to be killed.
        server: Of the databases; killed and started again in some of the lives.
    """

    def __init__(
        self,
        forks: Sequence[ForkServer],
        new_url: Callable[[], str],
        life: Life,
        rng: np.random.Generator,
        span: int,
        server: Server | None = None,
    ) -> None:
        self._forks = forks
        self._new_url = new_url
        self._rng = rng
        self._span = span
        self._server = server
        self._folder = Path(life.folder)
        self._life = life
        self._calm = self._undisturbed()
        kind = new_url().partition(":")[0]
        self.tally = Tally(kind, life.strategy)

    @property
    def calm(self) -> Contents:
        """What the undisturbed study holds."""
        return self._calm

    def run(self, n_kills: int) -> Tally:
        """Kill so many processes; the last study is finished all the same.

        Raises:
            AssertionError: Something was lost, doubled or different, or a process
                ended otherwise; says what.
        """
        while self.tally.kills < n_kills:
            self._study(n_kills)
        return self.tally

    def _study(self, n_kills: int) -> None:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        start = replace(self._life, url=self._new_url(), folder=str(folder))
        for trials in (start.trials // 2, start.trials):
            is_over = False
            while not is_over:
                granted = replace(start, trials=trials)
                life = self._draw(granted, is_last=self.tally.kills >= n_kills)
                is_over = self._live(life) == 0
                self._look(life, over=is_over and trials == start.trials)
        self._count(studies=1, candidates=len(self._calm.candidates))

    def _draw(self, start: Life, *, is_last: bool) -> Life:
        rng = self._rng
        life = replace(
            start, workers=int(rng.integers(1, 4)), salt=int(rng.integers(1, 2**32))
        )
        if self._server is not None and rng.random() < _SERVER_SHARE:
            life = replace(life, stop_at=int(rng.integers(1, self._span)))
        if is_last:
            return life
        late_s = float(rng.uniform(0, _LATE_S)) if rng.random() < 1 / 3 else 0.0
        kill_at = life.stop_at + int(rng.integers(1, self._span))
        return replace(life, kill_at=kill_at, late_s=late_s)

    def _live(self, life: Life) -> int:
        """Run a process to its end, and return its exit code."""
        log = Path(life.folder) / "log"
        forks = self._forks[life.salt % len(self._forks)]
        code = forks.run(
            json.dumps(asdict(life)), log, lambda pid: self._strike_server(forks, pid)
        )
        self._count(kills=code in _KILLS, gave_up=code == UNREACHABLE)
        known = (0, *_KILLS) if life.stop_at == 0 else (0, UNREACHABLE, *_KILLS)
        assert code in known, f"{life} ended with {code}: {log.read_text()}"
        return code

    def _strike_server(self, forks: ForkServer, child: int) -> None:
        """Kill the server at the child's step, or a little later, and start it."""
        assert self._server is not None
        is_at_once = self._rng.random() < 1 / 2
        if not is_at_once:
            os.kill(child, signal.SIGCONT)
            time.sleep(self._rng.uniform(0, _LATE_S))
        self._count(server_kills=forks.is_running())
        self._server.kill()
        if is_at_once:
            os.kill(child, signal.SIGCONT)
        time.sleep(self._rng.uniform(0, _AWAY_S))
        self._server.start()

    def _look(self, life: Life, *, over: bool) -> None:
        found = contents(life.url)
        seen = verdict(self._calm, found, promised(life.folder), over=over)
        self._count(
            lost=len(seen.lost),
            doubled=len(seen.doubled),
            different=len(seen.different),
        )
        assert not any(asdict(seen).values()), f"after {life}: {seen}"

    def _count(self, **more: int) -> None:
        now = asdict(self.tally)
        self.tally = replace(self.tally, **{k: now[k] + v for k, v in more.items()})

    def _undisturbed(self) -> Contents:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        url = f"sqlite:///{folder}/calm.db"
        life = replace(self._life, url=url, folder=str(folder))
        live(life, Doom(life))
        return contents(url)
