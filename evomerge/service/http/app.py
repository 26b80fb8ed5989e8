"""The HTTP application: routes, bounds, errors, and the description of them all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from evomerge import __version__
from evomerge.client.problems import MEDIA_TYPE
from evomerge.service.http import (
    bodies,
    exports,
    operating,
    people,
    problems,
    streams,
    studies,
)
from evomerge.service.http.asking import Counter
from evomerge.service.http.bounds import Bounds
from evomerge.service.http.following import Watch
from evomerge.service.http.operating import Replica

_ABOUT = """Submit studies, follow them, and fetch what came of them.

Every error is `application/problem+json`; its `problems` are the list of mistakes that
`evomerge check` prints, and its `code` is the exit code that a command ends with.
"""
_PROBLEM = {
    "description": "What is wrong, and what to do",
    "content": {
        MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ErrorBody"}},
    },
}


def make_app(counter: Counter, replica: Replica) -> FastAPI:
    """Make the application of one replica.

    Args:
        counter: Gives each request its desk.
        replica: The process it is in.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.watch = Watch(counter.pool)  # of this event loop
        yield
        app.state.watch.close()
        counter.pool.close()

    app = FastAPI(
        title="evomerge",
        description=_ABOUT,
        version=__version__,
        docs_url=None,  # their pages fetch scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        responses={"default": _PROBLEM},
    )
    app.state.counter = counter
    app.state.replica = replica
    problems.install(app)
    for part in (studies, streams, exports, people, operating):
        app.include_router(part.router)
    app.add_middleware(Bounds)
    _describe(app)
    return app


def _describe(app: FastAPI) -> None:
    """Let the description name what every error looks like."""
    described = app.openapi

    def openapi() -> dict[str, object]:
        found = described()
        parts = found.setdefault("components", {}).setdefault("schemas", {})
        parts.setdefault("ProblemBody", bodies.ProblemBody.model_json_schema())
        if "ErrorBody" not in parts:
            schema = bodies.ErrorBody.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )
            schema.pop("$defs", None)
            parts["ErrorBody"] = schema
        return found

    app.openapi = openapi  # type: ignore[method-assign]
