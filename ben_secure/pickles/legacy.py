"""The patch that the records of bigearthnet_patch_interface describe.

All generations have the same parts under different names: interface 0.1.0 keeps the list of bands as ``bands``, 0.1.2
as ``_bands``. The private state of a band is that of pydantic 1 or 2. Every part must have the form that its writer
makes, even if nothing reads it afterwards. No shape, name or order in the payload is trusted.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ben_secure.bands import PIXEL_DTYPES, natural_key
from ben_secure.errors import PatchFormatError, Rule, printable
from ben_secure.limits import Limits
from ben_secure.metadata import equal
from ben_secure.patches.layout import GENERIC, STANDARD_KINDS, Entry, Layout
from ben_secure.patches.parts import kind_of, rebuild
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.pickles import records
from ben_secure.pickles.arrays import Source, array_parts, in_native_order
from ben_secure.pickles.names import BAND_CLASSES
from ben_secure.pickles.records import Record, is_record

_FIELDS = ("name", "spatial_resolution", "data_shape", "data")
_PYDANTIC_1 = ("__dict__", "__fields_set__", "__private_attribute_values__")
_PYDANTIC_2 = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")
# Required fields of a constructor. The classes of BigEarthNet have defaults for the others.
_REQUIRED = {name: frozenset(_FIELDS if name == "Band" else ("name", "data")) for name in BAND_CLASSES}
_ITEM_BYTES = {code: np.dtype(code).itemsize for code in PIXEL_DTYPES}
_MERGED = "BigEarthNet_S1_S2_Patch"
_INNER = (("s2_patch", "BigEarthNet_S2_Patch"), ("s1_patch", "BigEarthNet_S1_Patch"))
_SLOTS = {
    kind: [(b.attribute, (b.band_class, b.name, b.resolution_m, b.shape)) for group in groups for b in group]
    for kind, groups in STANDARD_KINDS.items()
}
"""For each patch class with fixed bands, in storage order: attribute; class, name, resolution_m and shape."""
_NATURAL = {
    kind: operator.itemgetter(*sorted(range(len(slots)), key=lambda index: natural_key(slots[index][1][1])))
    for kind, slots in _SLOTS.items()
}
"""Rearranges bands from storage order to the order in which the original lists them."""


class BandFacts(NamedTuple):
    """The facts about a band, computed from its record alone.

    Attributes:
        identity: Band class, name, resolution_m, (rows, columns).
        code: ``dtype.str`` of the pixels.
        data: The pixels: a block or a few bytes.
        fortran: Whether they are stored column by column.
        array: The record of the array.
    """

    identity: tuple[str, str, int, tuple[int, int]]
    code: str
    data: Any
    fortran: bool
    array: Record

    @property
    def differs(self) -> bool:
        """Whether the original package may return bytes that differ from the stored ones."""
        return self.fortran or self.code[0] == ">"

    def pixels(self, source: Source) -> tuple[str, Any]:
        """Return dtype and pixels, row by row, as in the original package; uncopied if possible."""
        if not self.differs:
            return self.code, self.data
        array = np.frombuffer(source.raw(self.data), self.code)
        array = in_native_order(self.array, array.reshape(self.identity[3], order="F" if self.fortran else "C"))
        return array.dtype.str, array.tobytes("C")


def _refuse(message: str) -> NoReturn:
    raise PatchFormatError(f"not a valid patch: {message}; ask the publisher of the value", rule=Rule.PATCH)


def band_facts(band: Any) -> BandFacts:
    """Check a finished band record, except for its position in the patch.

    Raises:
        PatchFormatError: The record is not a band as written by pydantic 1 or 2, or its array cannot be pixels.
    """
    if not is_record(band, *BAND_CLASSES):
        _refuse(f"one of its bands is a {records.kind_of(band)}")
    fields = _fields(band.name.name, band.state)
    name, metres, claimed = fields["name"], fields["spatial_resolution"], fields["data_shape"]
    shape, code, fortran, data = array_parts(fields["data"])
    if type(name) is not str or type(metres) is not int or not _is_shape(shape) or not _is_shape(claimed):
        _refuse(f"one of its bands is {_described(name, metres, shape)}, expected rows and columns")
    if claimed != shape:
        _refuse(f"one of its bands is {_described(name, metres, shape)} (claimed: {printable(claimed)})")
    if code not in _ITEM_BYTES:
        _refuse(f"a band has dtype {printable(code)}, which pixels cannot have")
    count, item_bytes = shape[0] * shape[1], _ITEM_BYTES[code]
    if type(data) is list or len(data) != count * item_bytes:
        _refuse(f"band {printable(name)} does not have {count} pixels of {item_bytes} bytes")
    return BandFacts((band.name.name, name, metres, shape), code, data, fortran, fields["data"])


def _fields(band_class: str, state: Any) -> dict[str, Any]:
    """Return the four fields of a band, if all of its state could be written by pydantic."""
    keys = tuple(state) if type(state) is dict else ()
    if keys == _PYDANTIC_1:
        private = state["__private_attribute_values__"]
        fields_set, honest = state["__fields_set__"], type(private) is dict and not private
    elif keys == _PYDANTIC_2:
        fields_set = state["__pydantic_fields_set__"]
        honest = state["__pydantic_extra__"] is None and state["__pydantic_private__"] is None
    else:
        _refuse(f"the state of a {band_class} is not that of pydantic 1 or 2")
    fields: dict[str, Any] = state["__dict__"]
    if type(fields) is not dict or tuple(fields) != _FIELDS:
        _refuse(f"a {band_class} does not have the fields {', '.join(_FIELDS)}, in this order")
    if not honest or type(fields_set) is not set or not (_REQUIRED[band_class] <= fields_set <= _REQUIRED["Band"]):
        _refuse(f"the private state of a {band_class} is not one that pydantic writes")
    return fields


def _is_shape(shape: object) -> bool:
    return type(shape) is tuple and [*map(type, shape)] == [int, int] and min(shape) > 0


def _described(name: object, metres: object, shape: object) -> str:
    return f"{printable(name)} at {printable(metres)} m with {printable(shape)} pixels"


class Legacy:
    """Builds one patch.

    Args:
        source: The bytes of the value.
        limits: Bounds on bands and metadata.
        known: ``band_facts`` of finished records that stay alive, by identity. They are not checked again.

    Attributes:
        parts: After ``patch``: its stored pixels in its order, or None if they are not exactly the blocks.
    """

    def __init__(self, source: Source, limits: Limits, known: Mapping[int, BandFacts]) -> None:
        self._source = source
        self._limits = limits
        self._known = known
        self.parts: list[Any] | None = None

    def patch(self, record: Record, cls: type[BigEarthNetPatch]) -> BigEarthNetPatch:
        """Build the patch of the original package from its finished record, on one new buffer.

        Raises:
            PatchFormatError: A band is missing, duplicated, swapped or of another shape, a part has another type, or
                the metadata is not plain data.
            TypeError: As ``patches.rebuild``.
            ValueError: As ``patches.rebuild``.
        """
        kind, rest, parts = kind_of(cls), _state(record), None
        layout: str | tuple[Entry, ...]
        pixels: bytearray | memoryview
        if kind == GENERIC:
            layout, pixels = self._listed_bands(rest)
        else:
            bands = self._merged(rest) if kind == _MERGED else self._fixed(kind, rest)
            _check_list(kind, rest, bands)
            pixels_of = [facts.pixels(self._source) for _, facts in bands]
            layout = Layout.canonical_dtypes(kind, [code for code, _ in pixels_of])
            parts = [part for _, part in pixels_of]
            pixels = self._source.joined(parts)
        stored = rest.pop("__stored_args__", None)
        if type(stored) is not dict:
            _refuse(f"its __stored_args__ are a {records.kind_of(stored)}, not a dict")
        extras = _extras(rest, stored)
        self.parts = parts if extras is None else None
        return rebuild(cls, layout, pixels, self._source.metadata(stored), self._source.metadata(extras), self._limits)

    def _fixed(self, kind: str, rest: dict[str, Any]) -> list[tuple[Record, BandFacts]]:
        """Remove the bands of a patch class with fixed bands from its state, and return them in storage order."""
        bands = []
        for attribute, expected in _SLOTS[kind]:
            band = rest.pop(attribute, None)
            facts = self._known.get(id(band))
            if facts is None and not is_record(band, expected[0]):
                _refuse(f"{attribute} of a {kind} is a {records.kind_of(band)}, not a {expected[0]}")
            facts = facts or band_facts(band)
            if facts.identity != expected:
                _refuse(f"{attribute} is not {_described(*expected[1:])} but {_described(*facts.identity[1:])}")
            bands.append((band, facts))
        return bands

    def _merged(self, rest: dict[str, Any]) -> list[tuple[Record, BandFacts]]:
        """Remove and return the bands of an S1+S2 patch, which are the bands of its two inner patches."""
        bands = []
        for attribute, kind in _INNER:
            inner = rest.pop(attribute, None)
            if not is_record(inner, kind):
                _refuse(f"its {attribute} is a {records.kind_of(inner)}, not a {kind}")
            inner_rest = _state(inner)
            own = self._fixed(kind, inner_rest)
            _check_list(kind, inner_rest, own)
            if inner_rest.pop("__stored_args__", None) != {} or inner_rest:
                _refuse(f"its {attribute} has metadata of its own")
            bands += own
        return bands

    def _listed_bands(self, rest: dict[str, Any]) -> tuple[tuple[Entry, ...], bytearray]:
        """Remove the bands of a generic patch from its state. Return its layout entries and pixels."""
        listed = _list_of_bands(rest)
        attributes = {id(value): name for name, value in rest.items() if is_record(value, *BAND_CLASSES)}
        if len(listed) > self._limits.max_bands:
            _refuse(f"it has {len(listed)} bands, at most {self._limits.max_bands} are allowed")
        entries: list[Entry] = []
        pixels = bytearray()
        for band in listed:
            facts = self._known.get(id(band)) or band_facts(band)
            code, part = facts.pixels(self._source)
            attribute = attributes.pop(id(band), None)
            if attribute is not None:
                del rest[attribute]
            pixels += bytes(-len(pixels) % _ITEM_BYTES[code])
            if len(pixels) + len(part) > self._limits.max_value_bytes:  # many bands may share one array
                _refuse(f"its bands have more than {self._limits.max_value_bytes} bytes")
            pixels += self._source.raw(part)
            band_class, name, metres, shape = facts.identity
            entries.append((attribute, band_class, name, metres, *shape, code))
        if attributes:
            _refuse(f"{printable(next(iter(attributes.values())))} is a band that is not in its list of bands")
        return tuple(entries), pixels


def _state(record: Record) -> dict[str, Any]:
    if type(record.state) is not dict:
        _refuse(f"a {record.name.name} has a {records.kind_of(record.state)} for its state, not a dict")
    return dict(record.state)


def _extras(rest: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any] | None:
    """Return the attributes that are not stored arguments. Each stored argument must be an attribute."""
    for name, value in stored.items():
        if name not in rest:
            _refuse(f"the metadata {printable(name)} is stored but not an attribute")
        # The pickler shares objects by identity, but writes a number twice.
        if rest[name] is value or (type(value) in (int, float) and equal(rest[name], value)):
            del rest[name]
    return rest or None


def _list_of_bands(rest: dict[str, Any]) -> list[Any]:
    """Remove the list of bands, under either name, from a state and return it."""
    listed = rest.pop("_bands" if "_bands" in rest else "bands", None)
    if type(listed) is not list:
        _refuse(f"its list of bands is a {records.kind_of(listed)}")
    return listed


def _check_list(kind: str, rest: dict[str, Any], bands: list[tuple[Record, BandFacts]]) -> None:
    """Remove the list of bands from a state, and check that it holds each band once."""
    listed, expected = _list_of_bands(rest), [band for band, _ in bands]
    # The usual order first. Lists compare by identity here, because records define no equality.
    if listed != list(_NATURAL[kind](expected)) and sorted(map(id, listed)) != sorted(map(id, expected)):
        _refuse("its list of bands does not hold each of its bands once")
