"""Every error evomerge raises on purpose.

::

    EvomergeError
    ├── SpecError            what a human wrote is wrong (all mistakes at once)
    ├── SpaceError           a point does not belong to its search space
    ├── RecipeError          a recipe contradicts itself or its sources
    ├── CheckpointError      a model folder is missing, corrupt or refused
    │   ├── HubError         the hub does not give a model
    │   └── NotAllowedError  the operator does not let studies read, run or fetch it
    ├── CandidateError       the candidate's own fault: final
    ├── WorkerError          the machine's fault: worth another try
    │   └── SelfTestError    an engine does not reproduce a cold load: it refuses work
    ├── NodeError            a machine lacks what a study needs, and cannot be given it
    ├── SetupError           no worker can ever be what a study asks for
    ├── RequestError         a prompt no engine of this size can answer
    ├── IllegalTransitionError   a trial cannot take that step
    ├── ReplayError          the recorded history and the strategy disagree
    ├── StageError           a stage cannot build on, or be changed under, another
    ├── ExportError          a result cannot be written
    ├── ServiceError         a service does not do what was asked of it
    │   ├── TokenError           nobody's token, or one that holds no more
    │   ├── ForbiddenError       a token or a role that does not allow it
    │   ├── BusyError            too much is asked at once; later it is answered
    │   ├── UserError            no such user, or one of that name already
    │   ├── JobNotFoundError
    │   ├── WorkerNotFoundError
    │   ├── JobExistsError       the name is taken by another job; says the differences
    │   ├── JobStateError        not in the state the job is in
    │   ├── ClaimLostError       another supervisor has the job
    │   ├── ClusterUnreachableError  no replica answers now; one may again
    │   └── RemoteError          what a cluster says that nothing here stands for
    ├── NotInstalledError    a package that an extra brings is not there
    └── StoreError
        ├── StudyExistsError     the name is taken by another configuration
        ├── StudyNotFoundError
        ├── StudyLockedError     another coordinator is at work
        ├── LeaseLostError       another coordinator took over; this one must stop
        ├── StaleAttemptError    the answer of an attempt that is over
        ├── StoreUnreachableError    the database does not answer now; it may again
        └── SchemaError          not our database, or another version's

A message says what was expected, what came, where, and the next step.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from evomerge.masking import masked


class EvomergeError(Exception):
    """Root of all errors raised on purpose; says no secret, whatever it quotes."""

    def __init__(self, *said: object) -> None:
        super().__init__(*(masked(s) if isinstance(s, str) else s for s in said))


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in something a human wrote."""

    where: str
    """File and key, for example ``study.yaml: strategy.kind``."""
    message: str
    """What was expected, what came, and the next step."""
    file: str | None = None
    """Name of the file that holds the key, if its line is known."""
    line: int | None = None
    """Line of the key, from 1."""

    def __str__(self) -> str:
        if self.line is None:
            return f"{self.where}: {self.message}"
        told, colon, key = self.where.partition(": ")
        file = str(self.file)
        # What follows a file's name is the number of a document in it.
        number = told.removeprefix(file) if told.startswith(file) else ""
        return f"{file}:{self.line}{number}{colon}{key}: {self.message}"


class SpecError(EvomergeError):
    """A file or value a human wrote is wrong; carries every mistake found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class SpaceError(EvomergeError):
    """A point or vector does not belong to the search space."""


class RecipeError(EvomergeError):
    """A recipe contradicts itself, the catalogue or its sources."""


class CheckpointError(EvomergeError):
    """A model folder is missing, corrupt, incompatible or refused."""


class HubError(CheckpointError):
    """A hub does not know a model, does not give it, or does not answer."""


class NotAllowedError(CheckpointError):
    """A policy in force does not let a study read, run or fetch this."""


class CandidateError(EvomergeError):
    """The candidate itself is at fault; trying again would change nothing."""


class WorkerError(EvomergeError):
    """The machine or process is at fault; another try may succeed."""


class SelfTestError(WorkerError):
    """An engine does not reproduce a cold load, so it refuses to score anything."""


class NodeError(EvomergeError):
    """A machine lacks what a study needs, and cannot be given it."""


class SetupError(EvomergeError):
    """What is asked cannot be done as it is said, on this machine or on any."""


class RequestError(EvomergeError):
    """A prompt that this engine can answer for no candidate, for example too long."""


class IllegalTransitionError(EvomergeError):
    """A trial was asked to take a step its state does not allow."""


class ReplayError(EvomergeError):
    """The strategy, asked again, does not propose what the database recorded."""


class ExportError(EvomergeError):
    """A result could not be written; nothing half-written is left behind."""


class NotInstalledError(EvomergeError):
    """A package is not installed that an extra of evomerge brings; says which."""


class PluginError(EvomergeError):
    """A part of another package may not be loaded here, or cannot be."""


class StageError(EvomergeError):
    """A stage of a study cannot build on, or be changed under, another."""


class ServiceError(EvomergeError):
    """A service does not do what was asked of it."""


class TokenError(ServiceError):
    """A token that nobody was given, or one that has expired or was revoked."""


class ForbiddenError(ServiceError):
    """The caller's role, or the scopes of the token shown, do not allow it."""


class BusyError(ServiceError):
    """Too much is asked of a service at once; later it is answered."""


class UserError(ServiceError):
    """There is no such user or token, or there is one of that name already."""


class JobNotFoundError(ServiceError):
    """No job of this name."""


class WorkerNotFoundError(ServiceError):
    """No worker of this name is there, or at work."""


class JobExistsError(ServiceError):
    """The name is taken by a job with other content; carries every difference."""

    def __init__(self, said: str, problems: Iterable[Problem] = ()) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join((said, *map(str, self.problems))))


class JobStateError(ServiceError):
    """What is asked cannot be done to a job in its state."""


class ClaimLostError(ServiceError):
    """A job was claimed by another supervisor, or ended, since it was claimed."""


class ClusterUnreachableError(ServiceError):
    """No replica of a cluster answers now; what one had confirmed is not lost."""


class RemoteError(ServiceError):
    """A cluster says an error that no class here stands for; carries its exit code."""

    def __init__(self, said: str, code: int = 2) -> None:
        self.code = code
        super().__init__(said)


class StoreError(EvomergeError):
    """The database refused, or cannot be used."""


class StudyExistsError(StoreError):
    """A study of this name exists with another configuration."""


class StudyNotFoundError(StoreError):
    """No study of this name in this database."""


class StudyLockedError(StoreError):
    """Another living coordinator holds the study's lease."""


class LeaseLostError(StoreError):
    """A write came from a coordinator whose lease is over."""


class StaleAttemptError(StoreError):
    """An answer came from an attempt that is over."""


class StoreUnreachableError(StoreError):
    """The database does not answer now; what it had confirmed is not lost."""


class SchemaError(StoreError):
    """The database is not ours, or was written by an incompatible version."""
