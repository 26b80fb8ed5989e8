"""How a process of evomerge ends, for shells, schedulers and supervisors.

A code says what to do next: put something right, leave the study alone, try again
later, or report a defect. 75 and 76 are those of sysexits.h nearest to what is meant;
a process that a signal ended has 128 and the signal's number, as shells do it.
"""

from __future__ import annotations

from enum import IntEnum

from evomerge.errors import (
    BusyError,
    ClusterUnreachableError,
    EvomergeError,
    LeaseLostError,
    RemoteError,
    ReplayError,
    StaleAttemptError,
    StoreUnreachableError,
    StudyLockedError,
    WorkerError,
)


class ExitCode(IntEnum):
    """What the end of a process asks of whoever started it."""

    DONE = 0
    """Nothing: the budget is used, or what was asked for is done."""
    DEFECT = 1
    """Report it, with the traceback: a defect of evomerge."""
    PUT_RIGHT = 2
    """Put right what the message names; to try again as it is changes nothing."""
    RECORD_BROKEN = 3
    """Restore the database from a copy: what is recorded contradicts itself."""
    STOPPED = 4
    """Nothing: somebody cancelled or paused the job that was waited for."""
    TRY_AGAIN = 75
    """Try again later: somebody or something else was in the way."""
    LEASE_LOST = 76
    """Leave the study alone: another coordinator has taken it over."""


_OF_ERRORS: dict[type[EvomergeError], ExitCode] = {
    ReplayError: ExitCode.RECORD_BROKEN,
    StudyLockedError: ExitCode.TRY_AGAIN,
    StoreUnreachableError: ExitCode.TRY_AGAIN,
    WorkerError: ExitCode.TRY_AGAIN,
    BusyError: ExitCode.TRY_AGAIN,
    ClusterUnreachableError: ExitCode.TRY_AGAIN,
    StaleAttemptError: ExitCode.TRY_AGAIN,
    LeaseLostError: ExitCode.LEASE_LOST,
}


def exit_code_of(error: EvomergeError) -> ExitCode:
    """Return the code of an error: its class's or the nearest base's, else 2."""
    if isinstance(error, RemoteError) and error.code in set(ExitCode) - {0}:
        return ExitCode(error.code)
    known = (_OF_ERRORS[kind] for kind in type(error).__mro__ if kind in _OF_ERRORS)
    return next(known, ExitCode.PUT_RIGHT)
