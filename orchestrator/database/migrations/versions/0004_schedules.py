"""Schedules, and every instant at which they were due."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
JSON_TEXT = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
INSTANT = sa.DateTime(timezone=True)
#: As SQLAlchemy says it in a query.
OPEN: dict[str, Any] = {"sqlite_where": sa.text("is_open = 1"), "postgresql_where": sa.text("is_open")}


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("project_id", IDENTIFIER, nullable=False),
        sa.Column("name", IDENTIFIER, nullable=False),
        sa.Column("kind", IDENTIFIER, nullable=False),
        sa.Column("spec", JSON_TEXT, nullable=False),
        sa.Column("options", JSON_TEXT, nullable=False),
        sa.Column("cron", sa.Text(), nullable=True),
        sa.Column("interval_seconds", sa.BigInteger(), nullable=True),
        sa.Column("time_zone", sa.Text(), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("catch_up_seconds", sa.BigInteger(), nullable=False),
        sa.Column("starts_at", INSTANT, nullable=False),
        sa.Column("ends_at", INSTANT, nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("decided_until", INSTANT, nullable=False),
        sa.Column("next_due_at", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.Column("deleted_at", INSTANT, nullable=True),
        sa.CheckConstraint("overlap IN ('skip', 'queue', 'allow')", name=op.f("ck_schedules_overlap")),
        sa.CheckConstraint("(cron IS NULL) <> (interval_seconds IS NULL)", name=op.f("ck_schedules_timing")),
        sa.CheckConstraint("catch_up_seconds >= 0", name=op.f("ck_schedules_catch_up_seconds")),
        sa.CheckConstraint("deleted_at IS NULL OR next_due_at IS NULL", name=op.f("ck_schedules_deleted_at")),
        sa.CheckConstraint("interval_seconds >= 1", name=op.f("ck_schedules_interval_seconds")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedules")),
    )
    op.create_index("ix_schedules_due", "schedules", ["next_due_at"], unique=False, **_where("next_due_at IS NOT NULL"))
    op.create_index(
        "uq_schedules_name", "schedules", ["project_id", "name"], unique=True, **_where("deleted_at IS NULL")
    )
    op.create_table(
        "schedule_occurrences",
        sa.Column("schedule_id", IDENTIFIER, nullable=False),
        sa.Column("due_at", INSTANT, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("emission_id", IDENTIFIER, nullable=True),
        sa.Column("job_id", IDENTIFIER, nullable=True),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("decided_at", INSTANT, nullable=False),
        sa.CheckConstraint(
            "state IN ('fired', 'caught_up', 'queued', 'skipped')", name=op.f("ck_schedule_occurrences_state")
        ),
        sa.CheckConstraint(
            "state NOT IN ('fired', 'caught_up') OR emission_id IS NOT NULL", name=op.f("ck_schedule_occurrences_fired")
        ),
        sa.CheckConstraint(
            "state NOT IN ('skipped', 'queued') OR emission_id IS NULL",
            name=op.f("ck_schedule_occurrences_emission_id"),
        ),
        sa.CheckConstraint("emission_id IS NOT NULL OR NOT is_open", name=op.f("ck_schedule_occurrences_is_open")),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_schedule_occurrences_schedule_id_schedules")
        ),
        sa.PrimaryKeyConstraint("schedule_id", "due_at", name=op.f("pk_schedule_occurrences")),
    )
    op.create_index("ix_schedule_occurrences_open", "schedule_occurrences", ["schedule_id"], unique=False, **OPEN)
    op.create_index(
        "ix_schedule_occurrences_queued",
        "schedule_occurrences",
        ["schedule_id", "due_at"],
        unique=False,
        **_where("state = 'queued'"),
    )


def downgrade() -> None:
    op.drop_index("ix_schedule_occurrences_open", table_name="schedule_occurrences", **OPEN)
    op.drop_index("ix_schedule_occurrences_queued", table_name="schedule_occurrences", **_where("state = 'queued'"))
    op.drop_table("schedule_occurrences")
    op.drop_index("uq_schedules_name", table_name="schedules", **_where("deleted_at IS NULL"))
    op.drop_index("ix_schedules_due", table_name="schedules", **_where("next_due_at IS NOT NULL"))
    op.drop_table("schedules")
