"""Export tasks, their pinned members, and the pieces of their archives."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True), "postgresql")
UNSWEPT = sa.text("swept_at IS NULL AND finished_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "export_tasks",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("archive_format", sa.Text(), nullable=False),
        sa.Column("request", JSON, nullable=False),
        sa.Column("expected_count", sa.BigInteger(), nullable=True),
        sa.Column("storage_key", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("started_at", INSTANT, nullable=True),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.Column("swept_at", INSTANT, nullable=True),
        sa.CheckConstraint("state IN ('pending', 'running', 'complete', 'failed')", name=op.f("ck_export_tasks_state")),
        sa.CheckConstraint(
            "archive_format IN ('dataset', 'coco', 'parquet')", name=op.f("ck_export_tasks_archive_format")
        ),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state IN ('complete', 'failed'))", name=op.f("ck_export_tasks_finished_at")
        ),
        sa.CheckConstraint("state != 'complete' OR sha256 IS NOT NULL", name=op.f("ck_export_tasks_complete")),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name=op.f("fk_export_tasks_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_export_tasks")),
    )
    op.create_index("ix_export_tasks_model", "export_tasks", ["model_id", "id"], unique=False)
    op.create_index(
        "ix_export_tasks_unswept",
        "export_tasks",
        ["finished_at"],
        unique=False,
        sqlite_where=UNSWEPT,
        postgresql_where=UNSWEPT,
    )
    op.create_table(
        "export_named_inferences",
        sa.Column("task_id", IDENTIFIER, nullable=False),
        sa.Column("inference_id", IDENTIFIER, nullable=False),
        sa.Column("excluded", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["task_id"], ["export_tasks.id"], name=op.f("fk_export_named_inferences_task_id_export_tasks")
        ),
        sa.PrimaryKeyConstraint("task_id", "inference_id", name=op.f("pk_export_named_inferences")),
    )
    op.create_table(
        "export_members",
        sa.Column("task_id", IDENTIFIER, nullable=False),
        sa.Column("ordinal", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("inference_id", IDENTIFIER, nullable=False),
        sa.Column("storage_key", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("task_id", "ordinal", name=op.f("pk_export_members")),
    )
    op.create_table(
        "export_pieces",
        sa.Column("task_id", IDENTIFIER, nullable=False),
        sa.Column("part", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("piece", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("low", sa.BigInteger(), nullable=False),
        sa.Column("high", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("streams", JSON, nullable=False),
        sa.Column("large_files", JSON, nullable=False),
        sa.Column("counts", JSON, nullable=False),
        sa.CheckConstraint("low < high", name=op.f("ck_export_pieces_range")),
        sa.ForeignKeyConstraint(["task_id"], ["export_tasks.id"], name=op.f("fk_export_pieces_task_id_export_tasks")),
        sa.PrimaryKeyConstraint("task_id", "part", "piece", name=op.f("pk_export_pieces")),
    )


def downgrade() -> None:
    op.drop_table("export_pieces")
    op.drop_table("export_members")
    op.drop_table("export_named_inferences")
    op.drop_index("ix_export_tasks_unswept", table_name="export_tasks", sqlite_where=UNSWEPT, postgresql_where=UNSWEPT)
    op.drop_index("ix_export_tasks_model", table_name="export_tasks")
    op.drop_table("export_tasks")
