"""Answers of servers to a request for a byte range: what one holds, and what a failure of one means."""

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
        pin: The version that they are of.
    """

    data: bytes
    total_bytes: int
    pin: Pin


class MissingObjectError(Exception):
    """There is no such object, or none that these credentials may see."""


class TryAgainError(Exception):
    """Nothing was decided, and the same request may succeed."""


def failure(status: int) -> Exception:
    """What an HTTP status other than 206 means for a request for a range of the pinned version."""
    if status == 200:
        return StoreError(
            "the server ignores ranges and would send the whole file; download the database with its manifest, and "
            "open the local copy"
        )
    if status in (412, 416):
        return changed()
    if status in (404, 410):
        return MissingObjectError(f"the server has no such object (status {status})")
    if status in (401, 403):
        return MissingObjectError(f"the server refuses access (status {status}); check the credentials and the URL")
    if status in _TRY_AGAIN or status >= 500:
        return TryAgainError(f"the server answers with status {status}")
    return StoreError(f"the server answers with status {status}, expected 206 (partial content)")


def changed() -> StoreError:
    """The error for an object that is not the pinned one any more."""
    return StoreError(
        "the object on the server is empty, or was changed after it was opened; open it again to read the new version"
    )


def check_range(header: str | None, start: int, stop: int) -> int:
    """Check that an answer has the bytes that were asked for, as far as the object has them.

    Args:
        header: ``Content-Range``.
        start: First byte.
        stop: Byte behind the last.

    Returns:
        Size of the whole object.

    Raises:
        StoreError: The server sends something else.
    """
    match = _CONTENT_RANGE.fullmatch(header or "")
    first, last, total = map(int, match.groups()) if match else (-1, -1, -1)
    if first != start or last != min(stop, total) - 1:
        raise StoreError(
            f"the server sends the range {printable(header)}, expected bytes {start}-{stop - 1}; it does not answer "
            "range requests as HTTP defines them"
        )
    return total


def check_pin(found: Pin, expected: Pin | None) -> Pin:
    """Check that an answer is of the pinned version, or of one that can be pinned.

    Raises:
        StoreError: It is of another version, or the server does not say of which.
    """
    etag, version = found
    if not version and (not etag or etag.startswith("W/")):
        raise StoreError(
            "the server gives the object no version or strong ETag, so a change would not be noticed; download the "
            "database with its manifest, and open the local copy"
        )
    if expected is not None and found != expected:
        raise changed()
    return found
