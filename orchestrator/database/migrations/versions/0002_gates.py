"""Gates: what units share that is outside of us, and how many of them it bears."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

IDENTIFIER = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "gates",
        sa.Column("name", IDENTIFIER, nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("shut_until", INSTANT, nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("unit_limit", sa.Integer(), nullable=True),
        sa.Column("width", sa.Integer(), nullable=True),
        sa.Column("rate", sa.Double(), nullable=True),
        sa.CheckConstraint("failures >= 0", name=op.f("ck_gates_failures")),
        sa.CheckConstraint("unit_limit >= 1", name=op.f("ck_gates_unit_limit")),
        sa.CheckConstraint("width >= 1", name=op.f("ck_gates_width")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_gates")),
    )
    op.add_column("work_units", sa.Column("gate", IDENTIFIER, nullable=True))


def downgrade() -> None:
    op.drop_column("work_units", "gate")
    op.drop_table("gates")
