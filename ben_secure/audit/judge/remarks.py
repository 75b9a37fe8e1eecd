"""Look for metadata that is plain and safe to load, but that no patch needs.

A remark never makes a value refused. It judges what ``loads`` has returned, whose metadata is plain data of bounded
size without cycles (``metadata.check_value``), and follows no method of it. Texts that were clean once are
remembered, for an archive has the same few labels all over.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from ben_secure.audit.findings import Finding
from ben_secure.errors import Rule, printable

if TYPE_CHECKING:
    from ben_secure.patches import BigEarthNetPatch

MAX_TEXT = 4096
"""Characters of one text. The longest label of CORINE Land Cover has 84."""

MAX_BYTES = 2**17
"""Bytes in arrays and bytes objects of one patch. A map of 120 by 120 pixels of int64 has 115,200."""

MAX_OBJECTS = 2000
"""Objects in the metadata of one patch; a patch has at most 43 labels, a date, an outline."""

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

# What is usual stays below MAX_OBJECTS by itself.
_USUAL_NAMES, _USUAL_LABELS = 19, 100
_NUMBERS = frozenset({int, float, bool, type(None)})
_REMEMBERED = 4096
_REMEMBERED_LENGTH = 128
_clean: set[str] = set()


def metadata_remarks(lmdb_key: bytes, patch: BigEarthNetPatch) -> Finding | None:
    """Remark on the metadata of a patch that was loaded.

    Args:
        lmdb_key: Raw LMDB key.
        patch: What ``loads`` has returned.

    Returns:
        None, or a finding with the first thing that no patch needs: control, bidirectional or zero-width characters,
        a text of more than ``MAX_TEXT`` characters, more than ``MAX_BYTES`` in arrays, more than ``MAX_OBJECTS``.
    """
    stored, extras = patch.__stored_args__, patch._extras()
    if not extras and len(stored) <= _USUAL_NAMES and all(map(_usual, stored, stored.values())):
        return None
    message = _remark(stored) or _remark(extras)
    return None if message is None else Finding(lmdb_key=lmdb_key, rule=Rule.METADATA, message=message)


def _usual(name: str, value: Any) -> bool:
    """The common case: a name that was seen before, with labels that were, or with a text or number."""
    kind = type(value)
    if kind is list:
        try:
            return name in _clean and len(value) <= _USUAL_LABELS and _clean.issuperset(value)
        except TypeError:  # something in it cannot be in a set
            return False
    if kind is str:
        return name in _clean and len(value) <= MAX_TEXT and value.isprintable()
    return name in _clean and kind in _NUMBERS


def _remark(metadata: dict[str, Any]) -> str | None:
    """What is odd in some metadata, found without recursion."""
    objects = size = 0
    pending: list[tuple[str, Any]] = [("", metadata)]
    while pending:
        place, node = pending.pop()
        objects += 1
        odd = None
        if type(node) is dict:
            odd = next(filter(None, map(_name, node)), None)
            pending += [(place or printable(name, 40), child) for name, child in node.items()]
        elif type(node) in (list, tuple, set) or (type(node) is np.ndarray and node.dtype.kind == "O"):
            pending += [(place, child) for child in node]
        elif isinstance(node, str):
            odd = _text(node, place)
        elif type(node) is bytes:
            size += len(node)
        elif isinstance(node, np.ndarray | np.generic):
            size += node.nbytes
            odd = _text("".join(node.ravel()), place) if node.dtype.kind == "U" else None
        if odd is None and size > MAX_BYTES:
            odd = f"metadata '{place}' brings the bytes in arrays to more than {MAX_BYTES}"
        if odd is None and objects + len(pending) > MAX_OBJECTS:
            odd = f"metadata '{place}' brings the objects to more than {MAX_OBJECTS}"
        if odd is not None:
            return odd
    return None


def _name(name: str) -> str | None:
    """What is odd in a name of metadata or in a key of a dict."""
    if name in _clean:
        return None
    if len(name) > MAX_NAME:
        return (
            f"a name in the metadata has {len(name)} characters, expected at most {MAX_NAME}: '{printable(name, 40)}'"
        )
    odd = _suspicious(name, allowed=frozenset())
    if odd is not None:
        return f"a name in the metadata holds {odd}: '{printable(name, 80)}'"
    _remember(name)
    return None


def _text(text: str, place: str) -> str | None:
    """What is odd in a text."""
    if text in _clean:
        return None
    if len(text) > MAX_TEXT:
        return f"metadata '{place}' has a text of {len(text)} characters, expected at most {MAX_TEXT}"
    odd = _suspicious(text, allowed=_LAYOUT)
    if odd is not None:
        return f"metadata '{place}' has a text that holds {odd}: '{printable(text, 80)}'"
    if type(text) is str:
        _remember(text)
    return None


def _suspicious(text: str, allowed: frozenset[str]) -> str | None:
    """Name the first character that takes over what shows it; None if there is none."""
    if text.isprintable():  # then none is of a suspicious category
        return None
    for character in text:
        if unicodedata.category(character) in _SUSPICIOUS and character not in allowed:
            return f"the character U+{ord(character):04X} ({_SUSPICIOUS[unicodedata.category(character)]})"
    return None


def _remember(text: str) -> None:
    if len(text) <= _REMEMBERED_LENGTH and text.isprintable():
        if len(_clean) >= _REMEMBERED:
            _clean.clear()
        _clean.add(text)
