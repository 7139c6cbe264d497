"""URLs of local blobs that prove themselves: method, key and expiry under an HMAC."""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import secrets
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from orchestrator import clock
from orchestrator.errors import InvalidRequest, SignatureInvalid, Unavailable
from orchestrator.settings import settings

#: What a signed URL can allow.
METHODS = ("GET", "HEAD", "PUT")
#: S3 signs for seven days at most; the local folder promises no more.
LONGEST = timedelta(days=7)

#: The file in the home folder that holds the key when the settings name none.
KEY_FILE = "signing.key"
KEY_BYTES = 32

_PREFIX = "/blobs/"


def sign(key: str, method: str, expires: timedelta) -> str:
    """The path and query that allow `method` on `key` for the time `expires` from now."""
    if method not in METHODS:
        raise InvalidRequest(f"cannot sign {method!r}: use one of {', '.join(METHODS)}")
    until = math.ceil((clock.now() + check_lifetime(expires)).timestamp())
    return f"{_PREFIX}{key}?method={method}&expires={until}&signature={_signature(key, method, until)}"


def verify(url: str, method: str) -> str:
    """The key that `url` allows `method` on now.

    Raises:
        SignatureInvalid: it was altered, has expired, or allows something else.
    """
    key, signed_method, until, signature = _parse(url)
    expected = _signature(key, signed_method, until)
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise SignatureInvalid("the signature does not fit the URL: ask for a new URL")
    if signed_method != method:
        raise SignatureInvalid(f"the URL allows {signed_method}, not {method}")
    if clock.now().timestamp() >= until:
        raise SignatureInvalid("the URL has expired: ask for a new one")
    return key


def check_lifetime(expires: timedelta) -> timedelta:
    """Return `expires` when a URL may live that long."""
    if not timedelta() < expires <= LONGEST:
        raise InvalidRequest(f"a signed URL cannot live for {expires}: use up to {LONGEST.days} days")
    return expires


def _parse(url: str) -> tuple[str, str, int, str]:
    malformed = SignatureInvalid("this is no signed blob URL: ask for a new one")
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True, errors="strict")
        key = unquote(parts.path, errors="strict").removeprefix(_PREFIX)
    except ValueError as error:
        raise malformed from error
    query = dict(pairs)
    # A parameter given twice would leave open which of them was signed.
    if not parts.path.startswith(_PREFIX) or len(pairs) != 3 or set(query) != {"method", "expires", "signature"}:
        raise malformed
    until = query["expires"]
    if not (until.isascii() and until.isdigit() and len(until) <= 12):
        raise malformed
    return key, query["method"], int(until), query["signature"]


def _signature(key: str, method: str, until: int) -> str:
    message = f"{method}\n{key}\n{until}".encode()
    return hmac.new(_signing_key(), message, hashlib.sha256).hexdigest()


def _signing_key() -> bytes:
    configured = settings().signing_key.get_secret_value()
    return configured.encode() if configured else _key_from(settings().home / KEY_FILE)


def _key_from(path: Path) -> bytes:
    """The key in the file; the first of any number of processes to ask creates it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _create_key(path)
    key = path.read_bytes()
    if len(key) < KEY_BYTES:
        raise Unavailable(f"{path} holds no signing key: remove it, and a new one is made")
    return key


def _create_key(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # A link appears whole and never replaces: the loser of a race reads the winner's key.
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
