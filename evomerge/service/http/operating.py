"""Routes of the service itself: its health, its workers, its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from evomerge.service.http import bodies
from evomerge.service.http.asking import Asking, Counter, answer

router = APIRouter(tags=["the service"])


@dataclass(frozen=True)
class Replica:
    """What routes know of the process they are in.

    Attributes:
        is_claiming: Whether its supervisor looked at the queue lately.
        drain: Ends it in order.
    """

    is_claiming: Callable[[], bool]
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
    with counter.pool.lend() as records:
        records.seconds()
    is_claiming = replica.is_claiming()
    said = "ok" if is_claiming else "jobs are not claimed"
    return answer({"status": said}, 200 if is_claiming else 503)


@router.get("/v1/workers", response_model=bodies.WorkersBody)
def workers(ask: Asking) -> Response:
    """Return the workers of the cluster."""
    return answer({"workers": list(ask(lambda desk: desk.workers()))})


@router.post("/v1/drain", response_model=bodies.HealthBody, status_code=202)
def drain(request: Request, ask: Asking) -> Response:
    """End the replica that answers, in order; for operators."""
    ask(lambda desk: desk.may_operate())
    replica: Replica = request.app.state.replica
    replica.drain()
    return answer({"status": "draining"}, 202)
