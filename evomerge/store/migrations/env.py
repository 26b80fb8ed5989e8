"""Run migrations on the connection given, inside its transaction.

Only tables with our prefix are looked at, and the version table is our own: other
programs (Optuna among them) may keep theirs in the same database.
"""

from alembic import context

from evomerge.store.tables.schema import VERSION_TABLE, metadata


def _is_ours(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or (name or "").startswith("em_")


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=_is_ours,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
