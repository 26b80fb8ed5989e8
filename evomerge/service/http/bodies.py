"""What requests and answers hold, as the OpenAPI description has it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from evomerge.store.queue.values import ExportState, JobState, Role, Scope, Wanted

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


class JobBody(BaseModel):
    """A job."""

    user: str
    name: str
    address: str
    study: str
    bundle_digest: str
    state: JobState
    wanted: Wanted
    priority: int
    budget: dict[str, float]
    place: dict[str, Any]
    claim_by: str | None
    due: str | None
    starts: int
    fruitless: int
    last_progress: int
    why: str | None
    created: str
    changed: str


class JobsBody(BaseModel):
    """Jobs, oldest first; ``next`` is the address after which there are more."""

    jobs: list[JobBody]
    next: str | None


class EventBody(BaseModel):
    """Something that happened to a job."""

    number: int
    at: str
    kind: str
    data: dict[str, Any]


class EventsBody(BaseModel):
    """Events, in order."""

    events: list[EventBody]


class RowsBody(BaseModel):
    """What the command of the same name prints as JSON."""

    rows: Any


class ProblemBody(BaseModel):
    """One mistake in what was sent."""

    where: str
    message: str


class CheckedBody(BaseModel):
    """What a look at files found."""

    study: str | None
    problems: list[ProblemBody]
    warnings: list[str]


class ExportBody(BaseModel):
    """A model folder that the service writes."""

    id: str
    name: str
    trial: int | None
    is_scored: bool
    state: ExportState
    why: str | None
    bytes: int
    fingerprint: str | None


class ExportsBody(BaseModel):
    """The exports of a job, oldest first."""

    exports: list[ExportBody]


class WorkerBody(BaseModel):
    """A worker."""

    id: str
    node: str
    host: str
    address: str
    state: str
    study: str | None
    versions: dict[str, Any]
    resources: dict[str, Any]
    since: str
    seen: str


class WorkersBody(BaseModel):
    """The workers of the cluster."""

    workers: list[WorkerBody]


class TokenBody(BaseModel):
    """What is known of a token."""

    user: str
    name: str
    scopes: list[Scope]
    created: str
    expires: str | None
    revoked: str | None
    last_used: str | None


class TokensBody(BaseModel):
    """One's own tokens."""

    tokens: list[TokenBody]


class SecretBody(BaseModel):
    """A token's secret, shown this once."""

    secret: str


class UserBody(BaseModel):
    """A user."""

    name: str
    role: Role
    weight: float
    max_running: int | None
    max_gpu_hours: float | None


class UsersBody(BaseModel):
    """Every user."""

    users: list[UserBody]


class MeBody(BaseModel):
    """Who asks, and who answers."""

    user: str
    role: Role
    scopes: list[Scope]
    version: str


class HealthBody(BaseModel):
    """Whether all is well."""

    status: str


class ErrorBody(BaseModel):
    """What is wrong, as problem+json; ``code`` is the exit code of a command."""

    type: str
    title: str
    status: int
    detail: str
    problems: list[ProblemBody]
    code: int
    error: str | None
