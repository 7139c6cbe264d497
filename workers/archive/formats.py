"""Which format a task asks for; those beside the default need libraries of their own."""

from __future__ import annotations

from orchestrator.errors import OrchestratorError
from orchestrator.inference_store.exports.models import ArchiveFormat
from workers.archive.dataset import DatasetFormat
from workers.archive.describe import Format
from workers.archive.records import Order


class FormatMissing(OrchestratorError):
    """A worker lacks the libraries of a format."""


def format_of(order: Order) -> Format:
    """A new piece's describer, as the task asks for it.

    Raises:
        FormatMissing: this worker was installed without the extra `archives`.
    """
    try:
        match order.archive_format:
            case ArchiveFormat.DATASET:
                return DatasetFormat(order)
            case ArchiveFormat.COCO:
                from workers.archive.coco import CocoFormat

                return CocoFormat(order)
            case ArchiveFormat.PARQUET:
                from workers.archive.parquet import ParquetFormat

                return ParquetFormat(order)
    except ModuleNotFoundError as error:
        raise FormatMissing(
            f"{order.archive_format} needs {error.name} on every worker: pip install 'orchestrator[archives]'"
        ) from error
