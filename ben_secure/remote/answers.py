"""A server's answer to a request for a byte range, and the meaning of its failures."""

from __future__ import annotations

import re
from typing import NamedTuple

from ben_secure.errors import StoreError, printable

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_TRY_AGAIN = (408, 425, 429)

Pin = tuple[str, str]
"""One version of one object: its ETag, and the version id of a bucket that keeps versions (or nothing)."""


class Answer(NamedTuple):
    """One byte range.

    Attributes:
        data: The bytes.
        total_bytes: Size of the whole object.
        pin: Their version.
    """

    data: bytes
    total_bytes: int
    pin: Pin


class MissingObjectError(Exception):
    """The object does not exist, or these credentials may not read it."""


class TryAgainError(Exception):
    """The request failed, but may succeed when repeated."""


def failure(status: int) -> Exception:
    """Return the error for an HTTP status other than 206."""
    if status == 200:
        return StoreError(
            "the server ignores range requests and sends the whole file; download the database with its manifest, "
            "and open the local copy"
        )
    if status in (412, 416):
        return changed()
    if status in (404, 410):
        return MissingObjectError(f"the object does not exist on the server (status {status})")
    if status in (401, 403):
        return MissingObjectError(f"the server refuses access (status {status}); check the credentials and the URL")
    if status in _TRY_AGAIN or status >= 500:
        return TryAgainError(f"the server answers with status {status}")
    return StoreError(f"the server answers with status {status}, expected 206 (partial content)")


def changed() -> StoreError:
    """Return the error for an object that is not the pinned version any more."""
    return StoreError(
        "the object on the server is empty, or was changed after it was opened; open it again to read the new version"
    )


def check_range(header: str | None, start: int, stop: int) -> int:
    """Check that an answer has the requested bytes, up to the end of the object.

    Args:
        header: ``Content-Range``.
        start: First byte.
        stop: End of the range (exclusive).

    Returns:
        Size of the whole object.

    Raises:
        StoreError: The server sends another range.
    """
    match = _CONTENT_RANGE.fullmatch(header or "")
    first, last, total = map(int, match.groups()) if match else (-1, -1, -1)
    if first != start or last != min(stop, total) - 1:
        raise StoreError(
            f"the server sends the range {printable(header)}, expected bytes {start}-{stop - 1}; it does not answer "
            "range requests as HTTP defines them"
        )
    return total


def check_pin(pin: Pin, expected: Pin | None) -> Pin:
    """Check that an answer has the pinned version, or a version that can be pinned.

    Raises:
        StoreError: The answer has another version, or does not state its version.
    """
    etag, version = pin
    if not version and (not etag or etag.startswith("W/")):
        raise StoreError(
            "the server sends no version or strong ETag of the object, so changes could not be detected; download "
            "the database with its manifest, and open the local copy"
        )
    if expected is not None and pin != expected:
        raise changed()
    return pin
