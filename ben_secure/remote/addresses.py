"""URLs of databases: recognise them, show them without credentials, and derive the URLs of related files.

This module works on text, and never opens a connection. A URL can contain a password, or a signature that gives access
to everyone who sees it. So messages, reports and ``repr`` contain only the result of ``redacted``.
"""

from __future__ import annotations

import os
import re
from urllib.parse import SplitResult, urlsplit, urlunsplit

from ben_secure.errors import StoreError

SCHEMES = ("http", "https", "s3")
_URL = re.compile(rf"(?:{'|'.join(SCHEMES)})://", re.IGNORECASE)
_IN_TEXT = re.compile(_URL.pattern + r"[^\s'\"<>\]]+", re.IGNORECASE)
_BEHIND = re.compile(r"[?#]")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:/]*)(?::\d*)?(?:/|$)")
_HIDDEN = "***"
_DATA_FILE_NAME = "data.mdb"


class Url(str):
    """A URL with its credentials, which ``repr`` and ``str`` do not show.

    Attributes:
        pin: Version of the object that a reader has pinned and that must be read, or None for the current version.
    """

    pin: tuple[str, str] | None = None

    def __str__(self) -> str:
        return redacted(self)

    def __repr__(self) -> str:
        return repr(redacted(self))


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return _URL.match(path) is not None


def absolute(path: str | os.PathLike[str]) -> str:
    """Return an absolute path, or a URL as ``Url``, for another process."""
    path = os.fspath(path)
    if isinstance(path, Url) or not is_remote(path):
        return path if isinstance(path, Url) else os.path.abspath(path)
    return Url(path)


def redacted(path: str) -> str:
    """Write a path or a URL for people. A URL is written without user, password, query and fragment."""
    if not is_remote(path):
        return path
    scheme, _, rest = path[:].partition("://")
    location = _BEHIND.split(rest, maxsplit=1)[0]
    mark = rest[len(location) : len(location) + 1]
    hidden, at, location = location.rpartition("@")
    if not _HOST.match(location):  # a password that contains a slash or a question mark
        return f"{scheme}://{_HIDDEN}"
    return f"{scheme}://{_HIDDEN if hidden else ''}{at}{location}{mark}{_HIDDEN if mark else ''}"


def without_credentials(text: str) -> str:
    """Write a text that may contain URLs for people."""
    return _IN_TEXT.sub(lambda match: redacted(match[0]), text)


def with_suffix(path: str, suffix: str) -> str:
    """Append to a path or to the path of a URL. A query is kept, because it may give access to the whole folder."""
    if not is_remote(path):
        return path + suffix
    url_parts = split(path)
    return Url(urlunsplit(url_parts._replace(path=url_parts.path.rstrip("/") + suffix, fragment="")))


def folder_of_data_file(path: str) -> str:
    """Remove a final ``/data.mdb`` from the URL of a database."""
    url_parts = split(path)
    if url_parts.path.rpartition("/")[2] != _DATA_FILE_NAME:
        return path
    return Url(urlunsplit(url_parts._replace(path=url_parts.path.rpartition("/")[0])))


def data_files(path: str) -> list[str]:
    """Possible URLs of the data file of a database, in the order to try.

    Returns:
        ``URL/data.mdb`` and ``URL``; only ``URL`` if it names a data file or has a query, which may be valid for this
        URL only.
    """
    url_parts = split(path)
    if url_parts.query or url_parts.path.endswith(".mdb"):
        return [path]
    return [with_suffix(path, "/" + _DATA_FILE_NAME), path]


def split(path: str) -> SplitResult:
    """Split a URL into its components.

    Raises:
        StoreError: The URL is malformed.
    """
    try:
        url_parts = urlsplit(path[:])
        path[:].encode()
        if url_parts.hostname and url_parts.port != 0 and url_parts.path.strip("/"):
            return url_parts
    except ValueError:  # a bad port or IPv6 address, or not Unicode; the message of urlsplit would show it
        pass
    raise StoreError(f"this URL is malformed; expected {SCHEMES[1]}://HOST/PATH or {SCHEMES[2]}://BUCKET/PATH")
