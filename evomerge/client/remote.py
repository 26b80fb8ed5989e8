"""A cluster over HTTP: the verbs, asked of whichever replica answers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from evomerge.client.downloads import Archive, fetch, refuse_taken, unpack
from evomerge.client.streams import Message, Stream
from evomerge.client.transport import Request, Transport
from evomerge.client.values import reader, to_json
from evomerge.client.verbs import (
    EVENTS_PAGE,
    PAGE,
    Checked,
    ExportJob,
    LogPart,
    Me,
    NewToken,
    NewUser,
    WorkerRow,
)
from evomerge.errors import ExportError, Problem, RemoteError, SpecError
from evomerge.exit_codes import ExitCode
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.submission import name_problems
from evomerge.store.queue.values import (
    ExportState,
    Job,
    JobEvent,
    JobState,
    Token,
    User,
)

_T = TypeVar("_T")
_CREATED = 201


class RemoteService:
    """``Verbs`` over HTTP.

    Args:
        transport: To the replicas, with the token.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def __repr__(self) -> str:
        return f"RemoteService({self._transport.shown})"

    @property
    def shown(self) -> str:
        """The URLs of its replicas, as messages name them."""
        return self._transport.shown

    def me(self) -> Me:
        """Return who asks."""
        return self._get("/v1/me", reader(Me))

    def submit(
        self,
        files: Mapping[str, bytes],
        *,
        name: str | None = None,
        priority: int = 0,
        place: Mapping[str, Any] | None = None,
    ) -> tuple[Job, bool]:
        """Queue a study; see ``Verbs``."""
        from evomerge.client.bundling import name_of  # PyYAML costs milliseconds

        bundle = Bundle(files)
        body = {
            "files": bundle.to_json(),
            "priority": priority,
            "place": dict(place or {}),
        }
        own = name or name_of(files)
        if problems := name_problems("name", own):
            raise SpecError(problems)
        data, status = self._transport.json(Request("PUT", *_path(own), body))
        return _read(data, reader(Job)), status == _CREATED

    def check(self, files: Mapping[str, bytes]) -> Checked:
        """Look at a study's files where they would run; see ``Verbs``."""
        body = {"files": Bundle(files).to_json()}
        return self._ask(Request("POST", "/v1/check", None, body), reader(Checked))

    def jobs(
        self,
        *,
        states: Collection[JobState] = (),
        user: str | None = None,
        filters: Mapping[str, str] | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> Sequence[Job]:
        """Return jobs, oldest first; see ``Verbs``."""
        query: dict[str, Any] = {
            "state": sorted(state.value for state in states),
            "filter": [f"{key}={value}" for key, value in (filters or {}).items()],
            "limit": limit,
        }
        query |= {"user": user} if user is not None else {}
        query |= {"after": after} if after is not None else {}
        request = Request("GET", "/v1/studies", query)
        return self._ask(request, _listed("jobs", reader(Job)))

    def job(self, name: str) -> Job:
        """Return a job."""
        return self._ask(Request("GET", *_path(name)), reader(Job))

    def cancel(self, name: str) -> Job:
        """Want a job ended; see ``Verbs``."""
        return self._post(name, "/cancel", None, reader(Job))

    def pause(self, name: str) -> Job:
        """Want a job to stop until it is resumed; see ``Verbs``."""
        return self._post(name, "/pause", None, reader(Job))

    def resume(
        self,
        name: str,
        *,
        budget: Mapping[str, float] | None = None,
        priority: int | None = None,
    ) -> Job:
        """Want a job to run; see ``Verbs``."""
        body: dict[str, Any] = {"budget": dict(budget or {})}
        if priority is not None:
            body["priority"] = priority
        return self._post(name, "/resume", body, reader(Job))

    def scale(self, name: str, workers: int) -> Job:
        """Want another number of workers; see ``Verbs``."""
        return self._post(name, "/scale", {"workers": workers}, reader(Job))

    def delete(self, name: str) -> None:
        """Forget a job that has ended; see ``Verbs``."""
        self._transport.json(Request("DELETE", *_path(name)))

    def status(self, name: str) -> Any:
        """Return what ``evomerge status --json`` prints; see ``Verbs``."""
        return self._rows(name, "/status")

    def front(self, name: str) -> Any:
        """Return what ``evomerge front --json`` prints."""
        return self._rows(name, "/front")

    def trials(self, name: str) -> Any:
        """Return what ``evomerge trials --json`` prints."""
        return self._rows(name, "/trials")

    def attempts(self, name: str) -> Any:
        """Return what ``evomerge attempts --json`` prints."""
        return self._rows(name, "/attempts")

    def events(
        self, name: str, after: int = 0, limit: int = EVENTS_PAGE
    ) -> Sequence[JobEvent]:
        """Return a job's events after a number; see ``Verbs``."""
        path, query = _path(name, "/events")
        request = Request("GET", path, {**query, "after": after, "limit": limit})
        return self._ask(request, _listed("events", reader(JobEvent)))

    def follow_events(self, name: str, after: int = 0) -> Iterator[JobEvent]:
        """Yield a job's events as they happen; see ``Verbs``."""
        stream = Stream(self._transport, *_path(name, "/events"), after)
        for message in stream:
            event = _read(_data_of(message), reader(JobEvent))
            if event.number > stream.after:  # a replica may tell one again
                stream.after = event.number
                yield event

    def log(self, name: str, after: int = 0) -> LogPart:
        """Return a job's log from a byte on; see ``Verbs``."""
        path, query = _path(name, "/logs")
        data, headers = self._transport.raw(
            Request("GET", path, {**query, "after": after}, headers=_ANY)
        )
        return _read(
            {"text": data, "next": headers.get("X-Next", after + len(data))}, _part
        )

    def follow_log(self, name: str, after: int = 0) -> Iterator[LogPart]:
        """Yield a job's log as it grows; see ``Verbs``."""
        stream = Stream(self._transport, *_path(name, "/logs"), after)
        for message in stream:
            part = _read(_data_of(message), _coded_part)
            if part.next > stream.after:
                stream.after = part.next
                yield part

    def export(
        self, name: str, trial: int | None = None, *, is_scored: bool = True
    ) -> ExportJob:
        """Ask for a trial to be written as a model folder; see ``Verbs``."""
        body = {"trial": trial, "is_scored": is_scored}
        return self._post(name, "/exports", body, reader(ExportJob))

    def export_state(self, name: str, id: str) -> ExportJob:
        """Return how an export stands."""
        request = Request("GET", *_path(name, f"/exports/{_quoted(id)}"))
        return self._ask(request, reader(ExportJob))

    def download(
        self,
        name: str,
        id: str,
        folder: Path,
        *,
        replaced: bool = False,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Path:
        """Fetch a finished export into a new folder; see ``Verbs``.

        Args:
            name: Of the job.
            id: Of the export.
            folder: To be made.
            replaced: Put it in the place of an earlier export.
            progress: Told bytes fetched and bytes in all.
        """
        refuse_taken(folder, replaced=replaced)
        found = self.export_state(name, id)
        if found.state is not ExportState.FINISHED:
            raise ExportError(
                f"Export {id} of {name} is {found.state}"
                + (f": {found.why}" if found.why else "; wait until it is finished.")
            )
        path, query = _path(name, f"/exports/{_quoted(id)}/files")
        archive = Archive(id, found.bytes, found.fingerprint)
        with fetch(
            self._transport, Request("GET", path, query), archive, folder, progress
        ) as file:
            return unpack(file, folder, archive, replaced=replaced)

    def workers(self) -> Sequence[WorkerRow]:
        """Return the workers of the cluster."""
        return self._get("/v1/workers", _listed("workers", reader(WorkerRow)))

    def drain_worker(self, id: str) -> WorkerRow:
        """Let a worker end what it was handed, and get no more; see ``Verbs``."""
        request = Request("POST", f"/v1/workers/{_quoted(id)}/drain")
        return self._ask(request, reader(WorkerRow))

    def undrain_worker(self, id: str) -> None:
        """Let a drained worker's place be taken again; see ``Verbs``."""
        self._transport.json(Request("POST", f"/v1/workers/{_quoted(id)}/undrain"))

    def tokens(self) -> Sequence[Token]:
        """Return one's own tokens; never their secrets."""
        return self._get("/v1/tokens", _listed("tokens", reader(Token)))

    def add_token(self, new: NewToken) -> str:
        """Make a token for oneself, and return its secret; see ``Verbs``."""
        body = to_json(new)
        request = Request("POST", "/v1/tokens", None, body, repeats=False)
        return self._ask(request, lambda data: str(data["secret"]))

    def revoke_token(self, name: str) -> None:
        """Make one of one's own tokens hold no more; idempotent."""
        self._transport.json(Request("DELETE", f"/v1/tokens/{_quoted(name)}"))

    def users(self) -> Sequence[User]:
        """Return every user; for admins."""
        return self._get("/v1/users", _listed("users", reader(User)))

    def add_user(self, new: NewUser) -> User:
        """Add a user; for admins."""
        body = to_json(new)
        request = Request("POST", "/v1/users", None, body, repeats=False)
        return self._ask(request, reader(User))

    def _get(self, path: str, read: Callable[[Any], _T]) -> _T:
        return self._ask(Request("GET", path), read)

    def _post(self, name: str, verb: str, body: Any, read: Callable[[Any], _T]) -> _T:
        return self._ask(Request("POST", *_path(name, verb), body), read)

    def _rows(self, name: str, what: str) -> Any:
        request = Request("GET", *_path(name, what))
        return self._ask(request, lambda data: data["rows"])

    def _ask(self, request: Request, read: Callable[[Any], _T]) -> _T:
        data, _ = self._transport.json(request)
        return _read(data, read)


_ANY = {"Accept": "*/*"}


def _path(name: str, below: str = "") -> tuple[str, dict[str, str]]:
    """Return a route of a job, and the query that says whose it is."""
    user, slash, own = name.rpartition("/")
    for what, word in (("name", own), *([("user", user)] if slash else [])):
        if not word or "/" in word or word in (".", ".."):
            said = f"expected NAME or USER/NAME, got {name!r:.80}"
            raise SpecError([Problem(what, said)])
    return f"/v1/studies/{_quoted(own)}{below}", {"user": user} if slash else {}


def _quoted(word: str) -> str:
    return quote(word, safe="")


def _listed(key: str, read: Callable[[Any], _T]) -> Callable[[Any], tuple[_T, ...]]:
    return lambda data: tuple(map(read, data[key]))


def _data_of(message: Message) -> Any:
    try:
        return json.loads(message.data)
    except ValueError as error:
        raise _strange(error) from error


def _part(data: Any) -> LogPart:
    return LogPart(bytes(data["text"]), int(data["next"]))


def _coded_part(data: Any) -> LogPart:
    return LogPart(base64.b64decode(data["text"], validate=True), int(data["next"]))


def _read(data: Any, read: Callable[[Any], _T]) -> _T:
    """Make values of what came; it is another program's word."""
    try:
        return read(data)
    except (LookupError, TypeError, ValueError) as error:
        raise _strange(error) from error


def _strange(error: Exception) -> RemoteError:
    return RemoteError(
        f"The cluster's answer is not understood ({error}). Is its evomerge another "
        "version's?",
        ExitCode.PUT_RIGHT,
    )
