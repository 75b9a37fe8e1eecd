"""The labels of a patch as a vector or as names; knows the two nomenclatures and no pixel.

Archives of version 1 have the 43 classes in ``labels`` and the 19 in ``new_labels`` (None if all were dropped);
those of version 2 have the 19 in ``labels``.
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
"""The forms of labels, in addition to None for no labels."""

# A label of the 43 counts for its class of the 19; those that are in both nomenclatures mean the same in both.
_CLASSES: Mapping[str, Mapping[str, str | None]] = {
    "multi-hot-19": {**TO_19, **{label: label for label in BEN_19}},
    "multi-hot-43": {label: label for label in CORINE_43},
}
_TEXT_ONLY = frozenset({str})


class LabelNames(tuple[str, ...]):
    """The labels of one patch as names.

    A type of its own, since torch turns plain tuples of a batch round: the first labels of all patches, the second...
    """

    __slots__ = ()


class Labels:
    """Makes of a patch's metadata what the caller asked for.

    Attributes:
        kind: One of ``KINDS``, or None.
        classes: The classes of a vector in their order; empty for other kinds.
    """

    def __init__(self, kind: str | None, alphabetical: bool = False, dtype: npt.DTypeLike = np.float32) -> None:
        """Choose a kind.

        Args:
            kind: One of ``KINDS``, or None.
            alphabetical: Whether the classes of a vector come by the alphabet, and not in their published order.
            dtype: Of vectors.

        Raises:
            ValueError: There is no such kind.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"labels must be None or one of {', '.join(KINDS)}, not {printable(kind)!r}")
        self.kind = kind
        classes: tuple[str, ...] = {"multi-hot-19": BEN_19, "multi-hot-43": CORINE_43}.get(kind or "", ())
        self.classes = tuple(sorted(classes)) if alphabetical else classes
        self._places = {
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
            PatchFormatError: There are none, they are not a list of texts, or one is not of the nomenclature.
        """
        if self.kind is None:
            return None
        name = "new_labels" if self.kind == "multi-hot-19" and "new_labels" in metadata else "labels"
        if name not in metadata:
            raise _refused(
                "the patch has no labels; pass labels=None, labels_from='table' with a table that has them, or encode "
                "the database with labels"
            )
        found: Any = metadata[name]
        if found is None and name == "new_labels":  # none of the patch's classes is among the 19
            found = ()
        if type(found) not in (list, tuple) or not _TEXT_ONLY.issuperset(map(type, found)):
            raise _refused(f"{name} of the patch is a {printable(type(found).__name__)}, expected a list of texts")
        names = LabelNames(found)
        return names if self.kind == "names" else self._vector(names)

    def _vector(self, names: tuple[str, ...]) -> Vector:
        classes = [0] * len(self.classes)
        for label in names:
            place = self._places.get(label, -1)
            if place is None:
                continue
            if place < 0:
                raise _refused(f"{printable(label)!r} is not one of the {len(self.classes)} classes")
            classes[place] = 1
        return np.array(classes, self._dtype)  # it all takes less than 2 us: nothing is remembered

    def together(self, labels: list[Any]) -> Any:
        """Labels of several patches: new vectors (n, classes); or a list of tuples of names; or None."""
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
    """Labels of patches as a table has them, in a few bytes a patch."""

    def __init__(self, rows: Mapping[str, Mapping[str, object]], names: Iterable[str]) -> None:
        """Look the patches up.

        Args:
            rows: The rows of the table by patch name.
            names: Names of the patches.

        Raises:
            ValueError: A patch has no row, or no list of labels in it.
        """
        places: dict[tuple[str, ...], int] = {}
        self._places = array("I")
        for name in names:
            cell = rows.get(name, {}).get("labels")
            if type(cell) is not list or not _TEXT_ONLY.issuperset(map(type, cell)):
                raise ValueError(
                    f"the table has no list of labels for the patch {printable(name)}, expected one such as "
                    '["Pastures"]'
                )
            self._places.append(places.setdefault(tuple(cell), len(places)))
        self._labels = list(places)

    def __getitem__(self, row: int) -> dict[str, object]:
        return {"labels": self._labels[self._places[row]]}


def _refused(message: str) -> PatchFormatError:
    return PatchFormatError(message, rule=Rule.PATCH)
