"""From an exception to whose fault it was.

Called where a worker's work ends in an exception. Blame decides whether the trial is
tried again, so anything that another machine might do better is the machine's fault.
Knows libraries only by the names of their exceptions, and loads none.
"""

import errno
import traceback
from collections.abc import Iterator

from evomerge.core.trial import Blame, Cause, Failure
from evomerge.errors import CandidateError, EvomergeError, WorkerError

_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "cannot allocate memory")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT)
_TRACE_CHARACTERS = 4000


def failure_from(error: BaseException, *, scoring: bool) -> Failure:
    """Say what an exception means for the attempt it ended.

    Args:
        error: What was raised; its chain of causes counts too.
        scoring: It came while items were scored, so an unknown error is one of the
            task's own code, fed with this candidate's answers; otherwise it is the
            engine's.

    Returns:
        A failure whose message carries the traceback where the error is not ours.
    """
    chain = tuple(_chain(error))
    if any(_is_memory(link) for link in chain):
        return _machine(Cause.OUT_OF_MEMORY, error)
    if any(isinstance(e, OSError) and e.errno in _DISK_ERRORS for e in chain):
        return _machine(Cause.DISK_FULL, error)
    if isinstance(error, CandidateError):
        return Failure(Cause.NON_FINITE, Blame.CANDIDATE, str(error))
    if isinstance(error, WorkerError | OSError):
        return _machine(Cause.ENGINE, error)
    if scoring:
        return Failure(Cause.EVALUATION, Blame.CANDIDATE, _message(error))
    return _machine(Cause.ENGINE, error)


def _machine(cause: Cause, error: BaseException) -> Failure:
    return Failure(cause, Blame.MACHINE, _message(error))


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _is_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or (torch's own error) on a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | WorkerError) and any(
        part in text for part in _MEMORY_TEXTS
    )


def _message(error: BaseException) -> str:
    if isinstance(error, EvomergeError) and error.__cause__ is None:
        return str(error)
    trace = "".join(traceback.format_exception(error))
    return f"{type(error).__name__}: {error}\n{trace[-_TRACE_CHARACTERS:]}"
