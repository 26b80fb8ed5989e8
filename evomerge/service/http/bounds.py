"""Bounds of a request before it is read, and the version on every answer."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evomerge import __version__
from evomerge.client.verbs import MAX_BODY
from evomerge.service.http.problems import of_status

SMALL_BODY = 64 << 10
"""Largest request in bytes that holds no files."""
_VERSION = (b"x-evomerge-version", __version__.encode())


class Bounds:
    """Refuses bodies that are too large, and names the version; an ASGI layer.

    A body that is announced as too large is refused before a byte of it is read; one
    that is not announced, when it has become too large.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), _VERSION]
            await send(message)

        most = _most(scope)
        if _announced(scope) > most:
            await of_status(413, _said(most))(scope, receive, named)
            return
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise HTTPException(413, _said(most))
            return message

        await self._app(scope, bounded, named)


def _most(scope: Scope) -> int:
    has_files = scope["method"] == "PUT" or scope["path"].startswith("/v1/check")
    return MAX_BODY if has_files else SMALL_BODY


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _said(most: int) -> str:
    return f"A request may hold {most} bytes here."
