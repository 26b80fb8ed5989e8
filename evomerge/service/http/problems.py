"""How requests that go wrong are answered: always problem+json, never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from evomerge.api.plain import plain
from evomerge.client.problems import MEDIA_TYPE, problem_of, status_of
from evomerge.errors import (
    EvomergeError,
    Problem,
    SpecError,
    StoreError,
    UserError,
)
from evomerge.exit_codes import ExitCode
from evomerge.masking import masked

RETRY_AFTER_S = 5
_logger = logging.getLogger(__name__)


def of_error(error: EvomergeError, method: str = "") -> JSONResponse:
    """Return the answer that tells an error."""
    status = status_of(error)
    if isinstance(error, UserError) and method in ("GET", "DELETE"):
        status = HTTPStatus.NOT_FOUND
    said = problem_of(error, status)
    if isinstance(error, StoreError) and status is HTTPStatus.SERVICE_UNAVAILABLE:
        _logger.warning("%s", error)  # where the database is, is nobody else's
        said["detail"] = "The service cannot use its database now; its log says why."
    return _answer(said, status)


def of_status(
    status: int,
    detail: str,
    *,
    code: ExitCode = ExitCode.PUT_RIGHT,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the answer for what is wrong with the request as such."""
    said = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "problems": [],
        "code": int(code),
        "error": None,
    }
    return _answer(said, HTTPStatus(status), headers)


def install(app: FastAPI) -> None:
    """Let every error in an application end as problem+json."""

    @app.exception_handler(EvomergeError)
    async def ours(request: Request, error: EvomergeError) -> JSONResponse:
        return of_error(error, request.method)

    @app.exception_handler(RequestValidationError)
    async def misfit(_: Request, error: RequestValidationError) -> JSONResponse:
        return of_error(SpecError(_misfits(error.errors())))

    @app.exception_handler(HTTPException)
    async def theirs(_: Request, error: HTTPException) -> JSONResponse:
        return of_status(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def defect(_: Request, error: Exception) -> JSONResponse:
        _logger.error("A defect: %s", masked(repr(error)))
        said = "A defect of the service; it stands in its log."
        return of_status(500, said, code=ExitCode.DEFECT)


def _answer(
    said: Any, status: HTTPStatus, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    more = dict(headers or {})
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        more["Retry-After"] = str(RETRY_AFTER_S)
    if status is HTTPStatus.UNAUTHORIZED:
        more["WWW-Authenticate"] = "Bearer"
    return JSONResponse(plain(said), status, more, media_type=MEDIA_TYPE)


def _misfits(found: Sequence[Any]) -> list[Problem]:
    """Say what does not fit the description of a request; nothing of it is quoted."""
    return [
        Problem(".".join(map(_word, one["loc"])), str(one["msg"])[:500])
        for one in found
    ]


def _word(part: object) -> str:
    return str(part).encode("ascii", "backslashreplace").decode()[:100]
