"""Inert stand-ins for the classes of bigearthnet_patch_interface, and the patch that their final state describes.

The stand-ins take one state and do nothing with it. When the pickle has run, ``patch_of`` reads the states, checks
every entry and builds one of our patches. Every generation that is found in archives has the same parts under other
names:

- bigearthnet_patch_interface 0.1.0 keeps the list of bands as ``bands``, 0.1.2 as ``_bands``;
- pydantic 1 writes the state of a band as ``__dict__``, ``__fields_set__`` and ``__private_attribute_values__``,
  pydantic 2 as ``__dict__``, ``__pydantic_extra__``, ``__pydantic_fields_set__`` and ``__pydantic_private__``.

Never imports the original package, never trusts a shape, a name or an order that the payload claims.
"""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import Any, ClassVar, NoReturn, TypeAlias, cast

import numpy as np

from ben_secure.bands import BAND_CLASSES, PIXEL_DTYPES, natural_key
from ben_secure.errors import PatchFormatError, Rule, printable
from ben_secure.limits import Limits
from ben_secure.metadata import equal
from ben_secure.patches.layout import GENERIC, STANDARD_KINDS, Entry, Layout
from ben_secure.patches.parts import kind_of, rebuild
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.patches.standard import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch, BigEarthNet_S2_Patch
from ben_secure.pickles.arrays import (
    Block,
    Blocks,
    Record,
    Resolver,
    SealedType,
    Unbuilt,
    array_state,
    dtype_text,
    rearranged,
)

_FIELDS = ("name", "spatial_resolution", "data_shape", "data")
_PYDANTIC_STATES = (
    ("__dict__", "__fields_set__", "__private_attribute_values__"),
    ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__"),
)
_BYTES = (memoryview, bytes, bytearray)
Pixels: TypeAlias = memoryview | bytes | bytearray
Places: TypeAlias = tuple[int, ...]
"""Numbers of opaque blocks."""
_MERGED = "BigEarthNet_S1_S2_Patch"
_INNER = (("s2_patch", "BigEarthNet_S2_Patch"), ("s1_patch", "BigEarthNet_S1_Patch"))


class BandRecord(Record, metaclass=SealedType):
    """A band that has its state; the base of one record class per band class."""

    __slots__ = ()
    band_class: ClassVar[str]


class PatchRecord(Record, metaclass=SealedType):
    """A patch that has its state; the base of one record class per patch class."""

    __slots__ = ()
    patch_class: ClassVar[type[BigEarthNetPatch]]


class UnbuiltObject(Unbuilt, metaclass=SealedType):
    """Stands for a band or a patch that NEWOBJ made; the base of one stand-in per class."""

    __slots__ = ()


def stand_in(record: type[Record]) -> type[UnbuiltObject]:
    """Make the class that NEWOBJ instantiates and BUILD turns into this record."""
    return cast(
        "type[UnbuiltObject]",
        SealedType(f"Unbuilt{record.__name__}", (UnbuiltObject,), {"__slots__": (), "built": record}),
    )


def patch_record(patch_class: type[BigEarthNetPatch]) -> type[PatchRecord]:
    """Make the record class for one patch class."""
    record = SealedType("PatchRecord", (PatchRecord,), {"__slots__": (), "patch_class": patch_class})
    return cast("type[PatchRecord]", record)


def band_record(band_class: str) -> type[BandRecord]:
    """Make the record class for one band class."""
    record = SealedType("BandRecord", (BandRecord,), {"__slots__": (), "band_class": band_class})
    return cast("type[BandRecord]", record)


BAND_RECORDS: dict[str, type[BandRecord]] = {name: band_record(name) for name in BAND_CLASSES}
"""The record class of each band class."""

PATCH_RECORDS: dict[str, type[PatchRecord]] = {
    cls.__name__: patch_record(cls)
    for cls in (BigEarthNetPatch, BigEarthNet_S1_Patch, BigEarthNet_S2_Patch, BigEarthNet_S1_S2_Patch)
}
"""The record class of each patch class."""

_ITEM_BYTES = {code: np.dtype(code).itemsize for code in PIXEL_DTYPES}
_spell = lru_cache(maxsize=128)(Layout.spell)
_SLOTS = {
    kind: tuple(
        (
            band.attribute,
            BAND_RECORDS[band.band_class],
            (band.name, band.resolution_m, band.shape, band.shape),
            band.side**2,
        )
        for sensor in sensors
        for band in sensor
    )
    for kind, sensors in STANDARD_KINDS.items()
}
"""For each patch class with fixed bands, in storage order: attribute, record class, what its fields must be, pixels."""


_NATURAL = {
    kind: operator.itemgetter(
        *(place for _, place in sorted((natural_key(slot[2][0]), p) for p, slot in enumerate(slots)))
    )
    for kind, slots in _SLOTS.items()
}
"""Brings bands from storage order into the order in which the original lists them."""


def refuse_patch(message: str) -> NoReturn:
    """Refuse a state that is not that of a whole patch."""
    raise PatchFormatError(f"not a valid patch: {message}; ask the publisher of the value", rule=Rule.PATCH)


