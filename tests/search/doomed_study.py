"""A life of a doomed study, whose steps are events of the database and of the pool."""

import json
import sys

import sqlalchemy as sa
from support import loaded  # noqa: F401 - before the forks
from support.doomed import UNREACHABLE, Doom, Life, live
from support.steps import step_at_prepared

from evomerge.errors import StoreUnreachableError

STEPS = ("begin", "before_cursor_execute", "after_cursor_execute", "commit")


def main(argument: str) -> None:
    """Live the life that ``argument`` describes: a ``Life`` as JSON."""
    life = Life(**json.loads(argument))
    doom = Doom(life)
    for name in STEPS:
        sa.event.listen(sa.Engine, name, doom.step)
    step_at_prepared(doom.step)
    try:
        live(life, doom)
    except StoreUnreachableError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(UNREACHABLE)
