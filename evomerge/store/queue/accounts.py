"""Users and their tokens: who may ask a service for what.

A token's secret is 256 random bits, so a plain hash of it keeps it safe; it is shown
once, when it is made, and kept nowhere.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from evomerge.errors import Problem, SpecError, TokenError, UserError
from evomerge.store.databases.database import Database
from evomerge.store.queue.submission import name_problems
from evomerge.store.queue.values import Caller, Role, Scope, Token, User
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import decoder, from_text
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import token, user

PREFIX = "emk_"
"""Of every secret, so that one that leaked is found."""

_SECRET_BYTES = 32
_USED_EVERY_S = 60.0
_TOKENS = sa.select(token, user.c.name.label("user")).join(user)


class Accounts:
    """Users and tokens in an SQL database: one method, one transaction.

    One thread's at a time; each thread opens its own.

    Args:
        database: An open one; closed by ``close``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"Accounts({self._database.shown!r})"

    def close(self) -> None:
        """Close the database; idempotent."""
        self._database.close()

    def add_user(
        self,
        name: str,
        role: Role = Role.USER,
        *,
        weight: float = 1.0,
        max_running: int | None = None,
        max_gpu_hours: float | None = None,
    ) -> User:
        """Add a user.

        Raises:
            UserError: There is one of this name.
            SpecError: A value is not what is expected.
        """
        _check_user(name, weight, max_running, max_gpu_hours)
        row = {
            "name": name,
            "role": role.value,
            "weight": float(weight),
            "max_running": max_running,
            "max_gpu_hours": max_gpu_hours,
        }
        with self._database.writing() as connection:
            try:
                connection.execute(sa.insert(user).values(created=NOW), row)
            except IntegrityError as error:
                raise UserError(f"There is a user {name!r} already.") from error
            return _find(connection, name)

    def user(self, name: str) -> User:
        """Return a user.

        Raises:
            UserError: There is none of this name.
        """
        with self._database.reading() as connection:
            return _find(connection, name)

    def users(self) -> Sequence[User]:
        """Return every user, oldest first."""
        with self._database.reading() as connection:
            found = connection.execute(sa.select(user).order_by(user.c.id))
            return [user_of(row) for row in found]

    def add_token(
        self,
        owner: str,
        name: str,
        scopes: Collection[Scope],
        lasts_s: float | None = None,
    ) -> str:
        """Make a token and return its secret, which nobody can be shown again.

        Args:
            owner: Name of its user.
            name: Unique among the user's tokens.
            scopes: What it may be used for.
            lasts_s: Seconds for which it holds; None for ever.

        Raises:
            UserError: There is no such user, or it has a token of this name.
            SpecError: A value is not what is expected.
        """
        problems = name_problems("name", name)
        if not scopes:
            known = ", ".join(repr(scope.value) for scope in Scope)
            problems.append(Problem("scopes", f"expected some of {known}, got none"))
        if lasts_s is not None and not 0 < lasts_s < math.inf:
            said = f"expected seconds above 0, got {lasts_s}"
            problems.append(Problem("lasts_s", said))
        if problems:
            raise SpecError(problems)
        secret = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        words = sorted(scope.value for scope in scopes)
        with self._database.writing() as connection:
            row = {
                "hash": _hash(secret),
                "user_id": _find(connection, owner).id,
                "name": name,
                "scopes": rows.to_text("Scopes", words),
            }
            expires = None if lasts_s is None else NOW + lasts_s
            new = sa.insert(token).values(created=NOW, expires=expires)
            try:
                connection.execute(new, row)
            except IntegrityError as error:
                raise UserError(
                    f"{owner} has a token named {name!r} already."
                ) from error
        return secret

    def tokens(self, owner: str) -> Sequence[Token]:
        """Return a user's tokens, oldest first, those that hold no more as well."""
        query = _TOKENS.where(user.c.name == owner)
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(token.c.created, token.c.name))
            return [token_of(row) for row in found]

    def revoke(self, owner: str, name: str) -> None:
        """Make a token hold no more, from now on; idempotent.

        Raises:
            UserError: The user has no token of this name.
        """
        with self._database.writing() as connection:
            of_owner = sa.select(user.c.id).where(user.c.name == owner)
            changed = connection.execute(
                sa.update(token)
                .where(
                    token.c.user_id == of_owner.scalar_subquery(), token.c.name == name
                )
                .values(revoked=sa.func.coalesce(token.c.revoked, NOW))
            )
            if changed.rowcount == 0:
                raise UserError(f"{owner} has no token named {name!r}.")

    def caller(self, secret: str) -> Caller:
        """Return who showed a secret, and note that the token was used.

        Raises:
            TokenError: It is nobody's, has expired or was revoked.
        """
        digest = _hash(secret)
        query = sa.select(
            token,
            user.c.name.label("user"),
            (token.c.expires <= NOW).label("is_over"),
            (token.c.last_used > NOW - _USED_EVERY_S).label("is_noted"),
        )
        query = query.join(user).where(token.c.hash == digest)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
            if row is None:
                raise TokenError("This token is nobody's.")
            shown = token_of(row)
            if shown.revoked is not None:
                raise TokenError(f"This token was revoked on {shown.revoked}.")
            if row.is_over:
                raise TokenError(f"This token expired on {shown.expires}.")
            caller = Caller(_find(connection, row.user), shown.scopes)
        if not row.is_noted:
            self._note_use(digest)
        return caller

    def _note_use(self, digest: str) -> None:
        with self._database.writing() as connection:
            connection.execute(
                sa.update(token).where(token.c.hash == digest).values(last_used=NOW)
            )


def open_accounts(url: str, *, create: bool = True) -> Accounts:
    """Open the accounts in the database behind a URL; see ``open_store``."""
    return Accounts(Database(url, create=create))


@decoder("A user", user)
def user_of(row: rows.Row) -> User:
    """Read a row of ``em_user``."""
    return User(
        row.id,
        row.name,
        Role(row.role),
        row.weight,
        row.max_running,
        row.max_gpu_hours,
    )


@decoder("A token", token)
def token_of(row: rows.Row) -> Token:
    """Read a row of ``em_token`` with its user's name."""
    times = [
        None if seconds is None else rows.time_text(seconds)
        for seconds in (row.expires, row.revoked, row.last_used)
    ]
    scopes = frozenset(Scope(word) for word in from_text("Scopes", row.scopes))
    return Token(row.user, row.name, scopes, rows.time_text(row.created), *times)


def _find(connection: sa.Connection, name: str) -> User:
    row = connection.execute(sa.select(user).where(user.c.name == name)).first()
    if row is None:
        raise UserError(f"There is no user {name!r}.")
    return user_of(row)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _check_user(
    name: str, weight: float, max_running: int | None, max_gpu_hours: float | None
) -> None:
    problems = name_problems("name", name)
    if not 0 < weight < math.inf:
        problems.append(Problem("weight", f"expected a number above 0, got {weight}"))
    if max_running is not None and max_running < 1:
        said = f"expected a number from 1 up, got {max_running}"
        problems.append(Problem("max_running", said))
    if max_gpu_hours is not None and not 0 < max_gpu_hours < math.inf:
        said = f"expected a number above 0, got {max_gpu_hours}"
        problems.append(Problem("max_gpu_hours", said))
    if problems:
        raise SpecError(problems)
