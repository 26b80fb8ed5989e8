"""Errors as problem+json (RFC 9457), and back: the same error on both sides of a wire.

Beside the members of the standard there are ``problems``, the mistakes of what was
sent as ``{"where", "message"}``; ``code``, the exit code; and ``error``, the name of
the error's class, so that whoever asks can tell what it is.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from evomerge import errors
from evomerge.client.values import problems_from, to_json
from evomerge.errors import (
    EvomergeError,
    JobExistsError,
    RemoteError,
    SpecError,
)
from evomerge.exit_codes import ExitCode, exit_code_of

MEDIA_TYPE = "application/problem+json"

_STATUS: dict[type[EvomergeError], HTTPStatus] = {
    errors.TokenError: HTTPStatus.UNAUTHORIZED,
    errors.ForbiddenError: HTTPStatus.FORBIDDEN,
    errors.JobNotFoundError: HTTPStatus.NOT_FOUND,
    errors.StudyNotFoundError: HTTPStatus.NOT_FOUND,
    errors.WorkerNotFoundError: HTTPStatus.NOT_FOUND,
    errors.JobExistsError: HTTPStatus.CONFLICT,
    errors.JobStateError: HTTPStatus.CONFLICT,
    errors.StudyExistsError: HTTPStatus.CONFLICT,
    errors.StudyLockedError: HTTPStatus.CONFLICT,
    errors.UserError: HTTPStatus.CONFLICT,
    errors.ExportError: HTTPStatus.CONFLICT,
    errors.BusyError: HTTPStatus.TOO_MANY_REQUESTS,
    errors.StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.ClusterUnreachableError: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.StoreUnreachableError: HTTPStatus.SERVICE_UNAVAILABLE,
}


def status_of(error: EvomergeError) -> HTTPStatus:
    """Return the HTTP status of an error: its class's or the nearest base's."""
    known = (_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    return next(known, HTTPStatus.UNPROCESSABLE_ENTITY)


def problem_of(error: EvomergeError, status: HTTPStatus | None = None) -> Any:
    """Return an error as problem+json data.

    Args:
        error: What is to be told.
        status: Instead of ``status_of(error)``, as for a body too large.
    """
    status = status or status_of(error)
    problems = getattr(error, "problems", ())
    said = str(error).partition("\n")[0] if problems else str(error)
    return {
        "type": "about:blank",
        "title": status.phrase,
        "status": int(status),
        "detail": status.phrase if isinstance(error, SpecError) else said,
        "problems": to_json(tuple(problems)),
        "code": int(exit_code_of(error)),
        "error": type(error).__name__,
    }


def error_of(data: Any, status: int) -> EvomergeError:
    """Return the error that problem+json data tells; nothing in it is trusted.

    Args:
        data: What came, whatever it is.
        status: Of the answer.
    """
    told = data if isinstance(data, dict) else {}
    said = str(told.get("detail") or told.get("title") or f"HTTP status {status}")
    try:
        problems = problems_from(told.get("problems") or [])
    except ValueError:
        problems = ()
    kind = getattr(errors, str(told.get("error")), None)
    if kind is SpecError and problems:
        return SpecError(problems)
    if kind is JobExistsError:
        return JobExistsError(said, problems)
    said = "\n".join((said, *map(str, problems)))
    if isinstance(kind, type) and issubclass(kind, EvomergeError) and kind in _PLAIN:
        return kind(said)
    code = told.get("code")
    return RemoteError(said, code if type(code) is int else _code_for(status))


def _code_for(status: int) -> int:
    """Try again what a proxy or a replica says of itself; the rest is to be mended."""
    is_passing = status in (429, 502, 503, 504)
    return ExitCode.TRY_AGAIN if is_passing else ExitCode.PUT_RIGHT


_PLAIN = frozenset(
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, EvomergeError)
    and kind.__init__ is EvomergeError.__init__
)
"""Errors that are a sentence."""
