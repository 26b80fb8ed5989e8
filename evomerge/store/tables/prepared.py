"""Statements of the hot path: built by SQLAlchemy once, run by the driver alone.

SQLAlchemy's way through ``Connection.execute`` costs several times what SQLite's driver
itself takes, and a trial of eight blocks runs about thirty statements. The transaction,
its connection and the words for errors stay SQLAlchemy's.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

Row = Any
"""A row with a field per column."""


@dataclass(frozen=True, slots=True)
class _Form:
    """A statement as one driver wants it.

    Attributes:
        names: Parameters in their order; None if the driver takes them by name.
    """

    text: str
    names: tuple[str, ...] | None
    row: Callable[..., Row] | None


class Prepared:
    """A statement with named parameters that is run again and again."""

    def __init__(self, statement: Any) -> None:
        """Take a statement whose parameters are all plain values.

        Args:
            statement: A select, an insert with ``values`` of bound parameters, or an
                update; at most one row of its result is of interest.
        """
        self._statement = statement
        self._forms: dict[str, _Form] = {}

    def __call__(
        self, connection: sa.Connection, parameters: Mapping[str, Any]
    ) -> Row | None:
        """Run it, and return the first row of its result, if it has one.

        Raises:
            sqlalchemy.exc.DBAPIError: As ``Connection.execute`` would.
        """
        dialect = connection.dialect
        form = self._forms.get(dialect.name)
        if form is None:
            form = self._forms[dialect.name] = self._form(dialect)
        given: Any = parameters
        if form.names is not None:
            given = [parameters[name] for name in form.names]
        cursor = connection.connection.cursor()
        try:
            cursor.execute(form.text, given)
            found = cursor.fetchone() if form.row is not None else None
        except dialect.loaded_dbapi.Error as error:
            raise _as_sqlalchemy_would(error, dialect) from error
        finally:
            cursor.close()
        if found is None or form.row is None:
            return None
        return form.row(*found)

    def _form(self, dialect: sa.Dialect) -> _Form:
        compiled = self._statement.compile(dialect=dialect)
        names = compiled.positiontup
        columns = [column.key for column in self._statement.exported_columns]
        return _Form(
            text=str(compiled),
            names=None if names is None else tuple(names),
            row=namedtuple("Row", columns) if columns else None,
        )


def _as_sqlalchemy_would(error: Exception, dialect: sa.Dialect) -> BaseException:
    return DBAPIError.instance(
        None,
        None,
        error,
        dialect.loaded_dbapi.Error,
        connection_invalidated=dialect.is_disconnect(error, None, None),  # type: ignore[arg-type]
        dialect=dialect,
    )
