"""What requests and answers hold, as the OpenAPI description has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model

from evomerge.client.values import told_fields
from evomerge.client.verbs import Checked, ExportJob, Me, WorkerRow
from evomerge.store.queue.values import Job, JobEvent, Role, Scope, Token, User

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]


class _Asked(BaseModel):
    """Of a request: nothing is taken that is not known, and no type for another."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Place(_Asked):
    """Where and how a job is to run."""

    workers: int | None = None


class Files(_Asked):
    """A bundle: relative name to content in base 64."""

    files: dict[str, str]


class Submitted(Files):
    """A study to be queued."""

    priority: int = 0
    place: Place = Place()


class Budget(_Asked):
    """For the whole study."""

    trials: int | None = None
    items: int | None = None
    minutes: float | None = None


class Resumed(_Asked):
    """What is to change when a job goes on."""

    budget: Budget = Budget()
    priority: int | None = None


class Scaled(_Asked):
    """How many workers a job is to have."""

    workers: int


class ExportAsked(_Asked):
    """A trial to be written as a model folder."""

    trial: Annotated[int, Field(ge=0, lt=1 << 31)] | None = None
    is_scored: bool = True


class TokenAsked(_Asked):
    """A token to be made for whoever asks."""

    name: Name
    scopes: Annotated[list[Annotated[Scope, Field(strict=False)]], Field(max_length=9)]
    lasts_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class UserAsked(_Asked):
    """A user to be added."""

    name: Name
    role: Annotated[Role, Field(strict=False)] = Role.USER
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    max_running: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    max_gpu_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


def _told(kind: type, **further: Any) -> Any:
    """Describe a value as ``client.values.to_json`` tells it."""
    said = (kind.__doc__ or "").partition("\n")[0]
    keys = {**told_fields(kind), **further}
    return _model(f"{kind.__name__}Body", said, keys)


def _listed(key: str, one: Any, **further: Any) -> Any:
    """Describe a list of values under a key."""
    return _model(f"{key.title()}Body", None, {key: list[one], **further})


def _model(name: str, said: str | None, keys: Mapping[str, Any]) -> Any:
    needed: dict[str, Any] = {key: (kind, ...) for key, kind in keys.items()}
    return create_model(name, __doc__=said, **needed)


JobBody = _told(Job, address=str)
JobsBody = _listed("jobs", JobBody, next=str | None)  # after which there are more
EventsBody = _listed("events", _told(JobEvent))
ExportBody = _told(ExportJob)
ExportsBody = _listed("exports", ExportBody)
CheckedBody = _told(Checked)
WorkerBody = _told(WorkerRow)
WorkersBody = _listed("workers", WorkerBody)
TokensBody = _listed("tokens", _told(Token))
UserBody = _told(User)
UsersBody = _listed("users", UserBody)
MeBody = _told(Me)


class RowsBody(BaseModel):
    """What the command of the same name prints as JSON."""

    rows: Any


class SecretBody(BaseModel):
    """A token's secret, shown this once."""

    secret: str


class HealthBody(BaseModel):
    """Whether all is well."""

    status: str


class ProblemBody(BaseModel):
    """One mistake in what was sent."""

    where: str
    message: str


class ErrorBody(BaseModel):
    """What is wrong, as problem+json; ``code`` is the exit code of a command."""

    type: str
    title: str
    status: int
    detail: str
    problems: list[ProblemBody]
    code: int
    error: str | None
