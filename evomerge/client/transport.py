"""Requests over HTTP to whichever replica of a cluster answers.

Replicas have no state, so a request that can be repeated goes to the next one when one
is gone. What cannot be repeated is sent again only where it was never sent.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode

from evomerge import __version__
from evomerge.client.problems import error_of
from evomerge.client.settings import CA_FILE, Address
from evomerge.errors import ClusterUnreachableError, EvomergeError, RemoteError
from evomerge.exit_codes import ExitCode

TIMEOUT_S = 30.0
"""How long a replica may be silent; where events are followed it beats every 10 s."""
PATIENCE_S = 8.0
"""How long replicas that do not answer are tried again."""
MAX_ANSWER = 256 << 20
"""Longest answer read, in bytes."""
VERSION_HEADER = "X-Evomerge-Version"

_PASSING = (429, 502, 503, 504)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_CONNECT_S = 5.0

Notice = Callable[[str], None]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        body: JSON data, None for none.
        repeats: Whether a second time does what the first did.
        headers: Further ones.
    """

    method: str
    path: str
    query: Mapping[str, Any] | None = None
    body: Any = None
    repeats: bool = True
    headers: Mapping[str, str] | None = None


class _AwayError(Exception):
    """A replica does not answer, or says that it cannot now.

    Attributes:
        was_sent: Whether it may have done what was asked.
        after_s: How long it asks to be left alone.
        is_passing: Whether to try again may help.
    """

    def __init__(
        self,
        said: str,
        *,
        was_sent: bool,
        after_s: float = 0.0,
        is_passing: bool = True,
    ) -> None:
        super().__init__(said)
        self.was_sent = was_sent
        self.after_s = after_s
        self.is_passing = is_passing


