"""A replica for faults: it answers as a test says, and can be cut off or ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from evomerge import __version__


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """Answers one request by the test's script."""

    protocol_version = "HTTP/1.1"
    asked: Asked
    replica: Replica

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        self.asked = Asked(
            self.command,
            self.path,
            {name.lower(): value for name, value in self.headers.items()},
            self.rfile.read(size),
        )
        self.replica.asked.append(self.asked)
        self.close_connection = True
        self.replica.answer(self)

    do_GET = do_PUT = do_POST = do_DELETE = _serve  # noqa: N815 - the library's names

    def send(
        self,
        body: bytes,
        status: int = 200,
        *,
        length: int | None = None,
        **headers: str,
    ) -> None:
        """Send an answer; a length larger than its body's cuts it."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"X-Evomerge-Version": __version__, **said}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def stream(self, *parts: bytes) -> None:
        """Send events and close; whether that is the end the events say."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for part in parts:
            self.wfile.write(part)
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Replica:
    """A server on a port of this machine.

    Attributes:
        answer: What it does with each request.
        asked: What was asked, in order.
    """

    answer: Callable[[Handler], None]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def replica(answer: Callable[[Handler], None]) -> Iterator[Replica]:
    """Serve while the block lasts."""
    found = Replica(answer)
    handler = type("Handler", (Handler,), {"replica": found})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def in_turn(answers: Sequence[Callable[[Handler], None]]) -> Callable[[Handler], None]:
    """Answer each request by the next; from the last on by that one."""
    left = list(answers)

    def answer(handler: Handler) -> None:
        (left.pop(0) if len(left) > 1 else left[0])(handler)

    return answer
