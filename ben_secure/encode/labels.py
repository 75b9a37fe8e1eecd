"""Parse the label file of a BigEarthNet v1 patch, and derive the metadata of the patch. No file is opened here.

The file ``NAME_labels_metadata.json`` contains the labels of the 43 classes and, for a Sentinel-1 patch, the name of
the Sentinel-2 patch of the same pair. Existing databases store these as ``labels``, and as ``new_labels`` the same
labels in the 19 classes. ``position`` handles position and time. The file is untrusted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ben_secure.encode.position import position_from_label_file
from ben_secure.errors import printable
from ben_secure.labels.nomenclature import BEN_19, TO_19, to_19
from ben_secure.labels.tables import LABEL_COLUMNS

LABEL_FILE_SUFFIX = "_labels_metadata.json"
MAX_FILE_BYTES = 64 * 2**10
"""Maximum size of a label file; the published ones have about 1,100 bytes."""

_19 = frozenset(BEN_19)


@dataclass(frozen=True, slots=True)
class LabelFile:
    """Content of a label file.

    Attributes:
        labels: Labels of the 43 classes, in the order of the file.
        s2_name: For a Sentinel-1 patch, name of the Sentinel-2 patch of the same pair, which is not a path; or None.
        position: Position and acquisition time (see ``position.position_from_label_file``).
    """

    labels: list[str]
    s2_name: str | None
    position: dict[str, object] = field(default_factory=dict)


def parse_label_file(content: bytes) -> LabelFile:
    """Parse a label file.

    Args:
        content: The whole file; untrusted, at most ``MAX_FILE_BYTES``.

    Returns:
        The content.

    Raises:
        ValueError: The file is not a JSON object with a list of known labels, has a duplicate name or label, or is
            nested too deeply.
    """
    try:
        document: object = json.loads(content.decode("utf-8"), object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:  # also text that is not UTF-8, and integers with too many digits
        raise ValueError(f"it is not JSON: {printable(str(error))}") from error
    if type(document) is not dict:
        raise ValueError("it is not a JSON object")
    s2_name = document.get("corresponding_s2_patch")
    if s2_name is not None and type(s2_name) is not str:
        raise ValueError("its corresponding_s2_patch is not a text")
    return LabelFile(_checked(document.get("labels"), TO_19), s2_name, position_from_label_file(document))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a duplicate name")
    return members


def _checked(labels: object, known: Mapping[str, object] | frozenset[str]) -> list[str]:
    if type(labels) is not list:
        raise ValueError("it has no list of labels")
    for index, label in enumerate(labels):
        if type(label) is not str or label not in known:
            raise ValueError(f"the label {printable(label)!r} is not one of the {len(known)} of BigEarthNet")
        if label in labels[:index]:
            raise ValueError(f"the label {printable(label)!r} occurs twice")
    return labels


def metadata_of(label_file: LabelFile | None, row: Mapping[str, object] | None, with_labels: bool) -> dict[str, object]:
    """Make the metadata of a patch.

    Args:
        label_file: Label file of the patch, or None.
        row: Row of the metadata table, or None.
        with_labels: Whether to store labels.

    Returns:
        ``labels`` and ``new_labels`` if labels are stored, then the other columns of the row. ``new_labels`` is None if
        none of the labels belongs to one of the 19 classes, as in existing databases. Labels of BigEarthNet v2, which
        come from the table, already belong to the 19 classes and are stored as both.

    Raises:
        ValueError: ``with_labels`` is set but there are no labels, the labels of the table are not a list of known
            labels, or label file and table disagree.
    """
    columns = {name: value for name, value in (row or {}).items() if name not in LABEL_COLUMNS}
    if not with_labels:
        return columns
    stored: dict[str, object] = {} if label_file is None else _both(label_file.labels)
    table_labels = None if row is None else row.get("labels")
    if table_labels is not None and table_labels != "":  # an empty cell of CSV
        from_table = _from_table(table_labels)
        if stored and stored != from_table:
            raise ValueError("its labels differ between the label file and the metadata table")
        stored = from_table
    if not stored:
        raise ValueError(f"it has no labels: no file ending in {LABEL_FILE_SUFFIX} and no labels in a metadata table")
    return stored | columns


def _from_table(cell: object) -> dict[str, object]:
    """Check the labels in a row. They count as labels of the 43 classes unless all belong to the 19 classes."""
    if type(cell) is not list:
        raise ValueError(
            'the labels in the metadata table are not a list, expected one such as ["Pastures", "Airports"]'
        )
    if all(type(label) is str and label in _19 for label in cell):
        labels = _checked(cell, _19)
        return {"labels": labels, "new_labels": list(labels)}
    return _both(_checked(cell, TO_19))


def _both(labels: list[str]) -> dict[str, object]:
    return {"labels": labels, "new_labels": to_19(labels) or (None if labels else [])}