class Transport:
    """The replicas of a cluster, the one that answered last first.

    Args:
        addresses: Of the replicas, at least one.
        token: Shown to them, if any.
        ca_file: Certificates to trust, instead of the system's.
        timeout_s: How long a replica may be silent.
        patience_s: How long replicas that do not answer are tried again.
        notice: Told, in a line, what somebody who waits should know.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        token: str | None = None,
        *,
        ca_file: str | None = None,
        timeout_s: float = TIMEOUT_S,
        patience_s: float = PATIENCE_S,
        notice: Notice = lambda _: None,
    ) -> None:
        self._addresses = list(addresses)
        self._token = token
        self._ca_file = ca_file
        self._timeout_s = timeout_s
        self.patience_s = patience_s
        self.notice = notice
        self._told: set[str] = set()
        self._tls: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"Transport({self.shown})"

    @property
    def shown(self) -> str:
        """The URLs, as messages name them."""
        return ", ".join(map(str, self._addresses))

    def json(self, request: Request) -> tuple[Any, int]:
        """Return the JSON data of an answer, and its status.

        Raises:
            EvomergeError: What the cluster says is wrong.
            ClusterUnreachableError: Nobody answers.
        """
        text, answer = self._answer(request, _whole)
        status = answer.status
        try:
            return (json.loads(text) if text.strip() else None), status
        except ValueError as error:
            raise self._strange("its answer is no JSON") from error

    def raw(self, request: Request) -> tuple[bytes, http.client.HTTPMessage]:
        """Return the body of an answer, and its headers; see ``json``."""
        text, answer = self._answer(request, _whole)
        return text, answer.headers

    @contextmanager
    def open(self, request: Request) -> Iterator[http.client.HTTPResponse]:
        """Give the answer of the first replica that has one; its status is 2xx.

        Raises:
            EvomergeError: What the cluster says is wrong.
            ClusterUnreachableError: Nobody answers, for ``patience_s``.
        """
        connection, answer = self._answer(request, lambda opened: opened)
        try:
            yield answer
        finally:
            connection.close()

    def next(self) -> None:
        """Try another replica first from now on."""
        self._addresses.append(self._addresses.pop(0))

    def _answer(self, request: Request, take: Callable[[_Opened], _T]) -> _T:
        until = time.monotonic() + self.patience_s
        pause_s = _FIRST_PAUSE_S
        while True:
            reasons, after_s, is_passing = [], 0.0, False
            for address in tuple(self._addresses):
                try:
                    return take(self._ask(address, request))
                except _AwayError as error:
                    reasons.append(f"{address}: {error}")
                    after_s = max(after_s, error.after_s)
                    is_passing |= error.is_passing
                    if error.was_sent and not request.repeats:
                        raise self._unreachable(reasons, maybe_done=True) from error
                    self.next()
            if not is_passing:  # to wait does not help
                raise RemoteError("\n  ".join(reasons), ExitCode.PUT_RIGHT)
            wait_s = max(pause_s, min(after_s, _LONGEST_PAUSE_S))
            if time.monotonic() + wait_s > until:
                raise self._unreachable(reasons)
            self._tell_once(f"waiting for the cluster: {reasons[0]}")
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _ask(self, address: Address, request: Request) -> _Opened:
        """Ask one replica.

        Raises:
            EvomergeError: What it says is wrong.
            _AwayError: It does not answer, or not now.
        """
        connection = self._connect(address)
        try:
            answer = self._exchange(connection, address, request)
            if answer.status >= 300:
                raise self._refusal(answer, address)
        except BaseException:
            connection.close()
            raise
        self._compare(answer.headers.get(VERSION_HEADER))
        return connection, answer

    def _connect(self, address: Address) -> http.client.HTTPConnection:
        wait_s = min(_CONNECT_S, self._timeout_s)
        connection: http.client.HTTPConnection
        if address.scheme == "https":
            connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=wait_s, context=self._trusted()
            )
        else:
            connection = http.client.HTTPConnection(
                address.host, address.port, timeout=wait_s
            )
        if self._token is not None and not address.is_safe:
            self._tell_once(
                f"{address} is not encrypted: whoever is on the way can read the "
                "token. Use https."
            )
        try:
            connection.connect()
            connection.sock.settimeout(self._timeout_s)
        except OSError as error:
            connection.close()
            is_passing = not isinstance(error, ssl.SSLError)
            raise _AwayError(
                _reason(error), was_sent=False, is_passing=is_passing
            ) from error
        except ValueError as error:  # a host that no name server could know
            raise _AwayError(str(error), was_sent=False) from error
        return connection

    def _trusted(self) -> ssl.SSLContext:
        if self._tls is None:
            try:
                self._tls = ssl.create_default_context(cafile=self._ca_file)
            except OSError as error:  # ssl.SSLError is one
                raise RemoteError(
                    f"The certificates in {self._ca_file} cannot be used: "
                    f"{error.strerror or error}. Let {CA_FILE} name a file in PEM "
                    "form.",
                    ExitCode.PUT_RIGHT,
                ) from error
        return self._tls

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        address: Address,
        request: Request,
    ) -> http.client.HTTPResponse:
        headers = {
            "Accept": "application/json",
            "User-Agent": f"evomerge/{__version__}",
            **(request.headers or {}),
        }
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        body = None
        if request.body is not None:
            body = json.dumps(request.body).encode()
            headers["Content-Type"] = "application/json"
        target = address.path + request.path
        if request.query:
            target += "?" + urlencode(request.query, doseq=True)
        try:
            with contextlib.suppress(BrokenPipeError):  # refused before it was read
                connection.request(request.method, target, body, headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise _AwayError(_reason(error), was_sent=True) from error

    def _refusal(
        self, answer: http.client.HTTPResponse, address: Address
    ) -> EvomergeError | _AwayError:
        """Return what an answer that is no success says."""
        try:
            text = _read(answer)
        except _AwayError as error:
            return error
        if answer.status < 400:
            where = answer.headers.get("Location", "elsewhere")
            said = f"{address} sends on to {where!r:.200}; give that URL instead."
            return RemoteError(said, ExitCode.PUT_RIGHT)
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if answer.status in _PASSING:
            # 429 and 503 are said before anything is done; a proxy's 502 and 504 not.
            return _AwayError(
                str(error_of(data, answer.status)),
                was_sent=answer.status in (502, 504),
                after_s=_seconds(answer.headers.get("Retry-After")),
            )
        if not isinstance(data, dict):
            return self._strange(f"HTTP status {answer.status}")
        return error_of(data, answer.status)

    def _strange(self, what: str) -> RemoteError:
        return RemoteError(
            f"{self._addresses[0]} does not answer as an evomerge service does "
            f"({what}). Is that its address?",
            ExitCode.PUT_RIGHT,
        )

    def _unreachable(
        self, reasons: Sequence[str], *, maybe_done: bool = False
    ) -> ClusterUnreachableError:
        said = (
            "The answer was lost, so it may have been done; look before you ask again"
            if maybe_done
            else "No replica of the cluster answers; try again later"
        )
        return ClusterUnreachableError("\n  ".join((f"{said}. Tried:", *reasons)))

    def _compare(self, version: str | None) -> None:
        if version is None or version.split(".")[:2] == __version__.split(".")[:2]:
            return
        self._tell_once(
            f"the cluster has evomerge {version:.40}, this is {__version__}; some "
            "things may not be understood"
        )

    def _tell_once(self, said: str) -> None:
        if said not in self._told:
            self._told.add(said)
            self.notice(said)


_Opened = tuple[http.client.HTTPConnection, http.client.HTTPResponse]


def _whole(opened: _Opened) -> tuple[bytes, http.client.HTTPResponse]:
    connection, answer = opened
    try:
        return _read(answer), answer
    finally:
        connection.close()


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        text = answer.read(MAX_ANSWER + 1)
    except (OSError, http.client.HTTPException) as error:
        raise _AwayError(_reason(error), was_sent=True) from error
    if answer.length and len(text) <= MAX_ANSWER:
        raise _AwayError("cut its answer off", was_sent=True)
    if len(text) > MAX_ANSWER:
        raise RemoteError(
            f"The answer is longer than {MAX_ANSWER >> 20} MiB.", ExitCode.PUT_RIGHT
        )
    return text


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); {CA_FILE} names "
            "a file with certificates of your own"
        )
    if isinstance(error, ssl.SSLError):
        return f"TLS fails ({error.reason or error}); does it speak https?"
    if isinstance(error, TimeoutError):
        return "does not answer in time"
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    if isinstance(error, http.client.RemoteDisconnected):
        return "closed the connection"
    return f"its answer is no HTTP ({type(error).__name__})"


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:  # a date
        return 0.0
