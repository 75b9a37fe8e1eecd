"""The labels of a patch, as a multi-hot vector or as names, in either nomenclature.

BigEarthNet v1 has the 43 classes in ``labels`` and the 19 classes in ``new_labels`` (None if no class is among the 19).
BigEarthNet v2 has the 19 classes in ``labels``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ben_secure.errors import PatchFormatError, Rule, printable
from ben_secure.labels.nomenclature import BEN_19, CORINE_43, TO_19

if TYPE_CHECKING:
    import numpy.typing as npt

    Vector: TypeAlias = npt.NDArray[Any]

KINDS = ("multi-hot-19", "multi-hot-43", "names")
"""The forms of labels. None means no labels."""

# A label of the 43 maps to its class among the 19. A name in both nomenclatures has the same meaning in both.
_CLASSES: Mapping[str, Mapping[str, str | None]] = {
    "multi-hot-19": {**TO_19, **{label: label for label in BEN_19}},
    "multi-hot-43": {label: label for label in CORINE_43},
}
_TEXT_ONLY = frozenset({str})


class LabelNames(tuple[str, ...]):
    """The labels of one patch as names.

    It is a type of its own because torch's collation transposes a batch of plain tuples: it would group the first
    labels of all patches, then the second labels, and so on.
    """

    __slots__ = ()


class Labels:
    """Makes the requested form of labels from the metadata of a patch.

    Attributes:
        kind: One of ``KINDS``, or None.
        classes: The classes of a vector in their order. Empty for other kinds.
    """

    def __init__(self, kind: str | None, alphabetical: bool = False, dtype: npt.DTypeLike = np.float32) -> None:
        """Choose a kind.

        Args:
            kind: One of ``KINDS``, or None.
            alphabetical: Whether to sort the classes of a vector by name; otherwise they have the published order.
            dtype: Type of the vectors.

        Raises:
            ValueError: ``kind`` is unknown.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"labels must be None or one of {', '.join(KINDS)}, not {printable(kind)!r}")
        self.kind = kind
        classes: tuple[str, ...] = {"multi-hot-19": BEN_19, "multi-hot-43": CORINE_43}.get(kind or "", ())
        self.classes = tuple(sorted(classes)) if alphabetical else classes
        self._class_numbers = {
            label: None if name is None else self.classes.index(name)
            for label, name in _CLASSES.get(kind or "", {}).items()
        }
        self._dtype = dtype

    def of(self, metadata: Mapping[str, object]) -> Any:
        """Make the labels of a patch.

        Args:
            metadata: Attributes of the patch.

        Returns:
            Vector (19,) or (43,), 1 for each of the patch's classes; or names; or None.

        Raises:
            PatchFormatError: The patch has no labels, they are not a list of strings, or one is not in the
                nomenclature.
        """
        if self.kind is None:
            return None
        name = "new_labels" if self.kind == "multi-hot-19" and "new_labels" in metadata else "labels"
        if name not in metadata:
            raise _refused(
                "the patch has no labels; pass labels=None, labels_from='table' with a table that has them, or encode "
                "the database with labels"
            )
        labels: Any = metadata[name]
        if labels is None and name == "new_labels":  # no class is among the 19
            labels = ()
        if type(labels) not in (list, tuple) or not _TEXT_ONLY.issuperset(map(type, labels)):
            raise _refused(f"{name} of the patch is a {printable(type(labels).__name__)}, expected a list of strings")
        names = LabelNames(labels)
        return names if self.kind == "names" else self._vector(names)

    def _vector(self, names: tuple[str, ...]) -> Vector:
        classes = [0] * len(self.classes)
        for label in names:
            number = self._class_numbers.get(label, -1)
            if number is None:
                continue
            if number < 0:
                raise _refused(f"{printable(label)!r} is not one of the {len(self.classes)} classes")
            classes[number] = 1
        return np.array(classes, self._dtype)  # not cached: all of this takes less than 2 us

    def together(self, labels: list[Any]) -> Any:
        """Labels of several patches: a new array (n, classes), a list of tuples of names, or None."""
        if self.kind is None:
            return None
        if self.kind == "names":
            return labels
        return (
            np.concatenate(labels).reshape(-1, len(self.classes))
            if labels
            else np.zeros((0, len(self.classes)), self._dtype)
        )


class LabelColumn:
    """Labels of patches from a metadata table, in a few bytes for each patch."""

    def __init__(self, rows: Mapping[str, Mapping[str, object]], names: Iterable[str]) -> None:
        """Look up the labels.

        Args:
            rows: The rows of the table by patch name.
            names: Names of the patches.

        Raises:
            ValueError: A patch has no row, or the row has no list of labels.
        """
        numbers: dict[tuple[str, ...], int] = {}
        self._numbers = array("I")
        for name in names:
            cell = rows.get(name, {}).get("labels")
            if type(cell) is not list or not _TEXT_ONLY.issuperset(map(type, cell)):
                raise ValueError(
                    f"the table has no list of labels for the patch {printable(name)}, expected one such as "
                    '["Pastures"]'
                )
            self._numbers.append(numbers.setdefault(tuple(cell), len(numbers)))
        self._labels = list(numbers)

    def __getitem__(self, row: int) -> dict[str, object]:
        return {"labels": self._labels[self._numbers[row]]}


def _refused(message: str) -> PatchFormatError:
    return PatchFormatError(message, rule=Rule.PATCH)
