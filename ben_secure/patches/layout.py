"""The position of each band of a patch in its pixel buffer.

A layout computes positions and holds no pixels. Its arguments can come from a payload and are hostile: exact types,
bounds and consistency with the band tables are checked before anything is computed. A wrong argument raises
``ValueError`` or ``TypeError``, which the loader turns into its own errors. Nothing is allocated: a layout only states
the number of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from weakref import WeakValueDictionary

import numpy as np

from ben_secure.bands import BAND_CLASSES, BANDS, PIXEL_DTYPES, STORAGE_ORDER, BandSpec, natural_key
from ben_secure.errors import printable
from ben_secure.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    import numpy.typing as npt

    PixelArray: TypeAlias = npt.NDArray[np.number[Any]]

Entry: TypeAlias = tuple[str | None, str, str, int, int, int, str]
"""One band of a generic patch: attribute, band class, name, resolution_m, height, width, dtype.str."""

GENERIC = "BigEarthNetPatch"
"""The kind of patches that list their own bands. ``STANDARD_KINDS`` has the bands of the other kinds."""

STANDARD_KINDS: Mapping[str, tuple[tuple[BandSpec, ...], ...]] = MappingProxyType(
    {
        "BigEarthNet_S1_Patch": (STORAGE_ORDER[12:],),
        "BigEarthNet_S2_Patch": (STORAGE_ORDER[:12],),
        "BigEarthNet_S1_S2_Patch": (STORAGE_ORDER[:12], STORAGE_ORDER[12:]),
    }
)
"""For each patch class with fixed bands: its bands in storage order, one group for each sensor."""

# Longest honest dtype list: 14 codes of four characters ("<c16") and 13 commas.
_MAX_DTYPES_CHARACTERS = 69


class BandSlot(NamedTuple):
    """The position of one band.

    Attributes:
        attribute: Name of the patch attribute that holds the band (``band8A``), or None.
        band_class: Name of one of the five band classes.
        name: Band name.
        resolution_m: Metres along one side of a pixel.
        shape: Rows and columns.
        dtype: Dtype of the pixels, including its byte order.
        offset: First byte in the buffer; a multiple of the dtype's itemsize.
    """

    attribute: str | None
    band_class: str
    name: str
    resolution_m: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the band."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def view(self, pixels: bytearray | memoryview) -> PixelArray:
        """Return the band as a writable array over the buffer, without a copy."""
        return np.ndarray(self.shape, self.dtype, pixels, self.offset)


class Run(NamedTuple):
    """Contiguous bands of one shape and dtype: the arguments of one stacked view."""

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    offset: int


def run_of(slots: Sequence[BandSlot]) -> Run | None:
    """Find the one view that stacks these bands in this order.

    Args:
        slots: Bands of one layout, at least one.

    Returns:
        The view, of shape (n, rows, columns), or None if stacking requires a copy: the bands are not contiguous, or
        differ in dtype or shape.
    """
    first = slots[0]
    for index, slot in enumerate(slots):
        if slot.shape != first.shape or slot.dtype != first.dtype or slot.offset != first.offset + index * first.nbytes:
            return None
    return Run((len(slots), *first.shape), first.dtype, first.offset)


class Layout:
    """The positions of all bands of a patch. It is immutable, and patches share it.

    Only ``Layout.standard``, ``Layout.generic`` and ``Layout.parse`` make layouts, and always
    ``Layout.parse(layout.kind, layout.encoded) == layout``.

    Attributes:
        kind: Name of the patch class whose bands these are.
        encoded: The layout in a canonical value: str for a standard kind, tuple of entries otherwise.
        slots: The bands in storage order.
        nbytes: Length of the buffer.
        natural: The bands in natural order.
        by_name: Bands by name.
        by_attribute: Bands by attribute.
        by_resolution: Bands in natural order by resolution_m.
        runs: For each resolution_m the view that stacks its bands in natural order, or None if this requires a copy.
        gaps: Unused bytes between bands as (start, stop). They must be zero.
        names: All band names and attributes. Metadata may not use them.
    """

    __slots__ = (
        "__weakref__",
        "by_attribute",
        "by_name",
        "by_resolution",
        "encoded",
        "gaps",
        "kind",
        "names",
        "natural",
        "nbytes",
        "runs",
        "slots",
    )  # fmt: skip

    def __init__(self, kind: str, encoded: str | tuple[Entry, ...], entries: Iterable[Entry]) -> None:
        slots, gaps, end = [], [], 0
        for attribute, band_class, name, resolution_m, height, width, dtype_str in entries:
            dtype = np.dtype(dtype_str)
            offset = -(-end // dtype.itemsize) * dtype.itemsize
            if offset > end:
                gaps.append((end, offset))
            slots.append(BandSlot(attribute, band_class, name, resolution_m, (height, width), dtype, offset))
            end = offset + slots[-1].nbytes
        self.kind = kind
        self.encoded = encoded
        self.slots = tuple(slots)
        self.nbytes = end
        self.gaps = tuple(gaps)
        self.natural = tuple(sorted(slots, key=lambda slot: natural_key(slot.name)))
        self.by_name: Mapping[str, BandSlot] = MappingProxyType({slot.name: slot for slot in slots})
        self.by_attribute: Mapping[str, BandSlot] = MappingProxyType(
            {slot.attribute: slot for slot in slots if slot.attribute is not None}
        )
        groups: dict[int, tuple[BandSlot, ...]] = {}
        for slot in self.natural:
            groups[slot.resolution_m] = (*groups.get(slot.resolution_m, ()), slot)
        self.by_resolution: Mapping[int, tuple[BandSlot, ...]] = MappingProxyType(groups)
        self.runs: Mapping[int, Run | None] = MappingProxyType(
            {metres: run_of(group) for metres, group in groups.items()}
        )
        self.names = frozenset((*self.by_name, *self.by_attribute))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Layout):
            return NotImplemented
        return self is other or (self.kind == other.kind and self.encoded == other.encoded)

    def __hash__(self) -> int:
        return hash((self.kind, self.encoded))

    def __repr__(self) -> str:
        return f"Layout({self.kind}, {self.encoded!r})"

    @staticmethod
    def parse(kind: str, encoded: object, limits: Limits = DEFAULT_LIMITS) -> Layout:
        """Parse the layout in a canonical value.

        Args:
            kind: ``BigEarthNetPatch`` or a key of ``STANDARD_KINDS``.
            encoded: str of dtypes for a standard kind, tuple of entries for ``BigEarthNetPatch`` (hostile).
            limits: Bounds on the number of bands and their sides.

        Returns:
            The layout.

        Raises:
            TypeError: An item of ``encoded`` has another type than required.
            ValueError: ``encoded`` is out of bounds, contradicts the band tables or is not in the canonical form.
        """
        layout = Layout.generic(encoded, limits) if kind == GENERIC else Layout.standard(kind, encoded)
        if len(layout.slots) > limits.max_bands:
            raise ValueError(f"{len(layout.slots)} bands exceed the limit of {limits.max_bands}")
        return layout

    @staticmethod
    def standard(kind: str, dtypes: object) -> Layout:
        """Make the layout of a patch class with fixed bands.

        Args:
            kind: A key of ``STANDARD_KINDS``.
            dtypes: ``dtype.str`` joined by commas: one for each sensor if all its bands agree ("<u2", "<u2,<f4"),
                otherwise one for each band in storage order. Only the shortest form is accepted. Hostile.

        Returns:
            The layout. Equal arguments usually give the same object.

        Raises:
            TypeError: ``dtypes`` is not exactly a str.
            ValueError: The kind is unknown, a dtype cannot be that of pixels, there are too few or too many, or a
                shorter form exists.
        """
        if type(dtypes) is not str:
            raise TypeError(f"the dtypes of a {kind} must be a str, not {type(dtypes).__name__}")
        if len(dtypes) > _MAX_DTYPES_CHARACTERS:
            raise ValueError(
                f"the dtypes of a {kind} take at most {_MAX_DTYPES_CHARACTERS} characters, not {len(dtypes)}"
            )
        return _standard(kind, dtypes)

    @staticmethod
    def generic(entries: object, limits: Limits = DEFAULT_LIMITS) -> Layout:
        """Make the layout of a patch that lists its own bands.

        Args:
            entries: Tuple of ``Entry``, in storage order (hostile).
            limits: Bounds on the number of bands and their sides.

        Returns:
            The layout. Equal arguments usually give the same object.

        Raises:
            TypeError: An item has another type than required.
            ValueError: There is no band or there are too many; a name or attribute is taken or not allowed; a side or
                resolution is out of bounds; a dtype cannot be that of pixels; or an entry contradicts the band tables.
        """
        if type(entries) is not tuple:
            raise TypeError(f"the layout of a generic patch must be a tuple, not {type(entries).__name__}")
        if not 1 <= len(entries) <= limits.max_bands:
            raise ValueError(f"a patch must have 1 to {limits.max_bands} bands, not {len(entries)}")
        seen: set[str] = set()
        for entry in entries:
            _check_entry(entry, limits)
            for label in (f"band {entry[2]}", f"attribute {entry[0]}"):
                if label in seen and label != "attribute None":
                    raise ValueError(f"{printable(label)} occurs twice; each name may be used once")
                seen.add(label)
        # After the check of exact types, because True would find the cached layout of 1.
        return _generic(entries)

    @staticmethod
    def canonical_dtypes(kind: str, dtypes: Sequence[str]) -> str:
        """Write the dtypes of a standard kind in the canonical form.

        Args:
            kind: A key of ``STANDARD_KINDS``.
            dtypes: ``dtype.str`` of each band in storage order.

        Returns:
            The argument for ``Layout.standard``.
        """
        uniform = []
        start = 0
        for group in STANDARD_KINDS[kind]:
            uniform.append(set(dtypes[start : start + len(group)]))
            start += len(group)
        if all(len(codes) == 1 for codes in uniform):
            return ",".join(codes.pop() for codes in uniform)
        return ",".join(dtypes)

    def gather(self, arrays: Iterable[PixelArray]) -> bytearray:
        """Copy bands into one new buffer.

        Args:
            arrays: One array for each slot, in storage order, of exactly the slot's shape and dtype.

        Returns:
            The buffer, of ``nbytes`` bytes, with zeros in the gaps.
        """
        pixels = bytearray(self.nbytes)
        for slot, array in zip(self.slots, arrays, strict=True):
            slot.view(pixels)[...] = array
        return pixels


# Layouts in use. Equal layouts are one object, which patches and templates share.
_alive: WeakValueDictionary[object, Layout] = WeakValueDictionary()


@lru_cache(maxsize=32)  # about 10 kB each
def _standard(kind: str, dtypes: str) -> Layout:
    groups = STANDARD_KINDS.get(kind)
    if groups is None:
        raise ValueError(f"no patch class {printable(kind)} has fixed bands; known: {', '.join(STANDARD_KINDS)}")
    codes = dtypes.split(",")
    for code in codes:
        _check_dtype(code)
    bands = [band for group in groups for band in group]
    if len(codes) == len(groups):
        codes = [code for code, group in zip(codes, groups, strict=True) for _ in group]
    if len(codes) != len(bands):
        raise ValueError(f"{kind} takes {len(groups)} or {len(bands)} dtypes, not {len(codes)}")
    if Layout.canonical_dtypes(kind, codes) != dtypes:
        raise ValueError(
            f"{printable(dtypes)} has the shorter form {Layout.canonical_dtypes(kind, codes)}; use that one"
        )
    entries = tuple(
        (band.attribute, band.band_class, band.name, band.resolution_m, band.side, band.side, code)
        for band, code in zip(bands, codes, strict=True)
    )
    return _alive.get((kind, dtypes)) or _alive.setdefault((kind, dtypes), Layout(kind, dtypes, entries))


@lru_cache(maxsize=8)  # at most 64 bands with names of 256 characters: about 100 kB each
def _generic(entries: tuple[Entry, ...]) -> Layout:
    return _alive.get(entries) or _alive.setdefault(entries, Layout(GENERIC, entries, entries))


def _check_dtype(code: str) -> None:
    if code not in PIXEL_DTYPES:
        raise ValueError(
            f"dtype {printable(code)} cannot be that of pixels; admitted: {' '.join(sorted(PIXEL_DTYPES))}"
        )


def _check_entry(entry: object, limits: Limits) -> None:
    """Check one band of a generic layout. Raises like ``Layout.generic``."""
    if type(entry) is not tuple or len(entry) != 7:
        raise TypeError(f"a band of a generic layout must be a tuple of 7 items, not {printable(type(entry).__name__)}")
    attribute, band_class, name, resolution_m, height, width, code = entry
    if [type(item) for item in entry[1:]] != [str, str, int, int, int, str] or type(attribute) not in (str, type(None)):
        raise TypeError(
            "a band of a generic layout must be (attribute or None, band class, name, resolution, height, width, "
            f"dtype), not ({', '.join(type(item).__name__ for item in entry)})"
        )
    if not 1 <= len(name) <= limits.max_name_characters or not name.isprintable():
        raise ValueError(
            f"band name {printable(name)!r} must be 1 to {limits.max_name_characters} printable characters"
        )
    if attribute is not None and (
        len(attribute) > limits.max_name_characters or not attribute.isidentifier() or attribute.startswith("_")
    ):
        raise ValueError(
            f"attribute {printable(attribute)!r} of band {printable(name)} must be an identifier that does not begin "
            "with _"
        )
    # The bound on metres only keeps later numbers small.
    if not (1 <= height <= limits.max_side and 1 <= width <= limits.max_side and 1 <= resolution_m < 2**31):
        raise ValueError(
            f"band {printable(name)}: {printable(height)} x {printable(width)} pixels at {printable(resolution_m)} m "
            f"are out of bounds; a side has 1 to {limits.max_side} pixels"
        )
    _check_dtype(code)
    if band_class not in BAND_CLASSES:
        raise ValueError(f"band class {printable(band_class)} is unknown; known: {', '.join(BAND_CLASSES)}")
    if band_class != "Band":
        spec = BANDS.get(name)
        if spec is None or spec.band_class != band_class or (resolution_m, height, width) != (
            spec.resolution_m, spec.side, spec.side
        ):  # fmt: skip
            raise ValueError(
                f"{band_class} cannot hold {printable(name)} with {height} x {width} pixels at {resolution_m} m; it "
                f"admits {', '.join(f'{band.name} ({band.side} x {band.side})' for band in BAND_CLASSES[band_class])}"
            )
