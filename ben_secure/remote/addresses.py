"""URLs of databases: tell them from paths, show them without credentials, find what lies beside them.

Decides on text alone; never opens a connection. A URL can hold a password or a signature that opens the object to
everybody who sees it, so only ``shown`` of it stands in a message, a report or a ``repr``.
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
    """A URL as the caller gave it, credentials included, whose ``repr`` and ``str`` show none of them.

    Attributes:
        pin: Version of the object that must be read, as the reader that was copied has pinned it; None for the first
            one that is found.
    """

    pin: tuple[str, str] | None = None

    def __str__(self) -> str:
        return shown(self)

    def __repr__(self) -> str:
        return repr(shown(self))


def is_remote(path: str) -> bool:
    """Whether this names an object on a server and not a file."""
    return _URL.match(path) is not None


def absolute(path: str | os.PathLike[str]) -> str:
    """Name a file or an object for another process: a path from the root, or the URL (a ``Url``) as it is."""
    path = os.fspath(path)
    if isinstance(path, Url) or not is_remote(path):
        return path if isinstance(path, Url) else os.path.abspath(path)
    return Url(path)


def shown(path: str) -> str:
    """Write a path or a URL for people: of a URL without user, password, query and fragment."""
    if not is_remote(path):
        return path
    scheme, _, rest = path[:].partition("://")
    place = _BEHIND.split(rest, maxsplit=1)[0]
    mark = rest[len(place) : len(place) + 1]
    hidden, at, place = place.rpartition("@")
    if not _HOST.match(place):  # a password with a slash or a question mark in it
        return f"{scheme}://{_HIDDEN}"
    return f"{scheme}://{_HIDDEN if hidden else ''}{at}{place}{mark}{_HIDDEN if mark else ''}"


def without_credentials(text: str) -> str:
    """Write a text for people in which URLs may stand."""
    return _IN_TEXT.sub(lambda match: shown(match[0]), text)


def extended(path: str, suffix: str) -> str:
    """Add to the name of a file or an object; a query stays where it is, for it may be what opens a whole folder."""
    if not is_remote(path):
        return path + suffix
    parts = split(path)
    return Url(urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix, fragment="")))


def folder_of_data_file(path: str) -> str:
    """The name of a database: without a last part ``data.mdb``."""
    parts = split(path)
    if parts.path.rpartition("/")[2] != _DATA_FILE_NAME:
        return path
    return Url(urlunsplit(parts._replace(path=parts.path.rpartition("/")[0])))


def data_files(path: str) -> list[str]:
    """Where the data file of a database may be, in the order in which to look.

    Returns:
        ``URL/data.mdb`` and ``URL``; only ``URL`` if it names a data file, or has a query, which is good for it alone.
    """
    parts = split(path)
    if parts.query or parts.path.endswith(".mdb"):
        return [path]
    return [extended(path, "/" + _DATA_FILE_NAME), path]


def split(path: str) -> SplitResult:
    """Take a URL apart.

    Raises:
        StoreError: It is malformed.
    """
    try:
        parts = urlsplit(path[:])
        path[:].encode()
        if parts.hostname and parts.port != 0 and parts.path.strip("/"):
            return parts
    except ValueError:  # a port, an IPv6 address or no Unicode; the message of urlsplit would show it
        pass
    raise StoreError(f"this URL is malformed; expected {SCHEMES[1]}://HOST/PATH or {SCHEMES[2]}://BUCKET/PATH")
