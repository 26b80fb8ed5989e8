"""Logging, set up once by a command; libraries only ever ask for a logger.

A line is for people, or with ``EVOMERGE_LOG=json`` an object for programs: ``at``,
``level``, ``logger``, ``message``, and those of ``FACTS`` that are known. A fact comes
with a record (``extra=``) or from around it (``about``).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from evomerge.masking import masked

FACTS = ("job", "study", "trial", "attempt", "worker", "cause")
"""What a line may be about."""
FORMATS = ("plain", "json")
FORMAT_VARIABLE = "EVOMERGE_LOG"
"""Environment variable that names the format, for every process of a study."""

_NO_FACTS: Mapping[str, object] = {}
_around: ContextVar[Mapping[str, object]] = ContextVar("about", default=_NO_FACTS)


class _Masking(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _Json(logging.Formatter):
    """One object a line; secrets are hidden before quoting could hide them from us."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC)
        known = {
            **_around.get(),
            **{name: getattr(record, name) for name in FACTS if hasattr(record, name)},
        }
        line: dict[str, object] = {
            "at": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": masked(record.getMessage()),
            **{name: _plain(value) for name, value in known.items()},
        }
        if record.exc_info:
            line["traceback"] = masked(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


def _plain(value: object) -> object:
    if value is None or type(value) in (bool, int, float):
        return value
    return masked(str(value))


@contextmanager
def about(**facts: object) -> Iterator[None]:
    """Say what everything is about that this thread logs inside the block."""
    token = _around.set({**_around.get(), **facts})
    try:
        yield
    finally:
        _around.reset(token)


def say(warnings: Iterable[object]) -> None:
    """Show warnings that were collected, each once, in their order."""
    for warning in dict.fromkeys(map(str, warnings)):
        logging.getLogger("evomerge").warning("%s", warning)


def is_json() -> bool:
    """Tell whether lines are for programs."""
    return os.environ.get(FORMAT_VARIABLE) == "json"


def tell(text: str, level: Literal["info", "error"] = "info") -> None:
    """Log a line whatever level is shown: progress, or the error a command ends with.

    For whoever prints it in another way where lines are for people.
    """
    logger = logging.getLogger("evomerge")
    number = logging.ERROR if level == "error" else logging.INFO
    logger.handle(logger.makeRecord(logger.name, number, "", 0, "%s", (text,), None))


def set_up(*, verbose: bool = False) -> None:
    """Send evomerge's own messages to standard error, secrets hidden.

    Args:
        verbose: Show what is routine, not only warnings.
    """
    handler = logging.StreamHandler()
    plain = _Masking("%(levelname)s %(name)s: %(message)s")
    handler.setFormatter(_Json() if is_json() else plain)
    logger = logging.getLogger("evomerge")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    # Read by torch's compiled half when it is loaded, which is later.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
