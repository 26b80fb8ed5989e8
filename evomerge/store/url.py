"""Database URLs: read, checked, and never shown with their secrets."""

from __future__ import annotations

import re
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from evomerge.errors import StoreError

_SECRET_QUERY = re.compile(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&#\s]*")
_USER_INFO = re.compile(r"://[^/?#]*@")
_EXAMPLE = "for example sqlite:///evomerge.db or sqlite:////data/evomerge.db"


def mask(url: str) -> str:
    """Return the URL with every secret replaced, fit for a person or a log."""
    masked = _USER_INFO.sub(_hide_user_info, url)
    return _SECRET_QUERY.sub(r"\1***", masked)


def sqlite_path(url: str) -> Path:
    """Return the file a database URL names.

    Raises:
        StoreError: Not a URL, another kind of database, or not a usable file.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None:
        raise StoreError(f"{mask(url)!r} is not a database URL; give {_EXAMPLE}.")
    backend = parsed.get_backend_name()
    if backend != "sqlite":
        raise StoreError(
            f"This version keeps studies in SQLite only, but {mask(url)!r} names "
            f"{backend!r}; give {_EXAMPLE}."
        )
    if parsed.query or parsed.host or not parsed.database:
        raise StoreError(f"{mask(url)!r} does not name a plain file; give {_EXAMPLE}.")
    if parsed.database == ":memory:":
        raise StoreError(f"A study must survive its process; give {_EXAMPLE}.")
    return Path(parsed.database)


def _hide_user_info(match: re.Match[str]) -> str:
    user = match.group()[3:-1].split(":", 1)
    return f"://{user[0]}:***@" if len(user) == 2 else match.group()
