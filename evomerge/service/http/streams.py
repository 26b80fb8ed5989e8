"""Routes of what a job does: its events and its log, at once or as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from evomerge.client.verbs import EVENTS_PAGE
from evomerge.service.http import bodies
from evomerge.service.http.asking import Ask, Asking, answer
from evomerge.service.http.bodies import Name
from evomerge.service.http.following import Stream, Watch
from evomerge.service.http.studies import Owner, address

router = APIRouter(prefix="/v1", tags=["events and logs"])

Follow = Annotated[
    bool, Query(description="Go on as server-sent events until `event: end`.")
]
Number = Annotated[int, Query(ge=0, lt=1 << 53)]
_SSE = {"text/event-stream": {"schema": {"type": "string"}}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}


@router.get(
    "/studies/{name}/events",
    response_model=bodies.EventsBody,
    responses={200: {"content": _SSE}},
)
async def events(
    request: Request,
    name: Name,
    ask: Asking,
    owner: Owner = None,
    after: Number = 0,
    limit: Annotated[int, Query(ge=1, le=EVENTS_PAGE)] = EVENTS_PAGE,
    follow: Follow = False,
    last: Annotated[str | None, Header(alias="Last-Event-ID", max_length=16)] = None,
) -> Response:
    """Return a job's events after a number, in order; none is ever skipped."""
    job = address(name, owner)
    if last is not None and last.isascii() and last.isdigit():
        after = max(after, int(last))
    if not follow:
        found = await run_in_threadpool(ask, lambda d: d.events(job, after, limit))
        return answer({"events": list(found)})
    stream = await _stream(request, ask, job)
    return _sent(stream.events(after))


@router.get(
    "/studies/{name}/logs",
    response_class=Response,
    responses={200: {"content": {**_TEXT, **_SSE}}},
)
async def logs(
    request: Request,
    name: Name,
    ask: Asking,
    owner: Owner = None,
    after: Number = 0,
    follow: Follow = False,
) -> Response:
    """Return a job's log from a byte on; `X-Next` is where what follows begins."""
    job = address(name, owner)
    if not follow:
        part = await run_in_threadpool(ask, lambda desk: desk.log(job, after))
        headers = {"X-Next": str(part.next)}
        return Response(part.text, 200, headers, media_type="text/plain")
    stream = await _stream(request, ask, job)
    return _sent(stream.log(after))


async def _stream(request: Request, ask: Ask, name: str) -> Stream:
    watch: Watch = request.app.state.watch
    watch.admit()
    job = await run_in_threadpool(ask, lambda desk: desk.job(name))
    return Stream(watch, ask, name, job.id)


def _sent(stream: AsyncIterator[bytes]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream, 200, headers, media_type="text/event-stream")
