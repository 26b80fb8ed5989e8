"""Server-sent events, followed to their end across replicas that come and go.

A connection that is cut ends like one that is closed, so the end is an event of its
own; without it the next replica is asked for what comes after the last one seen.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.client.transport import Request, Transport
from evomerge.errors import ClusterUnreachableError

END = "end"
"""The event after which nothing comes."""
_LONGEST_LINE = 8 << 20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0


@dataclass(frozen=True, slots=True)
class Message:
    """A server-sent event."""

    event: str
    data: str


class _CutError(Exception):
    """A stream ended before its end."""


class Stream:
    """Events of one route, from a cursor on.

    Args:
        transport: To the replicas.
        path: The route's.
        query: Its query, without the cursor.
        after: The cursor: what was seen already. Whoever reads moves it.
    """

    def __init__(
        self, transport: Transport, path: str, query: Mapping[str, Any], after: int
    ) -> None:
        self._transport = transport
        self._path = path
        self._query = query
        self.after = after

    def __iter__(self) -> Iterator[Message]:
        """Yield messages until the end is said.

        Raises:
            EvomergeError: What the cluster says is wrong.
            ClusterUnreachableError: Nobody goes on, for the transport's patience.
        """
        pause_s, cut_at = _FIRST_PAUSE_S, None
        while True:
            before = self.after
            try:
                for message in self._once():
                    if message.event == END:
                        return
                    yield message
            except _CutError as error:
                if self.after != before:
                    pause_s, cut_at = _FIRST_PAUSE_S, None
                cut_at = cut_at or time.monotonic()
                if time.monotonic() - cut_at > self._transport.patience_s:
                    raise ClusterUnreachableError(
                        f"The cluster ({self._transport.shown}) cuts every "
                        f"connection: {error}."
                    ) from error
                self._transport.next()
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _once(self) -> Iterator[Message]:
        query = {**self._query, "follow": "true", "after": self.after}
        headers = {"Accept": "text/event-stream"}
        request = Request("GET", self._path, query, headers=headers)
        with self._transport.open(request) as answer:
            yield from _messages(_lines(answer))
        raise _CutError("it was closed before its end")


def _lines(answer: http.client.HTTPResponse) -> Iterator[str]:
    while True:
        try:
            line = answer.readline(_LONGEST_LINE)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(str(error) or type(error).__name__) from error
        if not line.endswith(b"\n"):  # cut within a line, or far too long
            return
        yield line.decode("utf-8", "replace").rstrip("\r\n")


def _messages(lines: Iterator[str]) -> Iterator[Message]:
    """Put lines together as the standard says; one cut off half-way is none."""
    event, data = "", list[str]()
    for line in lines:
        if not line:
            if event or data:
                yield Message(event or "message", "\n".join(data))
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            event = value
        elif name == "data":
            data.append(value)
