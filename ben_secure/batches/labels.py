"""The labels of a patch as a vector or as names; knows the two nomenclatures and no pixel.

Archives of version 1 have the 43 classes in ``labels`` and the 19 in ``new_labels`` (None if all were dropped);
those of version 2 have the 19 in ``labels``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ben_secure.errors import PatchFormatError, Rule, printable
from ben_secure.nomenclature import BEN_19, CORINE_43, TO_19

if TYPE_CHECKING:
    import numpy.typing as npt

    Float32: TypeAlias = npt.NDArray[np.float32]

KINDS = ("multi-hot-19", "multi-hot-43", "names")
"""The forms that labels come in, besides None for none."""

_PLACES_19 = {label: BEN_19.index(label) for label in BEN_19}
# A label of the 43 counts for its class of the 19; those that are in both nomenclatures mean the same in both.
_PLACES: Mapping[str, Mapping[str, int | None]] = {
    "multi-hot-19": {**{old: None if new is None else _PLACES_19[new] for old, new in TO_19.items()}, **_PLACES_19},
    "multi-hot-43": {label: place for place, label in enumerate(CORINE_43)},
}
_MAX_KNOWN = 4096  # BigEarthNet has some 3,000 different sets of labels


class Labels:
    """Makes of a patch's metadata what the caller asked for.

    Attributes:
        kind: One of ``KINDS``, or None.
        classes: The classes of a vector in their order; empty for other kinds.
    """

    def __init__(self, kind: str | None) -> None:
        """Choose a kind.

        Raises:
            ValueError: There is no such kind.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"labels must be None or one of {', '.join(KINDS)}, not {printable(kind)!r}")
        self.kind = kind
        self.classes = {"multi-hot-19": BEN_19, "multi-hot-43": CORINE_43}.get(kind or "", ())
        self._known: dict[tuple[str, ...], Float32] = {}

    def names(self, metadata: Mapping[str, object]) -> tuple[str, ...]:
        """Find the labels of a patch as they are stored.

        Args:
            metadata: Attributes of the patch.

        Returns:
            ``new_labels`` for ``multi-hot-19`` if there are any, otherwise ``labels``.

        Raises:
            PatchFormatError: There are none, or they are not a list of texts.
        """
        name = "new_labels" if self.kind == "multi-hot-19" and "new_labels" in metadata else "labels"
        if name not in metadata:
            raise _refused("the patch has no labels; pass labels=None, or encode the archive with labels")
        found = metadata[name]
        if found is None and name == "new_labels":  # none of the patch's classes is among the 19
            return ()
        if not isinstance(found, list | tuple) or not all(isinstance(label, str) for label in found):
            raise _refused(f"{name} of the patch is a {printable(type(found).__name__)}, expected a list of texts")
        return tuple(found)

    def vector(self, metadata: Mapping[str, object]) -> Float32:
        """Make the multi-hot vector of a patch.

        Args:
            metadata: Attributes of the patch.

        Returns:
            float32 (19,) or (43,), 1 for each of the patch's classes; not to be written to.

        Raises:
            PatchFormatError: As ``names``, or a label is not of the nomenclature.
        """
        names = self.names(metadata)
        vector = self._known.get(names)
        if vector is None:
            vector = np.zeros(len(self.classes), np.float32)
            places = _PLACES[self.kind or ""]
            for label in names:
                if label not in places:
                    raise _refused(f"{printable(label)!r} is not one of the {len(self.classes)} classes")
                place = places[label]
                if place is not None:
                    vector[place] = 1
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[names] = vector
        return vector

    def of(self, patches: Sequence[Mapping[str, object]]) -> Float32 | list[tuple[str, ...]]:
        """Labels of several patches: float32 (n, classes), or their names."""
        if self.kind == "names":
            return [self.names(metadata) for metadata in patches]
        return np.stack([self.vector(metadata) for metadata in patches])


def _refused(message: str) -> PatchFormatError:
    return PatchFormatError(message, rule=Rule.PATCH)
