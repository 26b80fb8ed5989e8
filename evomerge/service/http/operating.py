"""Routes of the service itself: its health, its workers, its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from evomerge.service.http import bodies
from evomerge.service.http.asking import Asking, Counter, answer

router = APIRouter(tags=["the service"])


@dataclass(frozen=True)
class Replica:
    """What routes know of the process they are in.

    Attributes:
        obstacle: Why its supervisor claims no jobs; None if it does.
        drain: Ends it in order.
    """

    obstacle: Callable[[], str | None]
    drain: Callable[[], None]


@router.get("/healthz", response_model=bodies.HealthBody)
async def health() -> Response:
    """Tell that the process answers; needs no token."""
    return answer({"status": "ok"})


@router.get("/readyz", response_model=bodies.HealthBody)
def ready(request: Request) -> Response:
    """Tell whether the database answers and jobs are claimed; needs no token."""
    counter: Counter = request.app.state.counter
    replica: Replica = request.app.state.replica
    obstacle = replica.obstacle()
    if obstacle is None:
        with counter.pool.lend() as records:
            records.seconds()
    return answer({"status": obstacle or "ok"}, 503 if obstacle else 200)


@router.get("/v1/workers", response_model=bodies.WorkersBody)
def workers(ask: Asking) -> Response:
    """Return the workers of the cluster."""
    return answer({"workers": list(ask(lambda desk: desk.workers()))})


WorkerId = Annotated[str, Path(min_length=1, max_length=200)]


@router.post("/v1/workers/{id}/drain", response_model=bodies.WorkerBody)
def drain_worker(id: WorkerId, ask: Asking) -> Response:
    """Let a worker end what it was handed, and its study do with one fewer."""
    return answer(ask(lambda desk: desk.drain_worker(id)))


@router.post("/v1/workers/{id}/undrain", status_code=204, response_class=Response)
def undrain_worker(id: WorkerId, ask: Asking) -> Response:
    """Let a drained worker's place be taken again."""
    ask(lambda desk: desk.undrain_worker(id))
    return Response(status_code=204)


@router.post("/v1/drain", response_model=bodies.HealthBody, status_code=202)
def drain(request: Request, ask: Asking) -> Response:
    """End the replica that answers, in order; for operators."""
    ask(lambda desk: desk.may_operate())
    replica: Replica = request.app.state.replica
    replica.drain()
    return answer({"status": "draining"}, 202)
