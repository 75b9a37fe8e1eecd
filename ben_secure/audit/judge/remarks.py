"""Look for metadata that is plain and safe to load, but that no patch needs.

A remark never makes a value refused. It judges what ``loads`` has returned, whose metadata is plain data of bounded
size without cycles (``metadata.check_value``), and follows no method of it. Objects and bytes are counted before they
are looked at.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure.errors import printable

if TYPE_CHECKING:
    from ben_secure.patches import BigEarthNetPatch

MAX_TEXT = 4096
"""Characters of one text. The longest label of CORINE Land Cover has 84."""

MAX_BYTES = 2**17
"""Bytes in arrays and bytes objects of one patch. A map of 120 by 120 pixels of int64 has 115,200."""

MAX_OBJECTS = 2000
"""Objects in the metadata of one patch, texts in arrays too; a patch has at most 43 labels, a date, an outline."""

MAX_NAME = 128
"""Characters of one name in the metadata."""

# Categories of the Unicode standard, section 4.5: control, format (bidirectional marks, zero-width characters, tags),
# surrogate, line and paragraph separator. A line break or tab is no wonder in a text, only in a name.
_SUSPICIOUS = {
    "Cc": "control",
    "Cf": "invisible or changes the direction of the text",
    "Cs": "half a character",
    "Zl": "line separator",
    "Zp": "paragraph separator",
}
_LAYOUT = frozenset("\n\t")
_CONTAINERS = frozenset({dict, list, tuple, set})


def metadata_remark(patch: BigEarthNetPatch) -> str | None:
    """Remark on the metadata of a patch that was loaded.

    Args:
        patch: What ``loads`` has returned.

    Returns:
        None, or the first thing that no patch needs: control, bidirectional or zero-width characters, a text of more
        than ``MAX_TEXT`` characters, more than ``MAX_BYTES`` in arrays, more than ``MAX_OBJECTS``.
    """
    return _remark(patch.__stored_args__) or _remark(patch._extras())


def _remark(metadata: dict[str, Any]) -> str | None:
    """What is odd in some metadata, found without recursion."""
    objects, size = 1, 0
    pending: list[tuple[str, Any]] = [("", metadata)]
    while pending:
        place, node = pending.pop()
        kind = type(node)
        if kind is bytes or kind is np.ndarray:
            size += len(node) if kind is bytes else node.nbytes
        if kind in _CONTAINERS or (kind is np.ndarray and node.dtype.kind in "OU"):
            objects += node.size if kind is np.ndarray else len(node)
        if size > MAX_BYTES:
            return f"metadata '{printable(place, 40)}' brings the bytes in arrays to more than {MAX_BYTES}"
        if objects > MAX_OBJECTS:
            return f"metadata '{printable(place, 40)}' brings the objects to more than {MAX_OBJECTS}"
        odd = None
        if kind is dict:
            odd = next(filter(None, map(_name, node)), None)
            pending += [(place or name, child) for name, child in node.items()]
        elif kind in _CONTAINERS:
            pending += [(place, child) for child in node]
        elif isinstance(node, str):
            odd = _text(node, place)
        elif kind is np.ndarray and node.dtype.kind in "OU":
            pending += [(place, child) for child in node.ravel().tolist()]
        if odd is not None:
            return odd
    return None


def _name(name: str) -> str | None:
    """What is odd in a name of metadata or in a key of a dict."""
    if len(name) > MAX_NAME:
        return (
            f"a name in the metadata has {len(name)} characters, expected at most {MAX_NAME}: '{printable(name, 40)}'"
        )
    odd = _suspicious(name, allowed=frozenset())
    return None if odd is None else f"a name in the metadata holds {odd}: '{printable(name, 80)}'"


def _text(text: str, place: str) -> str | None:
    """What is odd in a text."""
    if len(text) > MAX_TEXT:
        return f"metadata '{printable(place, 40)}' has a text of {len(text)} characters, expected at most {MAX_TEXT}"
    odd = _suspicious(text, allowed=_LAYOUT)
    return (
        None
        if odd is None
        else f"metadata '{printable(place, 40)}' has a text that holds {odd}: '{printable(text, 80)}'"
    )


def _suspicious(text: str, allowed: frozenset[str]) -> str | None:
    """Name the first character that could take over a terminal or page; None if there is none."""
    if text.isprintable():  # then none is of a suspicious category
        return None
    for character in dict.fromkeys(text):
        if unicodedata.category(character) in _SUSPICIOUS and character not in allowed:
            return f"the character U+{ord(character):04X} ({_SUSPICIOUS[unicodedata.category(character)]})"
    return None
