"""Routes of the page: a frame for everybody, and parts for who has a token.

The script in the frame fetches the parts with the token in a header. There is no
cookie, so nothing that another site, or another port of this machine, lets a browser
send carries the token; what is asked of jobs goes to the routes of the API.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Query, Request, Response
from fastapi.responses import HTMLResponse

from evomerge.client.verbs import MOST_JOBS, WorkerRow
from evomerge.service.desk import Desk
from evomerge.service.http.asking import Asking
from evomerge.service.http.bodies import Name
from evomerge.service.page.render import (
    shell,
    studies_part,
    study_part,
    workers_part,
)
from evomerge.service.page.view import Progress, Watched, progress
from evomerge.service.page.watch import Watch
from evomerge.store.queue.values import Job

ROWS = 50
"""Jobs on one page."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MOST_PAGES = 10  # of MOST_JOBS
_KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = {
    name: (files(__package__) / "static" / name).read_bytes()
    for name in ("page.css", "page.js", "icon.svg")
}

router = APIRouter(include_in_schema=False)

Seen = Annotated[str | None, Header(alias="if-none-match", max_length=100)]


def install(app: FastAPI) -> None:
    """Add the page to a service's application."""
    app.state.page = Watch()
    app.include_router(router)


@router.get("/")
@router.get("/workers")
@router.get("/studies/{owner}/{name}")
def frame() -> HTMLResponse:
    """Return the frame; what belongs in it, its script knows by the address."""
    return _html(shell())


@router.get("/page/parts/studies")
def studies(
    request: Request,
    ask: Asking,
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
    seen: Seen = None,
) -> Response:
    """Return jobs at a glance: those that go on, then those that ended."""
    watch: Watch = request.app.state.page

    def read(desk: Desk) -> tuple[list[tuple[Job, Progress]], bool]:
        jobs = _listed(desk)
        chosen = jobs[(page - 1) * ROWS : page * ROWS]
        begun = [(job, watch.glance(desk, job)) for job in chosen]
        rows = [(job, progress(job, s.status, s.stages)) for job, s in begun]
        return rows, len(jobs) > page * ROWS

    rows, is_more = ask(read)
    return _part(studies_part(rows, page + 1 if is_more else None), seen)


@router.get("/page/parts/studies/{owner}/{name}")
def study(
    request: Request,
    ask: Asking,
    owner: Name,
    name: Name,
    before: Annotated[int | None, Query(ge=1)] = None,
    seen: Seen = None,
) -> Response:
    """Return everything that is told of one job."""
    watch: Watch = request.app.state.page

    def read(desk: Desk) -> Watched:
        job = desk.job(f"{owner}/{name}")
        return Watched(
            job=job,
            study=watch.study(desk, job),
            events=watch.events(desk, job),
            log=watch.log(desk, job),
            before=before,
        )

    return _part(study_part(ask(read)), seen)


@router.get("/page/parts/workers")
def workers(ask: Asking, seen: Seen = None) -> Response:
    """Return the workers of the cluster."""

    def read(desk: Desk) -> Sequence[WorkerRow]:
        return desk.workers()

    return _part(workers_part(ask(read)), seen)


@router.get("/page/{name}")
def file(name: str, seen: Seen = None) -> Response:
    """Return a file that the frame needs."""
    if name not in _FILES:
        return Response(status_code=404)
    kind = _KINDS[name.rpartition(".")[2]]
    return _kept(_FILES[name], kind, seen, "no-cache")


def _listed(desk: Desk) -> list[Job]:
    """Return every job, those that go on first, newest first."""
    found: list[Job] = []
    for _ in range(_MOST_PAGES):
        last = found[-1].address if found else None
        part = desk.jobs(after=last, limit=MOST_JOBS)
        found += part
        if len(part) < MOST_JOBS:
            break
    found.reverse()
    return sorted(found, key=lambda job: job.state.is_final)


def _part(html: str, seen: str | None) -> Response:
    return _kept(html.encode(), "text/html", seen, "no-store")


def _kept(body: bytes, kind: str, seen: str | None, cache: str) -> Response:
    """Answer that nothing is new, or with what is."""
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": cache, **_GUARDS}
    if seen == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type=f"{kind}; charset=utf-8")


def _html(text: str) -> HTMLResponse:
    return HTMLResponse(text, headers={"Cache-Control": "no-cache", **_GUARDS})


_GUARDS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
