"""One life of a doomed study in stages, run as the command line runs it.

``python doomed_stages.py LIFE``: LIFE is a ``Life`` as JSON, whose folder holds the
study file. Steps are events of the database and of the pool; those of a ``between``
life count from the end of a stage. Some lives run the file, others go on by the name.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from evomerge import api
from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.work import PoolEvent
from evomerge.errors import StoreError
from evomerge.testing.doomed import Doom, Life
from evomerge.testing.steps import step_at_prepared

STEPS = ("begin", "before_cursor_execute", "after_cursor_execute", "commit")

life = Life(**json.loads(sys.argv[1]))
doom = Doom(life)
is_counting = life.strategy != "between"
poll = InProcessPool.poll


def step(*_: object) -> None:
    """Count a step, from when they count."""
    if is_counting:
        doom.step()


def counted(pool: InProcessPool, timeout_s: float) -> Sequence[PoolEvent]:
    """Poll, and count what came as a step."""
    if events := poll(pool, timeout_s):
        step()
    return events


InProcessPool.poll = counted  # type: ignore[method-assign]
for name in STEPS:
    sa.event.listen(sa.Engine, name, step)
step_at_prepared(step)

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
    is_counting = True
    now = api.following(now)
