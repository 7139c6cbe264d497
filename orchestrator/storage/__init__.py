"""Blobs: in a local folder or an S3-like bucket, with signed URLs for both."""

from orchestrator.storage.configured import blobs, open_blobs
from orchestrator.storage.keys import check_key, content_key, is_sha256
from orchestrator.storage.signed import get_signed, put_signed
from orchestrator.storage.store import BlobInfo, Blobs

__all__ = [
    "BlobInfo",
    "Blobs",
    "blobs",
    "check_key",
    "content_key",
    "get_signed",
    "is_sha256",
    "open_blobs",
    "put_signed",
]