def patch_of(record: PatchRecord, blocks: Blocks, limits: Limits) -> tuple[BigEarthNetPatch, Places | None]:
    """Build the patch that a finished record describes.

    Args:
        record: The record, after the whole pickle has run.
        blocks: The opaque blocks of the value.
        limits: Bounds on bands and metadata.

    Returns:
        The patch: bands, dtypes and metadata as the original package has them, on one new buffer. And which blocks its
        pixels are, in their order, if they are all that there are, each once and unchanged, and there is nothing but
        stored metadata beside them: then nothing else of the patch depends on a byte in a block, but for bytes objects
        and arrays in that metadata.

    Raises:
        PatchFormatError: A band is missing, doubled, swapped or misshapen, a part is of another type, or the metadata
            is not plain data.
    """
    cls = record.patch_class
    kind = kind_of(cls)
    rest = _state(record)
    plain: str | tuple[Entry, ...]
    parts: list[Pixels] | None = None
    if kind == GENERIC:
        plain, pixels = _generic_bands(rest, blocks, limits)
    else:
        plain, parts = _merged_bands(rest, blocks) if kind == _MERGED else _standard_bands(kind, rest, blocks)
        pixels = bytearray().join(parts)
    stored = rest.pop("__stored_args__", None)
    if type(stored) is not dict:
        refuse_patch(f"its __stored_args__ are a {type(stored).__name__}, not a dict")
    extras = _extras(rest, stored)
    resolver = Resolver(blocks, limits)
    stored, extras = resolver.copy(stored), resolver.copy(extras)
    try:
        patch = rebuild(cls, plain, pixels, stored, extras, limits)
    except (TypeError, ValueError) as error:
        raise PatchFormatError(f"not a valid patch: {error}", rule=Rule.PATCH) from error
    return patch, None if parts is None or extras is not None else _places(parts, blocks)


def _places(parts: list[Pixels], blocks: Blocks) -> Places | None:
    """Where in ``blocks`` each part is, if the parts are the blocks, each once."""
    place_of = {id(block): place for place, block in enumerate(blocks)}
    places = [place_of.pop(id(part), None) for part in parts]
    return None if place_of or None in places else tuple(places)  # type: ignore[arg-type]


def _state(record: Record) -> dict[str, Any]:
    state = record.state
    if type(state) is not dict:
        refuse_patch(f"a {type(record).__name__} has a {type(state).__name__} for its state, not a dict")
    return dict(state)


def _extras(rest: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any] | None:
    """Attributes that are not among the stored arguments; ``rest`` has every stored argument as an attribute too."""
    for name, value in stored.items():
        if name not in rest:
            refuse_patch(f"the metadata {printable(name)} is stored but not an attribute")
        # The pickler shares what has an identity, but of a number it writes two.
        if rest[name] is value or (type(value) in (int, float) and equal(rest[name], value)):
            del rest[name]
    return rest or None


def _standard_bands(kind: str, rest: dict[str, Any], blocks: Blocks) -> tuple[str, list[Pixels]]:
    """Take the bands of a patch class with fixed bands out of its state; returns the dtypes and the pixels."""
    found, codes, pixels = _fixed(kind, rest, blocks)
    _check_listed(kind, rest, found)
    return _spell(kind, tuple(codes)), pixels


def _merged_bands(rest: dict[str, Any], blocks: Blocks) -> tuple[str, list[Pixels]]:
    """The same for S1+S2, whose bands are those of two inner patches."""
    found: list[BandRecord] = []
    codes: list[str] = []
    pixels: list[Pixels] = []
    for attribute, kind in _INNER:
        inner = rest.pop(attribute, None)
        if type(inner) is not PATCH_RECORDS[kind]:
            refuse_patch(f"its {attribute} is a {type(inner).__name__}, not a {kind}")
        inner_rest = _state(inner)
        inner_found, inner_codes, inner_pixels = _fixed(kind, inner_rest, blocks)
        _check_listed(kind, inner_rest, inner_found)
        if inner_rest.pop("__stored_args__", None) != {} or inner_rest:
            refuse_patch(f"its {attribute} has metadata of its own")
        found += inner_found
        codes += inner_codes
        pixels += inner_pixels
    _check_listed(_MERGED, rest, found)
    return _spell(_MERGED, tuple(codes)), pixels


def _fixed(kind: str, rest: dict[str, Any], blocks: Blocks) -> tuple[list[BandRecord], list[str], list[Pixels]]:
    """Take the band attributes out of a state: the records, their dtypes and their pixels in storage order."""
    found: list[BandRecord] = []
    codes: list[str] = []
    pixels: list[Pixels] = []
    for slot in _SLOTS[kind]:
        band = rest.pop(slot[0], None)
        if type(band) is not slot[1]:
            refuse_patch(f"{slot[0]} of a {kind} is a {type(band).__name__}, not a {slot[1].band_class}")
        # Bands that many values share are checked once (see _prefix); the verdict holds for this slot.
        if band.checked is None or band.checked[0] is not slot:
            band.checked = _check_band(band, slot)
        _, code, item_bytes, fortran, data = band.checked
        if type(data) is Block:
            data = blocks[data.place]
        if type(data) not in _BYTES or len(data) != slot[3] * item_bytes:
            refuse_patch(f"{slot[0]} does not have {slot[3]} pixels of {item_bytes} bytes")
        if fortran or code[0] == ">":
            code, data = rearranged(band.state["__dict__"]["data"], code, slot[2][2], fortran, data)
        found.append(band)
        codes.append(code)
        pixels.append(data)
    return found, codes, pixels


