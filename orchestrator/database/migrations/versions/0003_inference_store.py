"""The inference store: what is known of an inference, and what finds it again; and holds."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
BYTE_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)
VECTOR = sa.LargeBinary().with_variant(ARRAY(sa.REAL()), "postgresql")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "holds",
        sa.Column("subject", IDENTIFIER, nullable=False),
        sa.Column("holder", IDENTIFIER, nullable=False),
        sa.PrimaryKeyConstraint("subject", "holder", name=op.f("pk_holds")),
    )
    op.create_index("ix_holds_holder", "holds", ["holder"], unique=False)
    op.create_table(
        "inference_blobs",
        sa.Column("storage_key", IDENTIFIER, nullable=False),
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("sha256", sa.Text(), nullable=True),
        sa.Column("touched_at", INSTANT, nullable=True),
        sa.Column("doomed_at", INSTANT, nullable=True),
        sa.PrimaryKeyConstraint("storage_key", name=op.f("pk_inference_blobs")),
    )
    op.create_index(
        "ix_inference_blobs_doomed", "inference_blobs", ["doomed_at"], unique=False, **_where("doomed_at IS NOT NULL")
    )
    op.create_index(
        "ix_inference_blobs_hash",
        "inference_blobs",
        ["model_id", "sha256"],
        unique=False,
        **_where("doomed_at IS NULL"),
    )
    op.create_index(
        "ix_inference_blobs_touched",
        "inference_blobs",
        ["touched_at"],
        unique=False,
        **_where("touched_at IS NOT NULL"),
    )
    op.create_table(
        "inference_models",
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("project_id", IDENTIFIER, nullable=False),
        sa.Column("task_type", sa.Text(), nullable=False),
        sa.Column("embedding_size", sa.Integer(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.CheckConstraint("embedding_size >= 0", name=op.f("ck_inference_models_embedding_size")),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_inference_models")),
    )
    op.create_table(
        "inference_origins",
        sa.Column("bulk_inference_job_id", IDENTIFIER, nullable=False),
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("dataset_id", IDENTIFIER, nullable=False),
        sa.Column("dataset_snapshot_id", IDENTIFIER, nullable=False),
        sa.Column("dataset_snapshot_split", BYTE_TEXT, nullable=False),
        sa.Column("indexed_at", INSTANT, nullable=True),
        sa.Column("index_job_id", IDENTIFIER, nullable=True),
        sa.PrimaryKeyConstraint("bulk_inference_job_id", name=op.f("pk_inference_origins")),
    )
    op.create_index("ix_inference_origins_model", "inference_origins", ["model_id"], unique=False)
    op.execute(
        "INSERT INTO inference_models (model_id, project_id, task_type, embedding_size, created_at, updated_at) "
        "SELECT models.id, models.project_id, models.task_type, 0, MIN(jobs.created_at), MIN(jobs.created_at) "
        "FROM models JOIN bulk_inference_jobs AS jobs ON jobs.model_id = models.id "
        "GROUP BY models.id, models.project_id, models.task_type"
    )
    # Of jobs that ran before, filters read labels and embeddings from the data for good.
    op.execute(
        "INSERT INTO inference_origins "
        "(bulk_inference_job_id, model_id, dataset_id, dataset_snapshot_id, dataset_snapshot_split) "
        "SELECT id, model_id, dataset_id, snapshot_id, split FROM bulk_inference_jobs"
    )
    op.create_table(
        "inference_embeddings",
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("inference_id", IDENTIFIER, nullable=False),
        sa.Column("embedding", VECTOR, nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id", "inference_id"],
            ["inferences.model_id", "inferences.inference_id"],
            name="fk_inference_embeddings_inferences",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model_id", "inference_id", name=op.f("pk_inference_embeddings")),
    )
    op.create_table(
        "inference_labels",
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("inference_id", IDENTIFIER, nullable=False),
        sa.Column("element", sa.Integer(), nullable=False),
        sa.Column("label", IDENTIFIER, nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["model_id", "inference_id"],
            ["inferences.model_id", "inferences.inference_id"],
            name="fk_inference_labels_inferences",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model_id", "inference_id", "element", name=op.f("pk_inference_labels")),
    )
    op.create_index(
        "ix_inference_labels_label", "inference_labels", ["model_id", "label", "score", "inference_id"], unique=False
    )
    op.create_index(
        "ix_inference_labels_score", "inference_labels", ["model_id", "score", "inference_id"], unique=False
    )
    op.create_table(
        "inference_metadata",
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("inference_id", IDENTIFIER, nullable=False),
        sa.Column("key", IDENTIFIER, nullable=False),
        sa.Column("type", IDENTIFIER, nullable=False),
        sa.Column("value", BYTE_TEXT, nullable=True),
        sa.Column("head", IDENTIFIER, nullable=True),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id", "inference_id"],
            ["inferences.model_id", "inferences.inference_id"],
            name="fk_inference_metadata_inferences",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model_id", "inference_id", "key", name=op.f("pk_inference_metadata")),
    )
    op.create_index(
        "ix_inference_metadata_head",
        "inference_metadata",
        ["model_id", "key", "type", "head", "inference_id"],
        unique=False,
    )
    op.create_index(
        "ix_inference_metadata_number", "inference_metadata", ["model_id", "key", "type", "number"], unique=False
    )
    op.create_table(
        "inference_metadata_leaves",
        sa.Column("model_id", IDENTIFIER, nullable=False),
        sa.Column("inference_id", IDENTIFIER, nullable=False),
        sa.Column("key", IDENTIFIER, nullable=False),
        sa.Column("path", IDENTIFIER, nullable=False),
        sa.Column("type", IDENTIFIER, nullable=False),
        sa.Column("value", BYTE_TEXT, nullable=False),
        sa.Column("head", IDENTIFIER, nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id", "inference_id", "key"],
            ["inference_metadata.model_id", "inference_metadata.inference_id", "inference_metadata.key"],
            name="fk_inference_metadata_leaves_inference_metadata",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("model_id", "inference_id", "key", "path", name=op.f("pk_inference_metadata_leaves")),
    )
    op.create_index(
        "ix_inference_metadata_leaves_head",
        "inference_metadata_leaves",
        ["model_id", "path", "type", "head", "inference_id"],
        unique=False,
    )
    with op.batch_alter_table("inferences") as inferences:
        inferences.add_column(sa.Column("updated_at", INSTANT, nullable=True))
        inferences.add_column(sa.Column("deleted_at", INSTANT, nullable=True))
        inferences.add_column(sa.Column("deletion", sa.Text(), nullable=True))
        inferences.add_column(sa.Column("data_size", sa.BigInteger(), nullable=True))
        inferences.add_column(sa.Column("data_source", IDENTIFIER, nullable=True))
        inferences.add_column(sa.Column("latitude", sa.Double(), nullable=True))
        inferences.add_column(sa.Column("longitude", sa.Double(), nullable=True))
        inferences.add_column(sa.Column("is_protected", sa.Boolean(), server_default=sa.false(), nullable=False))
        inferences.create_check_constraint(op.f("ck_inferences_place"), "(latitude IS NULL) = (longitude IS NULL)")
        inferences.create_check_constraint(
            op.f("ck_inferences_deleted_at"), "(deleted_at IS NULL) = (deletion IS NULL)"
        )
        inferences.create_check_constraint(op.f("ck_inferences_deletion"), "deletion IN ('soft', 'hard')")
    op.create_index(
        "ix_inferences_blob",
        "inferences",
        ["data_storage_key"],
        unique=False,
        **_where("bulk_inference_job_id IS NULL"),
    )
    op.create_index(
        "ix_inferences_created",
        "inferences",
        ["model_id", "created_at", "inference_id", "inference_action"],
        unique=False,
    )
    op.create_index(
        "ix_inferences_purge",
        "inferences",
        ["model_id", "inference_id"],
        unique=False,
        **_where("deletion = 'hard'"),
    )
    op.create_index("ix_inferences_hash", "inferences", ["model_id", "data_hash"], unique=False)
    op.create_index(
        "ix_inferences_place",
        "inferences",
        ["model_id", "latitude", "longitude"],
        unique=False,
        **_where("latitude IS NOT NULL"),
    )
    op.create_index(
        "ix_inferences_source",
        "inferences",
        ["model_id", "data_source", "created_at"],
        unique=False,
        **_where("data_source IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_inferences_source", table_name="inferences", **_where("data_source IS NOT NULL"))
    op.drop_index("ix_inferences_place", table_name="inferences", **_where("latitude IS NOT NULL"))
    op.drop_index("ix_inferences_hash", table_name="inferences")
    op.drop_index("ix_inferences_purge", table_name="inferences", **_where("deletion = 'hard'"))
    op.drop_index("ix_inferences_created", table_name="inferences")
    op.drop_index("ix_inferences_blob", table_name="inferences", **_where("bulk_inference_job_id IS NULL"))
    with op.batch_alter_table("inferences") as inferences:
        for constraint in ("deletion", "deleted_at", "place"):
            inferences.drop_constraint(op.f(f"ck_inferences_{constraint}"), type_="check")
        for column in (
            "is_protected",
            "longitude",
            "latitude",
            "data_source",
            "data_size",
            "deletion",
            "deleted_at",
            "updated_at",
        ):
            inferences.drop_column(column)
    op.drop_index("ix_inference_metadata_leaves_head", table_name="inference_metadata_leaves")
    op.drop_table("inference_metadata_leaves")
    op.drop_index("ix_inference_metadata_number", table_name="inference_metadata")
    op.drop_index("ix_inference_metadata_head", table_name="inference_metadata")
    op.drop_table("inference_metadata")
    op.drop_index("ix_inference_labels_score", table_name="inference_labels")
    op.drop_index("ix_inference_labels_label", table_name="inference_labels")
    op.drop_table("inference_labels")
    op.drop_table("inference_embeddings")
    op.drop_index("ix_inference_origins_model", table_name="inference_origins")
    op.drop_table("inference_origins")
    op.drop_table("inference_models")
    op.drop_index("ix_inference_blobs_touched", table_name="inference_blobs", **_where("touched_at IS NOT NULL"))
    op.drop_index("ix_inference_blobs_hash", table_name="inference_blobs", **_where("doomed_at IS NULL"))
    op.drop_index("ix_inference_blobs_doomed", table_name="inference_blobs", **_where("doomed_at IS NOT NULL"))
    op.drop_table("inference_blobs")
    op.drop_index("ix_holds_holder", table_name="holds")
    op.drop_table("holds")
