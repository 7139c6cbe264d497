"""Signed URLs from the side of whoever got one: send bytes to it, or fetch them.

A bucket's URLs go to its server. Those of a local folder are paths, which the HTTP API is to serve; until somebody
gives them a host they are honoured right here, after the same check.
"""

from __future__ import annotations

from urllib.parse import urlsplit

import httpx

from orchestrator.errors import BlobNotFound, SignatureInvalid, Unavailable
from orchestrator.storage.configured import blobs

#: Seconds that a server may be silent.
TIMEOUT = 60


def put_signed(url: str, data: bytes) -> None:
    """Store `data` where a URL that was signed for PUT says.

    Raises:
        SignatureInvalid: the URL was altered, has expired, or is for something else.
        Unavailable: the store does not answer.
    """
    if _is_local(url):
        blobs().put(blobs().verify(url, "PUT"), data)
    else:
        _ask("PUT", url, data)


def get_signed(url: str) -> bytes:
    """What is stored where a URL that was signed for GET says.

    Raises:
        BlobNotFound: nothing is stored there.
        SignatureInvalid: the URL was altered, has expired, or is for something else.
        Unavailable: the store does not answer.
    """
    return blobs().get(blobs().verify(url, "GET")) if _is_local(url) else _ask("GET", url, None)


def _is_local(url: str) -> bool:
    return not urlsplit(url).netloc


def _ask(method: str, url: str, data: bytes | None) -> bytes:
    # No message repeats the URL: it is a secret.
    try:
        response = httpx.request(method, url, content=data, timeout=TIMEOUT)
    except httpx.HTTPError as error:
        raise Unavailable(f"the blob store does not answer: {type(error).__name__}") from error
    match response.status_code:
        case code if code < 300:
            return response.content
        case 404:
            raise BlobNotFound("nothing is stored under this URL")
        case 401 | 403:
            raise SignatureInvalid("the blob store refuses the URL: ask for a new one")
        case code:
            raise Unavailable(f"the blob store answered {code}")
