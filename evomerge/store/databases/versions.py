"""Which schema a database has, and how it gets the present one.

Alembic is loaded only where tables are made or changed: opening a database reads one
row.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from evomerge.store.tables.schema import APPLICATION, VERSION_TABLE, VERSIONS, meta

_STEPS = Path(__file__).parents[1] / "migrations"
_VERSION = sa.table(VERSION_TABLE, sa.column("version_num", sa.String))


def recorded(connection: sa.Connection, tables: list[str]) -> str | None:
    """Return the version of an evomerge database, None if it is not one.

    Args:
        connection: A transaction.
        tables: Names of the tables there are.
    """
    if meta.name not in tables:
        return None
    facts = {
        row.key: row.value
        for row in connection.execute(sa.select(meta.c.key, meta.c.value))
    }
    if facts.get("application") != APPLICATION:
        return None
    if VERSION_TABLE in tables:
        version: str | None = connection.scalar(sa.select(_VERSION.c.version_num))
        return version
    # The first schema had no version table.
    return f"{int(facts['schema_version']):04}" if "schema_version" in facts else None


def upgrade(connection: sa.Connection, version: str | None) -> None:
    """Bring the tables to the present version, all in the caller's transaction.

    Args:
        connection: A writing transaction.
        version: The recorded one; None for an empty database.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_STEPS).replace("%", "%%"))
    config.attributes["connection"] = connection
    if version == VERSIONS[0]:
        command.stamp(config, version)
    command.upgrade(config, VERSIONS[-1])
