"""Retention policies, tasks and receipts."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "retention_policies",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("automated_interval", sa.Integer(), nullable=False),
        sa.Column("maximum_record_age", sa.Integer(), nullable=False),
        sa.Column("maximum_blob_age", sa.Integer(), nullable=False),
        sa.Column("delete_action", sa.Text(), nullable=False),
        sa.Column("schedule_id", IDENTIFIER, nullable=True),
        sa.Column("last_scheduled_at", INSTANT, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("ended_at", INSTANT, nullable=True),
        sa.CheckConstraint("delete_action IN ('soft', 'hard')", name=op.f("ck_retention_policies_delete_action")),
        sa.CheckConstraint("automated_interval >= 0", name=op.f("ck_retention_policies_automated_interval")),
        sa.CheckConstraint(
            "maximum_record_age >= -1 AND maximum_blob_age >= 0", name=op.f("ck_retention_policies_ages")
        ),
        sa.CheckConstraint(
            "maximum_record_age = -1 OR maximum_blob_age <= maximum_record_age",
            name=op.f("ck_retention_policies_order"),
        ),
        sa.ForeignKeyConstraint(
            ["model_id"], ["inference_models.model_id"], name=op.f("fk_retention_policies_model_id_inference_models")
        ),
        sa.CheckConstraint(
            "(schedule_id IS NOT NULL) = (automated_interval > 0)", name=op.f("ck_retention_policies_schedule_id")
        ),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedules.id"], name=op.f("fk_retention_policies_schedule_id_schedules")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retention_policies")),
    )
    op.create_index(
        "uq_retention_policies_model", "retention_policies", ["model_id"], unique=True, **_where("ended_at IS NULL")
    )
    op.create_table(
        "retention_tasks",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("policy_id", IDENTIFIER, nullable=False),
        sa.Column("dry_run", sa.Boolean(), nullable=False),
        sa.Column("maximum_record_age_limit", INSTANT, nullable=False),
        sa.Column("maximum_blob_age_limit", INSTANT, nullable=False),
        sa.Column("total_record_count", sa.BigInteger(), nullable=True),
        sa.Column("total_blob_count", sa.BigInteger(), nullable=True),
        sa.Column("manifest_key", sa.Text(), nullable=True),
        sa.Column("manifest_sha256", sa.Text(), nullable=True),
        sa.Column("approved_task_id", IDENTIFIER, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'scheduled', 'running', 'complete', 'failed', 'stopped')",
            name=op.f("ck_retention_tasks_state"),
        ),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('complete', 'failed', 'stopped'))",
            name=op.f("ck_retention_tasks_finished_at"),
        ),
        sa.CheckConstraint(
            "(total_record_count IS NULL) = (total_blob_count IS NULL)", name=op.f("ck_retention_tasks_totals")
        ),
        sa.CheckConstraint(
            "(manifest_key IS NULL) = (manifest_sha256 IS NULL)", name=op.f("ck_retention_tasks_manifest")
        ),
        sa.CheckConstraint("manifest_key IS NULL OR dry_run", name=op.f("ck_retention_tasks_manifest_dry_run")),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name=op.f("fk_retention_tasks_id_jobs")),
        sa.ForeignKeyConstraint(
            ["policy_id"], ["retention_policies.id"], name=op.f("fk_retention_tasks_policy_id_retention_policies")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retention_tasks")),
    )
    op.create_index("ix_retention_tasks_model", "retention_tasks", ["model_id", "created_at", "id"], unique=False)
    op.create_index("ix_retention_tasks_policy", "retention_tasks", ["policy_id"], unique=False)
    op.create_table(
        "retention_receipts",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("task_id", IDENTIFIER, nullable=True),
        sa.Column("policy_id", IDENTIFIER, nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("blob_count", sa.BigInteger(), nullable=False),
        sa.Column("first_id", IDENTIFIER, nullable=False),
        sa.Column("last_id", IDENTIFIER, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.CheckConstraint("action IN ('soft', 'hard', 'blob')", name=op.f("ck_retention_receipts_action")),
        sa.CheckConstraint("count >= 1 AND blob_count >= 0", name=op.f("ck_retention_receipts_counts")),
        sa.CheckConstraint("(task_id IS NULL) = (policy_id IS NULL)", name=op.f("ck_retention_receipts_policy")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retention_receipts")),
    )
    op.create_index("ix_retention_receipts_model", "retention_receipts", ["model_id", "id"], unique=False)
    op.create_index(
        "ix_retention_receipts_task",
        "retention_receipts",
        ["task_id", "id"],
        unique=False,
        **_where("task_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_retention_receipts_task", table_name="retention_receipts", **_where("task_id IS NOT NULL"))
    op.drop_index("ix_retention_receipts_model", table_name="retention_receipts")
    op.drop_table("retention_receipts")
    op.drop_index("ix_retention_tasks_policy", table_name="retention_tasks")
    op.drop_index("ix_retention_tasks_model", table_name="retention_tasks")
    op.drop_table("retention_tasks")
    op.drop_index("uq_retention_policies_model", table_name="retention_policies", **_where("ended_at IS NULL"))
    op.drop_table("retention_policies")
