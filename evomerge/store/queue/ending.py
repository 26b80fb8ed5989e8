"""What the end of a job's process means for the job: a pure rule.

A process says by its exit code what to do next (see ``ExitCode``); what it left in the
database says whether it was of use.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

from evomerge.exit_codes import ExitCode
from evomerge.store.queue.values import Job, JobState, Wanted

MAX_FRUITLESS = 5
"""After so many starts in a row without progress a job has failed."""
MAX_IN_THE_WAY = 15
"""The same where the last one says that something else was in the way: with the pauses
between them ten minutes, which Ray's head, a disk or a database may be away."""
LONGEST_PAUSE_S = 60.0

_HOPELESS = (ExitCode.PUT_RIGHT, ExitCode.RECORD_BROKEN)
_SAID: dict[int, str] = {
    ExitCode.DEFECT: "it ended with a defect",
    ExitCode.PUT_RIGHT: "its study cannot run",
    ExitCode.RECORD_BROKEN: "what is recorded contradicts itself",
    ExitCode.TRY_AGAIN: "something was in the way",
    ExitCode.LEASE_LOST: "another coordinator has taken the study over",
}


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a coordinator's process ended.

    Attributes:
        code: Its exit code; negative for the signal that ended it.
        said: The last it said, empty if it said nothing.
        asked: Whether its supervisor had asked it to end.
    """

    code: int
    said: str = ""
    asked: bool = False

    @property
    def cause(self) -> str:
        """Put the end into words."""
        if self.code < 0:
            return f"its process was ended by {_signal_name(-self.code)}"
        known = _SAID.get(self.code, f"its process ended with code {self.code}")
        return f"{known}: {self.said}" if self.said else known


@dataclass(frozen=True, slots=True)
class Next:
    """What becomes of a job.

    Attributes:
        pause_s: Before it is started again; only with ``waiting``.
        fruitless: As the job's own.
        why: As the job's own; a pause that nobody asked for has its reason there.
    """

    state: JobState
    fruitless: int = 0
    pause_s: float = 0.0
    why: str | None = None


def after(job: Job, end: ProcessEnd, progress: int) -> Next:
    """Decide what becomes of a job whose process ended.

    Args:
        job: As it is now, with what is wanted of it now.
        end: How it ended.
        progress: Final trials and items that its study has now.
    """
    if end.code == ExitCode.DONE:
        return Next(JobState.FINISHED)
    if job.wanted is Wanted.CANCEL:
        return Next(JobState.CANCELLED)
    if end.code in _HOPELESS:
        return Next(JobState.FAILED, job.fruitless, why=end.cause)
    if job.wanted is Wanted.PAUSE:
        return Next(JobState.PAUSED, job.fruitless, why=job.why)
    if end.asked:  # a supervisor that is drained, or a pause that was taken back
        return Next(JobState.QUEUED, job.fruitless)
    fruitless = fruitless_after(job, progress)
    is_elsewhere = end.code == ExitCode.TRY_AGAIN
    if fruitless >= (MAX_IN_THE_WAY if is_elsewhere else MAX_FRUITLESS):
        why = f"{fruitless} starts in a row came to nothing; the last: {end.cause}"
        return Next(JobState.FAILED, fruitless, why=why)
    pause_s = min(LONGEST_PAUSE_S, 2.0 ** max(1, fruitless))
    return Next(JobState.WAITING, fruitless, pause_s, end.cause)


def after_loss(job: Job, by: str, progress: int) -> Next:
    """Decide what becomes of a job whose supervisor was lost, with its process.

    Args:
        job: As it is now.
        by: The supervisor.
        progress: As for ``after``.
    """
    if job.wanted is Wanted.CANCEL:
        return Next(JobState.CANCELLED)
    if job.wanted is Wanted.PAUSE:
        return Next(JobState.PAUSED, job.fruitless, why=job.why)
    why = f"its supervisor {by} was lost"
    fruitless = fruitless_after(job, progress)
    if fruitless >= MAX_FRUITLESS:
        said = f"{fruitless} starts in a row came to nothing; the last: {why}"
        return Next(JobState.FAILED, fruitless, why=said)
    return Next(JobState.QUEUED, fruitless, why=why)


def fruitless_after(job: Job, progress: int) -> int:
    """Count the starts in a row that brought nothing, with the one that ended."""
    return 0 if progress > job.last_progress else job.fruitless + 1


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
