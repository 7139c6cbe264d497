"""Hashes are indexed of callers' inferences alone: those of bulk jobs are found by their datums and origins."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BY_CALLERS = sa.text("bulk_inference_job_id IS NULL")


def upgrade() -> None:
    op.drop_index("ix_inferences_hash", table_name="inferences")
    op.create_index(
        "ix_inferences_hash",
        "inferences",
        ["model_id", "data_hash"],
        unique=False,
        sqlite_where=BY_CALLERS,
        postgresql_where=BY_CALLERS,
    )
    op.drop_index("ix_inference_origins_model", table_name="inference_origins")
    split = ["model_id", "dataset_snapshot_id", "dataset_snapshot_split"]
    op.create_index("ix_inference_origins_split", "inference_origins", split, unique=False)


def downgrade() -> None:
    op.drop_index("ix_inference_origins_split", table_name="inference_origins")
    op.create_index("ix_inference_origins_model", "inference_origins", ["model_id"], unique=False)
    op.drop_index("ix_inferences_hash", table_name="inferences")
    op.create_index("ix_inferences_hash", "inferences", ["model_id", "data_hash"], unique=False)
