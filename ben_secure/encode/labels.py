"""The label file of a BigEarthNet v1 patch, and what metadata come of it: data in, data out, no file opened.

The file ``NAME_labels_metadata.json`` holds the labels of the 43 classes and, for a Sentinel-1 patch, the name of its
Sentinel-2 twin. Archives of the field store ``labels`` as they are and ``new_labels``, the same in the 19 classes;
what it says of place and time is ``place``'s. The file is untrusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ben_secure.encode.place import place_of_document
from ben_secure.errors import printable
from ben_secure.labels.nomenclature import BEN_19, TO_19, to_19
from ben_secure.labels.tables import LABEL_COLUMNS

LABEL_FILE_SUFFIX = "_labels_metadata.json"
MAX_FILE_BYTES = 64 * 2**10
"""Bytes of one label file; the published ones have some 1,100."""

_19 = frozenset(BEN_19)


@dataclass(frozen=True, slots=True)
class LabelFile:
    """What a label file says.

    Attributes:
        labels: Labels of the 43 classes, in the order of the file.
        s2_name: Name of the Sentinel-2 twin, which a Sentinel-1 patch's file has; not a path.
        place: Where the patch is and when it was taken (see ``place.place_of_document``).
    """

    labels: list[str]
    s2_name: str | None
    place: dict[str, object] = field(default_factory=dict)


def parse_label_file(content: bytes) -> LabelFile:
    """Read a label file.

    Args:
        content: The whole file; hostile, at most ``MAX_FILE_BYTES``.

    Returns:
        Its labels, and the name of the twin if it has one.

    Raises:
        ValueError: It is no JSON object with a list of known labels, says something twice, or is nested too deep.
    """
    try:
        found: object = json.loads(content.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:  # also of text that is not UTF-8, and of integers with too many digits
        raise ValueError(f"it is no JSON: {printable(str(error))}") from error
    if type(found) is not dict:
        raise ValueError("it is no JSON object")
    s2_name = found.get("corresponding_s2_patch")
    if s2_name is not None and type(s2_name) is not str:
        raise ValueError("its corresponding_s2_patch is no text")
    return LabelFile(_checked(found.get("labels"), TO_19), s2_name, place_of_document(found))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("an object has one name twice")
    return made


def _checked(labels: object, known: Mapping[str, object] | frozenset[str]) -> list[str]:
    if type(labels) is not list:
        raise ValueError("it has no list of labels")
    for place, label in enumerate(labels):
        if type(label) is not str or label not in known:
            raise ValueError(f"the label {printable(label)!r} is none of the {len(known)} of BigEarthNet")
        if label in labels[:place]:
            raise ValueError(f"the label {printable(label)!r} is there twice")
    return labels


def metadata_of(label_file: LabelFile | None, row: Mapping[str, object] | None, with_labels: bool) -> dict[str, object]:
    """Decide on the metadata of a patch.

    Args:
        label_file: Its label file, if it has one.
        row: Its row of the metadata table, if there is a table.
        with_labels: Whether labels are stored at all.

    Returns:
        ``labels`` and ``new_labels`` if they are wanted, then the other columns of the row. ``new_labels`` is None if
        there are labels and all are dropped by the 19 classes, as in archives of the field. Labels of BigEarthNet v2,
        which come from the table, are of the 19 already and are stored as both.

    Raises:
        ValueError: Labels are wanted and there are none, the table's are no list of known labels, or label file and
            table disagree.
    """
    columns = {name: value for name, value in (row or {}).items() if name not in LABEL_COLUMNS}
    if not with_labels:
        return columns
    stored: dict[str, object] = {} if label_file is None else _both(label_file.labels)
    given = None if row is None else row.get("labels")
    if given is not None:
        from_table = _from_table(given)
        if stored and stored != from_table:
            raise ValueError("the label file and the metadata table give it different labels")
        stored = from_table
    if not stored:
        raise ValueError(f"it has no labels: no file ending in {LABEL_FILE_SUFFIX} and no labels in a metadata table")
    return stored | columns


def _from_table(given: object) -> dict[str, object]:
    """Labels of a table's row: of the 19 classes if all are, otherwise of the 43."""
    if type(given) is not list:
        raise ValueError('the labels in the metadata table are no list, expected one such as ["Pastures", "Airports"]')
    if all(type(label) is str and label in _19 for label in given):
        labels = _checked(given, _19)
        return {"labels": labels, "new_labels": list(labels)}
    return _both(_checked(given, TO_19))


def _both(labels: list[str]) -> dict[str, object]:
    return {"labels": labels, "new_labels": to_19(labels) or (None if labels else [])}