def _check_band(band: BandRecord, slot: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check all of a band but its bytes; returns slot, dtype, item size, memory order and data."""
    attribute, _, expected, _ = slot
    fields = _fields(band)
    shape, dtype, fortran, data = array_state(fields["data"])
    if (*_claims(fields), shape) != expected:
        refuse_patch(f"{attribute} is not {_described(*expected)} but {_described(*_claims(fields), shape)}")
    return slot, *_pixel_dtype(dtype), fortran, data


def _claims(fields: dict[str, Any]) -> tuple[object, object, object]:
    return fields["name"], fields["spatial_resolution"], fields["data_shape"]


def _described(name: object, metres: object, claimed: object, shape: object) -> str:
    text = f"{printable(name)} at {printable(metres)} m with {printable(shape)} pixels"
    return text if claimed == shape else f"{text} (claimed: {printable(claimed)})"


def _pixel_dtype(record: object) -> tuple[str, int]:
    """Text and item size of the dtype of pixels."""
    code = dtype_text(record)
    if code not in _ITEM_BYTES:
        refuse_patch(f"a band has dtype {printable(code)}, which pixels cannot have")
    return code, _ITEM_BYTES[code]


def _generic_bands(rest: dict[str, Any], blocks: Blocks, limits: Limits) -> tuple[tuple[Entry, ...], bytearray]:
    """Take the bands of a patch that lists its own: the entries of its layout and the pixels."""
    listed = _listed(rest)
    attributes = {id(value): name for name, value in rest.items() if isinstance(value, BandRecord)}
    if len(listed) > limits.max_bands:
        refuse_patch(f"it has {len(listed)} bands, at most {limits.max_bands} are allowed")
    entries: list[Entry] = []
    pixels = bytearray()
    for band in listed:
        if not isinstance(band, BandRecord):
            refuse_patch(f"one of its bands is a {type(band).__name__}")
        fields = _fields(band)
        name, metres, claimed = _claims(fields)
        array = fields["data"]
        shape, dtype, fortran, data = array_state(array)
        if (
            type(shape) is not tuple
            or [type(side) for side in shape] != [int, int]
            or min(shape) < 1
            or claimed != shape
        ):
            refuse_patch(f"one of its bands is {_described(name, metres, claimed, shape)}, not rows and columns")
        code, item_bytes = _pixel_dtype(dtype)
        if type(data) is Block:
            data = blocks[data.place]
        if type(data) not in _BYTES or len(data) != shape[0] * shape[1] * item_bytes:
            refuse_patch(f"band {printable(name)} does not have {shape[0] * shape[1]} pixels of {item_bytes} bytes")
        code, block = rearranged(array, code, shape, fortran, data)
        attribute = attributes.pop(id(band), None)
        if attribute is not None:
            del rest[attribute]
        pixels += bytes(-len(pixels) % item_bytes)
        if len(pixels) + len(block) > limits.max_value_bytes:  # one array may stand for many bands
            refuse_patch(f"its bands have more than {limits.max_value_bytes} bytes")
        pixels += block
        entries.append((attribute, band.band_class, name, metres, *shape, code))
    if attributes:
        refuse_patch(f"{printable(next(iter(attributes.values())))} is a band that is not among its bands")
    return tuple(entries), pixels


def _listed(rest: dict[str, Any]) -> list[Any]:
    """Take the list of bands out of a state; it has one name or the other."""
    name = "_bands" if "_bands" in rest else "bands"
    listed = rest.pop(name, None)
    if type(listed) is not list:
        refuse_patch(f"its list of bands is a {type(listed).__name__}")
    return listed


def _check_listed(kind: str, rest: dict[str, Any], found: list[BandRecord]) -> None:
    listed = _listed(rest)
    # The usual order; list equality asks for identity first, and records have no other equality.
    if listed != list(_NATURAL[kind](found)) and sorted(map(id, listed)) != sorted(map(id, found)):
        refuse_patch("its list of bands does not hold each of its bands once")


def _fields(band: BandRecord) -> dict[str, Any]:
    """The four fields of a band, from the state that pydantic 1 or 2 wrote; what else that holds is dropped."""
    state = band.state
    if type(state) is not dict or tuple(state) not in _PYDANTIC_STATES:
        refuse_patch(f"the state of a {band.band_class} is not that of pydantic 1 or 2")
    fields: dict[str, Any] = state["__dict__"]
    if type(fields) is not dict or tuple(fields) != _FIELDS:
        refuse_patch(f"a {band.band_class} does not have the fields {', '.join(_FIELDS)}, in this order")
    return fields
