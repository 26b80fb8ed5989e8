"""Logging, set up once by a command; libraries only ever ask for a logger."""

import logging
import os
from collections.abc import Iterable

from evomerge.masking import masked


class _Masking(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


def say(warnings: Iterable[object]) -> None:
    """Show warnings that were collected, each once, in their order."""
    for warning in dict.fromkeys(map(str, warnings)):
        logging.getLogger("evomerge").warning("%s", warning)


def set_up(*, verbose: bool = False) -> None:
    """Send evomerge's own messages to standard error, secrets hidden.

    Args:
        verbose: Show what is routine, not only warnings.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Masking("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("evomerge")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)
    logger.propagate = False
    # Read by torch's compiled half when it is loaded, which is later.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
