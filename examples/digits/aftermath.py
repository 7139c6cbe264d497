"""What follows inference in the demo: an archive that becomes a snapshot again, and retention, dry and for good."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from orchestrator import registry
from orchestrator.inference_store import (
    DeleteAction,
    NewExportTaskRequest,
    NewGetInferencesRequest,
    NewRetentionPolicyRequest,
    NewRetentionTaskRequest,
    Pagination,
    count_inferences,
    create_export_task,
    create_retention_policy,
    create_retention_task,
    filter_inferences,
    protect_inference,
)
from orchestrator.inference_store.export_task import get_export_details
from orchestrator.inference_store.exports.download import download
from orchestrator.inference_store.receipts import list_receipts
from orchestrator.inference_store.retention import tasks
from orchestrator.inference_store.retention_task import run_retention_manifest
from orchestrator.registry.models import Datum, Model, Snapshot

T = TypeVar("T")

#: Seconds that an export or a sweep of some hundred inferences may take on a busy machine.
PATIENCE = 120


@dataclass(frozen=True)
class Exported:
    """An archive, and the snapshot that was made of it."""

    archive: Path
    size: int  #: in bytes
    sha256: str
    inferences: int
    snapshot: str
    images: int
    #: Whether the snapshot's images are those that were inferred upon, byte for byte.
    same: bool


@dataclass(frozen=True)
class Swept:
    """What retention would have deleted, what it did, and what it left."""

    listed: int
    manifest: str
    deleted: int
    protected: int
    left: int
    receipts: int


def export(model: Model, source: Snapshot, folder: Path) -> Exported:
    """Export every inference with its image and annotation, and import the archive as a snapshot."""
    task = create_export_task(
        model.id, NewExportTaskRequest(include_inferences_as_annotations=True, include_custom_metadata=True)
    )
    assert task is not None
    ended = until(lambda: get_export_details(task.id), lambda details: details.is_over)
    if ended.archive is None:
        raise SystemExit(f"the export ended {ended.state}: {ended.reason}")
    target = folder / "digits.tar.gz"
    download(ended.archive, target)
    snapshot = registry.import_snapshot(source.dataset_id, target, name="re-imported")
    before = hashes(source.id, "test")
    after = sorted(digest for split in snapshot.splits for digest in hashes(snapshot.id, split.split))
    return Exported(
        archive=target,
        size=ended.archive.size,
        sha256=ended.archive.sha256,
        inferences=ended.progress_count,
        snapshot=snapshot.id,
        images=len(after),
        same=before == after,
    )


def hashes(snapshot_id: str, split: str) -> list[str]:
    """The digests of the images of a split, sorted."""
    found: list[Datum] = []
    while page := registry.list_datums(snapshot_id, split, after_ordinal=found[-1].ordinal if found else -1):
        found += page
    return sorted(datum.sha256 for datum in found)


def retain(model: Model) -> Swept:
    """Protect one inference, list what a policy would delete, approve the list, and run it."""
    first = filter_inferences(model.id, NewGetInferencesRequest(pagination=Pagination(limit=1)))[0]
    policy = create_retention_policy(
        model.id,
        NewRetentionPolicyRequest(
            automated_interval=0, maximum_record_age=0, maximum_blob_age=0, delete_action=DeleteAction.HARD
        ),
    )
    assert policy is not None
    dry_run = create_retention_task(model.id, NewRetentionTaskRequest(dry_run=True, retention_policy_id=policy.id))
    assert dry_run is not None
    listed = until(lambda: tasks.find_task(dry_run.id), lambda details: details.is_over)
    assert listed.manifest is not None, listed.reason
    # What somebody protects after the list was approved is spared all the same.
    protect_inference(model.id, first.inference_id)
    sweep = run_retention_manifest(model.id, listed.manifest.task_id, listed.manifest.sha256)
    assert sweep is not None
    swept = until(lambda: tasks.find_task(sweep.id), lambda details: details.is_over)
    return Swept(
        listed=listed.total_record_count or 0,
        manifest=str(listed.manifest),
        deleted=swept.deleted_record_count,
        protected=1,
        left=count_inferences(model.id, NewGetInferencesRequest()),
        receipts=len(list_receipts(task_id=sweep.id)),
    )


def until(look: Callable[[], T], is_enough: Callable[[T], bool]) -> T:
    """What `look` finds, once it is enough."""
    deadline = time.monotonic() + PATIENCE
    while not is_enough(found := look()):
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing came of it in {PATIENCE} s: {found}")
        time.sleep(0.1)
    return found
