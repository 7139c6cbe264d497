"""Training: blueprints, runs, metrics, checkpoints; and details of events."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True).with_variant(postgresql.JSONB(none_as_null=True, astext_type=sa.Text()), "postgresql")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.add_column("events", sa.Column("details", JSON, nullable=True))
    op.create_table(
        "blueprints",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("image", sa.Text(), nullable=True),
        sa.Column("entry_point", JSON, nullable=True),
        sa.Column("task_types", JSON, nullable=False),
        sa.Column("config_schema", JSON, nullable=False),
        sa.Column("checkpoint_policy", JSON, nullable=True),
        sa.Column("serving", JSON, nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("deleted_at", INSTANT, nullable=True),
        sa.CheckConstraint("image IS NOT NULL OR entry_point IS NOT NULL", name=op.f("ck_blueprints_runnable")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blueprints")),
    )
    op.create_index(
        "uq_blueprints_version", "blueprints", ["name", "version"], unique=True, **_where("deleted_at IS NULL")
    )
    _create_runs()
    _create_metrics()
    _create_checkpoints()


def _create_runs() -> None:
    op.create_table(
        "training_runs",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("status_updated_at", INSTANT, nullable=False),
        sa.Column("finished_at", INSTANT, nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("project_id", IDENTIFIER, nullable=False),
        sa.Column("user_id", IDENTIFIER, nullable=False),
        sa.Column("blueprint_id", IDENTIFIER, nullable=False),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("resources", JSON, nullable=False),
        sa.Column("config", JSON, nullable=False),
        sa.Column("notes", sa.Text(), nullable=True),
        sa.Column("progress", JSON, nullable=False),
        sa.Column("progress_updated_at", INSTANT, nullable=True),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("checkpoint_policy", JSON, nullable=True),
        sa.Column("runtime", sa.Text(), nullable=False),
        sa.Column("launch", sa.Integer(), nullable=False),
        sa.Column("place", IDENTIFIER, nullable=True),
        sa.Column("supervisor", IDENTIFIER, nullable=True),
        sa.Column("heartbeat_at", INSTANT, nullable=True),
        sa.Column("kill_at", INSTANT, nullable=True),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.Column("metrics_seen", sa.BigInteger(), nullable=False),
        sa.Column("metrics_at", INSTANT, nullable=True),
        sa.Column("stale_writes", sa.Integer(), nullable=False),
        sa.Column("deleted_at", INSTANT, nullable=True),
        sa.CheckConstraint(
            "state IN ('run_created', 'job_created', 'job_submitted', 'job_pending', 'job_running', 'job_unknown', "
            "'run_restart_requested', 'run_stop_requested', 'job_terminate_requested', 'job_terminating', "
            "'job_create_failed', 'job_terminated', 'job_failed', 'job_completed')",
            name=op.f("ck_training_runs_state"),
        ),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = "
            "(state IN ('job_create_failed', 'job_terminated', 'job_failed', 'job_completed'))",
            name=op.f("ck_training_runs_finished_at"),
        ),
        sa.CheckConstraint("launch >= 0 AND restarts >= 0 AND metrics_seen >= 0", name=op.f("ck_training_runs_counts")),
        sa.CheckConstraint("deleted_at IS NULL OR finished_at IS NOT NULL", name=op.f("ck_training_runs_deleted_at")),
        sa.ForeignKeyConstraint(
            ["blueprint_id"], ["blueprints.id"], name=op.f("fk_training_runs_blueprint_id_blueprints")
        ),
        sa.ForeignKeyConstraint(["id"], ["jobs.id"], name=op.f("fk_training_runs_id_jobs")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_training_runs_project_id_projects")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_runs")),
    )
    op.create_index("ix_training_runs_created", "training_runs", ["created_at", "id"], unique=False)
    op.create_index("ix_training_runs_project", "training_runs", ["project_id", "created_at"], unique=False)
    op.create_index("ix_training_runs_live", "training_runs", ["id"], unique=False, **_where("finished_at IS NULL"))
    op.create_index(
        "ix_training_runs_deleted", "training_runs", ["id"], unique=False, **_where("deleted_at IS NOT NULL")
    )


def _create_metrics() -> None:
    op.create_table(
        "training_metrics",
        sa.Column("run_id", IDENTIFIER, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("launch", sa.Integer(), nullable=False),
        sa.Column("global_step", sa.BigInteger(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "created_at", name=op.f("pk_training_metrics")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_training_metrics_tag", "training_metrics", ["run_id", "tag", "created_at"], unique=False)
    op.create_index(
        "ix_training_metrics_step", "training_metrics", ["run_id", "global_step", "created_at"], unique=False
    )


def _create_checkpoints() -> None:
    op.create_table(
        "training_checkpoints",
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("run_id", IDENTIFIER, nullable=False),
        sa.Column("launch", sa.Integer(), nullable=False),
        sa.Column("global_step", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("status_updated_at", INSTANT, nullable=False),
        sa.Column("deleted_at", INSTANT, nullable=True),
        sa.CheckConstraint("status IN ('incomplete', 'complete')", name=op.f("ck_training_checkpoints_status")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["training_runs.id"], name=op.f("fk_training_checkpoints_run_id_training_runs")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_training_checkpoints")),
    )
    op.create_index("ix_training_checkpoints_run", "training_checkpoints", ["run_id", "created_at", "id"], unique=False)
    op.create_index("ix_training_checkpoints_created", "training_checkpoints", ["created_at", "id"], unique=False)
    op.create_index(
        "ix_training_checkpoints_incomplete",
        "training_checkpoints",
        ["id"],
        unique=False,
        **_where("status = 'incomplete'"),
    )
    op.create_index(
        "ix_training_checkpoints_deleted",
        "training_checkpoints",
        ["id"],
        unique=False,
        **_where("deleted_at IS NOT NULL"),
    )
    op.create_table(
        "training_checkpoint_files",
        sa.Column("checkpoint_id", IDENTIFIER, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"],
            ["training_checkpoints.id"],
            name=op.f("fk_training_checkpoint_files_checkpoint_id_training_checkpoints"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("checkpoint_id", "number", name=op.f("pk_training_checkpoint_files")),
    )
    op.create_table(
        "training_models",
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("checkpoint_id", IDENTIFIER, nullable=False),
        sa.Column("run_id", IDENTIFIER, nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_training_models_model_id_models")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_training_models")),
    )
    op.create_index(op.f("ix_training_models_checkpoint_id"), "training_models", ["checkpoint_id"], unique=False)


def downgrade() -> None:
    op.drop_table("training_models")
    op.drop_table("training_checkpoint_files")
    op.drop_table("training_checkpoints")
    op.drop_table("training_metrics")
    op.drop_table("training_runs")
    op.drop_table("blueprints")
    op.drop_column("events", "details")
