"""The units of jobs that make indexes: of a bulk job's inferences by ranges, and of a model's embeddings."""

from __future__ import annotations

from orchestrator.inference_store import indexing
from orchestrator.inference_store.filtering import approximate
from orchestrator.ledger import Lease, Outcome
from workers.unit import unit


@unit(f"{indexing.KIND}.index")
def index(lease: Lease) -> Outcome:
    """Take the unit's range of inferences apart."""
    return indexing.index(lease)


@unit(f"{indexing.KIND}.finish")
def finish(lease: Lease) -> Outcome:
    """Say that all of them are indexed."""
    return indexing.finish(lease)


@unit(f"{approximate.KIND}.build")
def build_vectors(lease: Lease) -> Outcome:
    """Make the index of a model's embeddings."""
    return approximate.build(lease)


@unit(f"{approximate.KIND}.finish")
def finish_vectors(lease: Lease) -> Outcome:
    """Close the job."""
    return approximate.finish(lease)
