"""One life of a doomed study in stages, run as the command line runs it.

Its folder holds the study file. Steps are events of the database and of the pool; those
of a ``between`` life count from the end of a stage. Some lives run the file, others go
on by the name.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa
from support import loaded  # noqa: F401 - before the forks
from support.doomed import Doom, Life
from support.steps import step_at_prepared

from evomerge import api
from evomerge.api import preparing, running, staged  # noqa: F401
from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.work import PoolEvent
from evomerge.errors import StoreError

STEPS = ("begin", "before_cursor_execute", "after_cursor_execute", "commit")


class _Steps:
    """Counts steps, from when they count."""

    def __init__(self, life: Life) -> None:
        self._doom = Doom(life)
        self.are_counting = life.strategy != "between"

    def step(self, *_: object) -> None:
        """Count one."""
        if self.are_counting:
            self._doom.step()

    def listen(self) -> None:
        """Count statements, commits and what comes of polling."""
        poll = InProcessPool.poll

        def counted(pool: InProcessPool, timeout_s: float) -> Sequence[PoolEvent]:
            if events := poll(pool, timeout_s):
                self.step()
            return events

        InProcessPool.poll = counted  # type: ignore[method-assign]
        for name in STEPS:
            sa.event.listen(sa.Engine, name, self.step)
        step_at_prepared(self.step)


def main(argument: str) -> None:
    """Live the life that ``argument`` describes: a ``Life`` as JSON."""
    life = Life(**json.loads(argument))
    steps = _Steps(life)
    steps.listen()
    folder = Path(life.folder)
    where = api.Where(None, None, in_process=True, cache_dir=folder / "cache")
    now: api.Prepared | None = None
    if life.salt % 2:
        with suppress(StoreError):  # nothing is recorded yet
            now = api.take_up("two", db=life.url, where=where)
    if now is None:
        now = api.prepare(folder / "two.yaml", db=life.url, where=where)
    while now is not None:
        api.search(now)
        steps.are_counting = True
        now = api.following(now)
