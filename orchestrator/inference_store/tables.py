"""Tables of the inference store: one row for each stored inference."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from orchestrator.database import Base, Identifier, db_now


class InferenceRow(Base):
    """One inference, written by a bulk job or stored by a caller.

    A bulk inference's snapshot and split are those of its job, so they are not repeated here.
    """

    __tablename__ = "inferences"
    __table_args__ = (
        # One result a datum and job: what makes a second delivery harmless.
        Index("uq_inferences_job_ordinal", "bulk_inference_job_id", "ordinal", unique=True),
        CheckConstraint("(bulk_inference_job_id IS NULL) = (ordinal IS NULL)", name="job_ordinal"),
    )

    model_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    inference_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(insert_default=db_now())
    inference_action: Mapped[str] = mapped_column(Text)
    #: `v2` where `data` is one of the standard lists, else `v1`.
    version: Mapped[str] = mapped_column(Text)
    data: Mapped[str | None] = mapped_column(Text)
    data_hash: Mapped[str] = mapped_column(Text)
    data_storage_key: Mapped[str | None] = mapped_column(Text)
    bulk_inference_job_id: Mapped[str | None] = mapped_column(Identifier)
    datum_id: Mapped[str | None] = mapped_column(Identifier)
    ordinal: Mapped[int | None] = mapped_column(BigInteger)
