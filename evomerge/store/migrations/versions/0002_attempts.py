"""Attempts are remembered, machine faults counted, and items charged to a study.

Databases of the first schema told their version in ``em_meta``; from here on the
version table does.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add what is new, and fill it from what the first schema knew."""
    op.create_table(
        "em_attempt",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("trial", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text()),
        sa.Column("began", sa.Double()),
        sa.Column("ended", sa.Double()),
        sa.Column("end", sa.String(length=40)),
        sa.Column("cause", sa.String(length=40)),
        sa.Column("message", sa.Text()),
        sa.ForeignKeyConstraint(
            ["study_id", "trial"],
            ["em_trial.study_id", "em_trial.number"],
            name=op.f("fk_em_attempt_study_id_trial"),
        ),
        sa.PrimaryKeyConstraint(
            "study_id", "trial", "attempt", name=op.f("pk_em_attempt")
        ),
    )
    op.add_column("em_study", sa.Column("lease_ttl", sa.Double()))
    op.add_column(
        "em_trial",
        sa.Column("faults", sa.Integer(), nullable=False, server_default="0"),
    )
    op.add_column("em_outcome_block", sa.Column("charged_to", sa.Integer()))
    _remember_attempts()
    op.execute("DELETE FROM em_meta WHERE key = 'schema_version'")


def _remember_attempts() -> None:
    """Number the attempts there were; how the earlier ones ended is not known."""
    connection = op.get_bind()
    trials = connection.execute(
        sa.text(
            "SELECT study_id, number, attempt, worker, state, changed, cause, message"
            " FROM em_trial WHERE attempt > 0"
        )
    ).all()
    rows = [
        _last(row) if attempt == row.attempt else _earlier(row, attempt)
        for row in trials
        for attempt in range(1, row.attempt + 1)
    ]
    if rows:
        op.bulk_insert(_ATTEMPT, rows)


_ATTEMPT = sa.table(
    "em_attempt",
    *(
        sa.column(name)
        for name in (
            *("study_id", "trial", "attempt", "worker"),
            *("ended", "end", "cause", "message"),
        )
    ),
)
_ENDS = {"running": None, "scored": "scored", "failed": "failed"}


def _earlier(row: Any, attempt: int) -> dict[str, object]:
    return {
        "study_id": row.study_id,
        "trial": row.number,
        "attempt": attempt,
        "worker": None,
        "ended": row.changed,
        "end": "unknown",
        "cause": None,
        "message": None,
    }


def _last(row: Any) -> dict[str, object]:
    is_running = row.state == "running"
    return {
        **_earlier(row, row.attempt),
        "worker": row.worker,
        "ended": None if is_running else row.changed,
        "end": _ENDS.get(row.state, "unknown"),
        "cause": row.cause if row.state == "failed" else None,
        "message": row.message if row.state == "failed" else None,
    }
