"""A service of its own for a test: a real server on a port of this machine."""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from evomerge.core.policy import Policy
from evomerge.service.replica import Listening, serve
from evomerge.service.supervisor import Site
from evomerge.store.queue.accounts import Accounts, open_accounts
from evomerge.store.queue.values import Role, Scope

READ_WRITE = (Scope.READ, Scope.WRITE)
_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: bytes

    @property
    def data(self) -> Any:
        """The text as JSON."""
        return json.loads(self.text)


@dataclass(frozen=True)
class Service:
    """A service that runs, and tokens for it: ``ann`` and ``bob``, and an operator."""

    url: str
    db: str
    spool: Path
    tokens: Mapping[str, str] = field(repr=False)

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection."""
        return http.client.HTTPConnection(
            urlsplit(self.url).netloc, timeout=_PATIENCE_S
        )

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str | None = "ann",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send one request; a body that is no bytes goes as JSON."""
        sent = dict(headers or {})
        if who is not None:
            sent["Authorization"] = f"Bearer {self.tokens.get(who, who)}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        connection = self.connect()
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            found = {key.lower(): value for key, value in answer.headers.items()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def submit(
        self, name: str, study: Mapping[str, Any], who: str = "ann", **more: Any
    ) -> Answer:
        """Submit a study of one file."""
        body = {"files": files_of(study), **more}
        return self.call("PUT", f"/v1/studies/{name}", body, who=who)

    def state(self, name: str, who: str = "ann") -> str:
        """Return a job's state."""
        found: str = self.call("GET", f"/v1/studies/{name}", who=who).data["state"]
        return found


def files_of(study: Mapping[str, Any]) -> dict[str, str]:
    """Return a bundle of one study file, as it is sent."""
    return {"study.yaml": base64.b64encode(json.dumps(study).encode()).decode()}


@contextmanager
def serving(
    url: str, spool: Path, capacity: int = 0, policy: Policy | None = None
) -> Iterator[Service]:
    """Run a service in a thread while the block lasts, and drain it.

    Args:
        url: Of its database.
        spool: Its folder.
        capacity: Jobs at once; with 0 they stay queued.
        policy: What studies may do; None for all.
    """
    tokens = _people(url)
    ready = threading.Event()
    told: list[str] = []

    def say(found: str) -> None:
        told.append(found)
        ready.set()

    site = Site(url, spool, ("--in-process",), capacity, policy)
    thread = threading.Thread(
        target=serve, args=(site, Listening(port=0), say), daemon=True
    )
    thread.start()
    try:
        assert ready.wait(_PATIENCE_S), "the service does not start"
        yield Service(told[0], url, spool, tokens)
    finally:
        if told:
            drained = Service(told[0], url, spool, tokens)
            with suppress(ConnectionError):  # it is drained already
                while drained.call("POST", "/v1/drain", who="root").status == 503:
                    time.sleep(0.2)  # the database was away
        thread.join(_PATIENCE_S)
        assert not thread.is_alive(), "the service does not end"


def _people(url: str) -> dict[str, str]:
    accounts = open_accounts(url)
    try:
        if accounts.users():
            return {name: _token(accounts, name) for name in ("ann", "bob", "root")}
        for name in ("ann", "bob"):
            accounts.add_user(name)
        accounts.add_user("root", Role.ADMIN)
        return {name: _token(accounts, name) for name in ("ann", "bob", "root")}
    finally:
        accounts.close()


def _token(accounts: Accounts, name: str) -> str:
    scopes = tuple(Scope) if name == "root" else READ_WRITE
    return accounts.add_token(name, f"t{time.time_ns():x}", scopes)


def wait_for(what: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
