"""Routes of studies: submit them, look at them, say what is wanted of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from evomerge.client.verbs import MOST_JOBS, PAGE
from evomerge.errors import BusyError, Problem, SpecError
from evomerge.service.desk import Desk, look
from evomerge.service.http import bodies
from evomerge.service.http.asking import Asking, answer, site_of
from evomerge.service.http.bodies import NAME, Name
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.values import JobState

MOST_LOOKS = 8
"""Requests of one process that wait for a look at files."""
_looks = threading.BoundedSemaphore(MOST_LOOKS)
router = APIRouter(prefix="/v1", tags=["studies"])

Owner = Annotated[
    str | None,
    Query(alias="user", pattern=NAME, description="Whose; for operators."),
]


def address(name: str, owner: str | None) -> str:
    """Return a job's name as the verbs take it."""
    return name if owner is None else f"{owner}/{name}"


def files_of(sent: bodies.Files) -> dict[str, bytes]:
    """Read the files of a request.

    Raises:
        SpecError: They are no base 64, or no bundle.
    """
    try:
        return dict(Bundle.from_json(sent.files).files)
    except ValueError as error:
        said = "expected contents in base 64"
        raise SpecError([Problem("files", said)]) from error


@router.put(
    "/studies/{name}",
    response_model=bodies.JobBody,
    status_code=201,
    responses={200: {"model": bodies.JobBody, "description": "It is there already"}},
)
def submit(name: Name, sent: bodies.Submitted, ask: Asking) -> Response:
    """Queue a study; the same again changes nothing."""
    files = files_of(sent)
    place = sent.place.model_dump(exclude_none=True)
    job, is_new = ask(
        lambda desk: desk.submit(files, name=name, priority=sent.priority, place=place)
    )
    return answer(job, 201 if is_new else 200)


@router.post("/check", response_model=bodies.CheckedBody)
def check(request: Request, sent: bodies.Files, ask: Asking) -> Response:
    """Look at a study's files where they would run; nothing is queued."""
    files = files_of(sent)
    ask(lambda desk: desk.may_check())
    if not _looks.acquire(blocking=False):
        raise BusyError("Too many studies are looked at; try again in a moment.")
    try:
        return answer(look(files, site_of(request)))
    finally:
        _looks.release()


@router.get("/studies", response_model=bodies.JobsBody)
def jobs(
    ask: Asking,
    owner: Owner = None,
    state: Annotated[list[JobState] | None, Query(max_length=20)] = None,
    chosen: Annotated[
        list[str] | None,
        Query(
            alias="filter",
            max_length=20,
            description="`key=value`: only jobs that have it, as text.",
        ),
    ] = None,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=MOST_JOBS)] = PAGE,
) -> Response:
    """Return jobs, oldest first: one's own; of an operator, everybody's."""
    filters = _filters(chosen or ())
    found = ask(
        lambda desk: desk.jobs(
            states=state or (), user=owner, filters=filters, after=after, limit=limit
        )
    )
    more = found[-1].address if len(found) == limit else None
    return answer({"jobs": list(found), "next": more})


def _filters(chosen: Any) -> dict[str, str]:
    split = [one.partition("=") for one in chosen]
    if bad := [key for key, equals, _ in split if not equals]:
        said = f"expected KEY=VALUE, got {bad[0]!r:.80}"
        raise SpecError([Problem("filter", said)])
    return {key: value for key, _, value in split}


@router.get("/studies/{name}", response_model=bodies.JobBody)
def job(name: Name, ask: Asking, owner: Owner = None) -> Response:
    """Return a job."""
    return answer(ask(lambda desk: desk.job(address(name, owner))))


@router.post("/studies/{name}/cancel", response_model=bodies.JobBody)
def cancel(name: Name, ask: Asking, owner: Owner = None) -> Response:
    """Want a job ended; idempotent."""
    return answer(ask(lambda desk: desk.cancel(address(name, owner))))


@router.post("/studies/{name}/pause", response_model=bodies.JobBody)
def pause(name: Name, ask: Asking, owner: Owner = None) -> Response:
    """Want a job to stop until it is resumed; idempotent."""
    return answer(ask(lambda desk: desk.pause(address(name, owner))))


@router.post("/studies/{name}/resume", response_model=bodies.JobBody)
def resume(
    name: Name,
    ask: Asking,
    sent: bodies.Resumed | None = None,
    owner: Owner = None,
) -> Response:
    """Want a job to run, with a larger budget or another priority if given."""
    said = sent or bodies.Resumed()
    budget = said.budget.model_dump(exclude_none=True)
    return answer(
        ask(
            lambda desk: desk.resume(
                address(name, owner), budget=budget, priority=said.priority
            )
        )
    )


@router.post("/studies/{name}/scale", response_model=bodies.JobBody)
def scale(
    name: Name, ask: Asking, sent: bodies.Scaled, owner: Owner = None
) -> Response:
    """Want another number of workers for a job that has not ended."""
    return answer(ask(lambda desk: desk.scale(address(name, owner), sent.workers)))


@router.delete("/studies/{name}", status_code=204, response_class=Response)
def delete(name: Name, ask: Asking, owner: Owner = None) -> Response:
    """Forget a job that has ended, with its study, log and exports."""
    ask(lambda desk: desk.delete(address(name, owner)))
    return Response(status_code=204)


def _rows(path: str, read: Callable[[Desk, str], Any]) -> None:
    """Add a route that answers with the rows of a command."""

    @router.get(
        f"/studies/{{name}}/{path}",
        response_model=bodies.RowsBody,
        name=path,
        summary=f"What `evomerge {path} --json` prints",
        operation_id=path,
    )
    def rows(name: Name, ask: Asking, owner: Owner = None) -> Response:
        found = ask(lambda desk: read(desk, address(name, owner)))
        return answer({"rows": found})


_rows("status", Desk.status)
_rows("front", Desk.front)
_rows("trials", Desk.trials)
_rows("attempts", Desk.attempts)
