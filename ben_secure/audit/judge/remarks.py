"""Look for metadata that is safe to load but that no honest patch contains.

A remark never causes a refusal. The input is a patch from ``loads``, whose metadata is plain data of bounded size
without cycles (``metadata.check_value``). No method of the metadata is called. Objects and bytes are counted before
they are inspected.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure.errors import printable

if TYPE_CHECKING:
    from ben_secure.patches import BigEarthNetPatch

MAX_TEXT = 4096
"""Maximum characters of one text. The longest label of CORINE Land Cover has 84."""

MAX_BYTES = 2**17
"""Maximum bytes in the arrays and bytes objects of one patch. A map of 120 by 120 pixels of int64 has 115,200."""

MAX_OBJECTS = 2000
"""Maximum objects in the metadata of one patch, texts in arrays included.

An honest patch has at most 43 labels, a date and an outline.
"""

MAX_NAME = 128
"""Maximum characters of one name in the metadata."""

# Categories of the Unicode standard, section 4.5: control, format (bidirectional marks, zero-width characters, tags),
# surrogate, line and paragraph separator. A line break or tab is suspicious only in a name, not in a text.
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
    """Remark on the metadata of a loaded patch.

    Args:
        patch: A patch from ``loads``.

    Returns:
        The first oddity, or None: control, bidirectional or zero-width characters, a text of more than ``MAX_TEXT``
        characters, more than ``MAX_BYTES`` bytes in arrays, or more than ``MAX_OBJECTS`` objects.
    """
    return _remark(patch.__stored_args__) or _remark(patch._extras())


def _remark(metadata: dict[str, Any]) -> str | None:
    """Describe the first oddity in some metadata, without recursion."""
    objects, size = 1, 0
    pending: list[tuple[str, Any]] = [("", metadata)]
    while pending:
        member, node = pending.pop()
        kind = type(node)
        if kind is bytes or kind is np.ndarray:
            size += len(node) if kind is bytes else node.nbytes
        if kind in _CONTAINERS or (kind is np.ndarray and node.dtype.kind in "OU"):
            objects += node.size if kind is np.ndarray else len(node)
        if size > MAX_BYTES:
            return f"metadata '{printable(member, 40)}' brings the bytes in arrays to more than {MAX_BYTES}"
        if objects > MAX_OBJECTS:
            return f"metadata '{printable(member, 40)}' brings the objects to more than {MAX_OBJECTS}"
        oddity = None
        if kind is dict:
            oddity = next(filter(None, map(_name, node)), None)
            pending += [(member or name, child) for name, child in node.items()]
        elif kind in _CONTAINERS:
            pending += [(member, child) for child in node]
        elif isinstance(node, str):
            oddity = _text(node, member)
        elif kind is np.ndarray and node.dtype.kind in "OU":
            pending += [(member, child) for child in node.ravel().tolist()]
        if oddity is not None:
            return oddity
    return None


def _name(name: str) -> str | None:
    """Describe an oddity in a name of the metadata or in a key of a dict."""
    if len(name) > MAX_NAME:
        return (
            f"a name in the metadata has {len(name)} characters, expected at most {MAX_NAME}: '{printable(name, 40)}'"
        )
    oddity = _suspicious(name, allowed=frozenset())
    return None if oddity is None else f"a name in the metadata holds {oddity}: '{printable(name, 80)}'"


def _text(text: str, member: str) -> str | None:
    """Describe an oddity in a text."""
    if len(text) > MAX_TEXT:
        return f"metadata '{printable(member, 40)}' has a text of {len(text)} characters, expected at most {MAX_TEXT}"
    oddity = _suspicious(text, allowed=_LAYOUT)
    return (
        None
        if oddity is None
        else f"metadata '{printable(member, 40)}' has a text that holds {oddity}: '{printable(text, 80)}'"
    )


def _suspicious(text: str, allowed: frozenset[str]) -> str | None:
    """Name the first character that could take over a terminal or page, or return None."""
    if text.isprintable():  # characters of the suspicious categories are not printable
        return None
    for character in dict.fromkeys(text):
        if unicodedata.category(character) in _SUSPICIOUS and character not in allowed:
            return f"the character U+{ord(character):04X} ({_SUSPICIOUS[unicodedata.category(character)]})"
    return None
