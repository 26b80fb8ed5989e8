"""Who asks: from a request's token to a desk, for as long as the database is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Protocol, TypeVar

from fastapi import Depends, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from evomerge.client.values import to_json
from evomerge.errors import TokenError
from evomerge.service.desk import Desk
from evomerge.service.records import RecordsPool
from evomerge.service.supervisor import Site

_T = TypeVar("_T")


class Ask(Protocol):
    """Does something at the desk of whoever sent a request, in the calling thread."""

    def __call__(self, do: Callable[[Desk], _T]) -> _T:
        """Return what is done.

        Raises:
            TokenError: The token is nobody's, or holds no more.
            BusyError: Too many others are at their desks.
        """


class Counter:
    """Gives each request its desk.

    Args:
        pool: Of the database at ``site.url``.
        site: Where jobs run.
    """

    def __init__(self, pool: RecordsPool, site: Site) -> None:
        self.pool = pool
        self.site = site

    def asked_with(self, secret: str) -> Ask:
        """Return how whoever showed a token asks."""

        def ask(do: Callable[[Desk], _T]) -> _T:
            with self.pool.lend() as records:
                caller = records.accounts.caller(secret)
                return do(Desk(records, self.site, caller))

        return ask


_BEARER = HTTPBearer(auto_error=False, description="A token, `emk_...`.")


async def _asking(
    request: Request,
    shown: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)],
) -> Ask:
    if shown is None:
        raise TokenError("Show a token: Authorization: Bearer emk_...")
    counter: Counter = request.app.state.counter
    return counter.asked_with(shown.credentials)


Asking = Annotated[Ask, Depends(_asking)]


def site_of(request: Request) -> Site:
    """Return where jobs run."""
    counter: Counter = request.app.state.counter
    return counter.site


def answer(value: Any, status: int = 200) -> JSONResponse:
    """Return a value of ours as JSON; numbers that JSON does not have are null."""
    try:
        return JSONResponse(to_json(value), status)
    except ValueError:
        return JSONResponse(_finite(to_json(value)), status)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    is_odd = isinstance(value, float) and value - value != 0
    return None if is_odd else value
