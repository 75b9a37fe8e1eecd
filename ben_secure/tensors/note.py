"""The note: facts about a patch that its tensors do not show, as one JSON text in the safetensors metadata.

These are the kind, the bands of a patch that lists its own, and metadata. A bare Sentinel patch, as rico-hdl writes it,
does not need a note and does not have one. JSON knows str, int, float, bool, None, list and dict. The writer refuses
metadata of any other type by name, because reading must return exactly the metadata that was written. This module
checks only the form of the note. ``patches.parts.rebuild`` checks its content.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ben_secure.errors import PatchFormatError, Rule, printable
from ben_secure.limits import Limits
from ben_secure.tensors.header import parse_json, refuse, strict_decoder

if TYPE_CHECKING:
    from ben_secure.patches.layout import Entry

NAME = "ben_secure.patch.v1"
"""The note's name in the metadata; the version of its format is part of it."""
FAMILY = "ben_secure.patch."
"""Prefix of the names of all versions."""

_JSON_TYPES = frozenset({str, int, float, bool, type(None)})
_MEMBERS = ("kind", "bands", "stored", "extras")
# Integers of metadata have at most 64 bytes, 155 digits; the shortest text of a float at most 24 characters.
_MAX_NUMBER_CHARACTERS = 160


class Note(NamedTuple):
    """A parsed note; only its types are checked.

    Attributes:
        kind: Name of a standard patch class, or module and qualified name of a declared one.
        bands: For a generic kind, in the buffer's order: attribute or None, band class, name, resolution_m.
        stored: Metadata as ``__stored_args__``.
        extras: Attributes in addition to ``stored``, or that override it.
    """

    kind: str | tuple[str, str]
    bands: tuple[tuple[object, ...], ...] | None
    stored: dict[str, object]
    extras: dict[str, object] | None


def read_note(text: str, limits: Limits) -> Note:
    """Read a note.

    Args:
        text: JSON (hostile). The limit of the header bounds its length.
        limits: Bound on the depth of metadata.

    Returns:
        The parsed note.

    Raises:
        PatchFormatError: The text is not strict JSON of this form.
    """
    members = parse_json(text.encode("utf-8", "surrogatepass"), limits.max_depth, _DECODER)
    if not {"kind", "stored"} <= members.keys() <= set(_MEMBERS):
        refuse(f"{NAME} must have the members kind and stored, optionally bands and extras, and no others")
    kind, bands, stored, extras = map(members.get, _MEMBERS)
    if type(kind) is list and [type(part) for part in kind] == [str, str]:
        kind = (kind[0], kind[1])
    elif type(kind) is not str:
        refuse(f"kind in {NAME} must be the name of a patch class, or the module and name of one")
    if "bands" in members:
        if type(bands) is not list or any(type(band) is not list or len(band) != 4 for band in bands):
            refuse(f"bands in {NAME} must be an array of [attribute or null, band class, name, resolution]")
        bands = tuple(map(tuple, bands))
    if type(stored) is not dict or ("extras" in members and type(extras) is not dict):
        refuse(f"stored and extras in {NAME} must be objects")
    return Note(kind, bands, stored, extras)  # type: ignore[arg-type]


def write_note(
    kind: str | tuple[str, str],
    entries: tuple[Entry, ...] | None,
    stored: dict[str, object],
    extras: dict[str, object],
) -> str:
    """Write a note.

    Args:
        kind: As in ``Note``.
        entries: Bands of a generic patch, or None.
        stored: Metadata of a patch, checked by its own rules.
        extras: Further metadata, or empty.

    Returns:
        JSON in ASCII.

    Raises:
        TypeError: Metadata is of a type that JSON does not know. The message names it.
        ValueError: A float is infinite or not a number.
    """
    members: dict[str, object] = {"kind": kind, "stored": stored}
    if entries is not None:
        members["bands"] = [entry[:4] for entry in entries]
    if extras:
        members["extras"] = extras
    for part in (stored, extras):
        for name, value in part.items():
            _check_json(printable(name), value)
    return json.dumps(members, separators=(",", ":"), allow_nan=False)


def _check_json(path: str, value: Any) -> None:
    """Refuse values that JSON would lose or change. ``check_value`` has bounded the depth."""
    kind = type(value)
    if kind is float and not math.isfinite(value):
        raise ValueError(
            f"metadata '{path}' is {value}, which JSON cannot hold; set it to None, or keep this patch canonical"
        )
    if kind in _JSON_TYPES:
        return
    if kind is list:
        for index, item in enumerate(value):
            _check_json(f"{path}[{index}]", item)
    elif kind is dict:
        for name, item in value.items():
            _check_json(f"{path}.{printable(name, 40)}", item)
    else:
        raise TypeError(
            f"metadata '{path}' is a {printable(kind.__qualname__)}, but a safetensors value can hold only str, int, "
            "float, bool, None, list and dict; convert it (a tuple or set to a list, a numpy scalar with .item()), "
            "leave it out, or keep this patch canonical"
        )


def refuse_version(name: str) -> NoReturn:
    """Refuse a note of another version."""
    raise PatchFormatError(
        f"the metadata {printable(name)} is unknown, expected {NAME}; a newer ben_secure may read it",
        rule=Rule.PATCH,
    )


def _float(text: str) -> float:
    number = float(text) if len(text) <= _MAX_NUMBER_CHARACTERS else math.inf
    if not math.isfinite(number):
        refuse(f"{printable(text)} is not a finite number")
    return number


def _int(text: str) -> int:
    if len(text) > _MAX_NUMBER_CHARACTERS:
        refuse(f"{printable(text)} is an integer of {len(text)} characters, expected at most {_MAX_NUMBER_CHARACTERS}")
    return int(text)


_DECODER = strict_decoder(_float, _int)
