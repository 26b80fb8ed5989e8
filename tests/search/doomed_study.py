"""One life of a doomed study, whose steps are events of the database and of the pool.

``python doomed_study.py LIFE``: LIFE is a ``Life`` as JSON.
"""

import json
import sys

import sqlalchemy as sa

from evomerge.errors import StoreUnreachableError
from evomerge.testing.doomed import UNREACHABLE, Doom, Life, live
from evomerge.testing.steps import step_at_prepared

STEPS = ("begin", "before_cursor_execute", "after_cursor_execute", "commit")

life = Life(**json.loads(sys.argv[1]))
doom = Doom(life)
for name in STEPS:
    sa.event.listen(sa.Engine, name, doom.step)
step_at_prepared(doom.step)
try:
    live(life, doom)
except StoreUnreachableError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(UNREACHABLE)
