"""Make a patch from a safetensors value. Names and shapes of the tensors decide its kind.

The twelve Sentinel-2 bands make a ``BigEarthNet_S2_Patch``, VH and VV a ``BigEarthNet_S1_Patch``, and all fourteen a
``BigEarthNet_S1_S2_Patch``. Other tensors make a ``BigEarthNetPatch``. A note (``note.py``), which only this package
writes, can change the kind. Pixels are copied once, from the value into the patch's own buffer. ``header`` checks the
bytes before they are used, and ``patches.parts.rebuild`` checks the patch, as for every other value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from ben_secure.bands import BANDS, PATCH_SIDE_M, BandSpec, natural_key
from ben_secure.errors import BenSecureError, PatchFormatError, Rule, printable
from ben_secure.limits import Limits
from ben_secure.patches.layout import GENERIC, STANDARD_KINDS, Entry, Layout
from ben_secure.patches.parts import kind_of, rebuild
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.patches.standard import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch, BigEarthNet_S2_Patch
from ben_secure.tensors import note
from ben_secure.tensors.header import (
    LENGTH_BYTES,
    METADATA,
    Header,
    Tensor,
    header_bytes,
    read_header,
    refuse,
    remembered,
)

_CLASSES: Mapping[str, type[BigEarthNetPatch]] = {
    cls.__name__: cls for cls in (BigEarthNet_S1_Patch, BigEarthNet_S2_Patch, BigEarthNet_S1_S2_Patch, BigEarthNetPatch)
}
_KIND_OF_NAMES = {
    frozenset(spec.name for group in groups for spec in group): kind for kind, groups in STANDARD_KINDS.items()
}
# ``writing`` begins a header that has a note with this. The rest of the header then repeats, and is read once.
_NOTE_BEGIN = f'{{"__metadata__":{{"{note.NAME}":"'.encode()
_DECODER = json.JSONDecoder()
SIGN = b"\0\0\0\0{"
"""The bytes 4 to 9 of a safetensors file: the upper half of the header's length, and the first byte of the header.

A pickle that the loader accepts never has these bytes there, although the length of a header may begin with
``b"\\x80"``, as a pickle does. After PROTO, a pickle has FRAME or the name of a module that is in the allow-list. In a
FRAME, the ``{`` would be the sixth byte of its length, 10**14 or more, which is refused. In a name (SHORT_BINUNICODE,
BINUNICODE), one of these bytes would be NUL, and no name contains NUL.
"""


class Plan(NamedTuple):
    """The steps that make a patch from a value with one header.

    Attributes:
        patch_class: The class.
        layout: Its layout, as ``rebuild`` takes it.
        pieces: The pieces of the buffer, in order: positions (start, stop) among the tensors' bytes, or zeros.
        nbytes: Number of bytes after the header.
    """

    patch_class: type[BigEarthNetPatch]
    layout: str | tuple[Entry, ...]
    pieces: tuple[tuple[int, int] | bytes, ...]
    nbytes: int


def read(
    value: bytes | memoryview, end: int, classes: tuple[type[BigEarthNetPatch], ...], limits: Limits
) -> BigEarthNetPatch:
    """Read the safetensors patch in ``value[:end]``. The caller has verified the bytes after ``end``.

    Args:
        value: The stored bytes, which must not change meanwhile (hostile).
        end: Where the payload ends.
        classes: Subclasses of ``BigEarthNetPatch`` that may occur, as the caller declares.
        limits: Limits on the cost of the value.

    Returns:
        The patch, on a writable buffer of its own.

    Raises:
        LimitExceededError: The value costs more than ``limits`` allow.
        PatchFormatError: The value is damaged, or is not a patch.
    """
    try:
        header = header_bytes(value, end, limits)
        start = LENGTH_BYTES + len(header)
        plan, stored, extras = _planned(header, classes, limits)
        if plan.nbytes != end - start:
            refuse(f"its tensors take {plan.nbytes} bytes, but {end - start} bytes follow the header", start)
        view = memoryview(value)
        pixels = bytearray().join(
            piece if type(piece) is bytes else view[start + piece[0] : start + piece[1]] for piece in plan.pieces
        )
        try:
            return rebuild(plan.patch_class, plan.layout, pixels, stored, extras, limits)
        except (TypeError, ValueError) as error:
            raise PatchFormatError(f"not a valid patch: {error}", rule=Rule.PATCH) from error
    except (BenSecureError, MemoryError, RecursionError):
        raise
    except Exception as error:  # the decode boundary: any other error that untrusted bytes cause
        raise PatchFormatError(
            f"the value cannot be read as a patch: {type(error).__name__}: {printable(str(error))}; fetch it again",
            rule=Rule.TENSORS,
        ) from error


def _planned(
    header: bytes, classes: tuple[type[BigEarthNetPatch], ...], limits: Limits
) -> tuple[Plan, dict[str, object], dict[str, object] | None]:
    """Return the plan for a header, the metadata, and further attributes."""
    text, table = _cut_note(header) if header.startswith(_NOTE_BEGIN) else (None, header)
    metadata = read_header(table, limits).metadata
    if text is not None:
        if metadata is not None:
            refuse(f"{METADATA} occurs twice")
    elif metadata is None:
        return _plan(table, limits), {}, None
    elif note.NAME not in metadata:
        for name in metadata:
            if name.startswith(note.FAMILY):
                note.refuse_version(name)
        return _plan(table, limits), dict(metadata), None
    elif len(metadata) > 1:
        refuse(f"{METADATA} must contain only {note.NAME}")
    else:
        text = metadata[note.NAME]
    parsed = note.read_note(text, limits)
    return _noted_plan(table, parsed, classes, limits), parsed.stored, parsed.extras


def _cut_note(header: bytes) -> tuple[str | None, bytes]:
    """Split a header that begins with a note: return the text of the note, and the header without it.

    A note that is not encoded as by ``writing`` stays in the header. ``read_header`` then finds it, at a higher cost.
    """
    try:
        text = header.decode()
        note_text, end = _DECODER.raw_decode(text, len(_NOTE_BEGIN) - 1)
    except ValueError:  # malformed UTF-8 or JSON; read_header reports the position
        return None, header
    if type(note_text) is not str or text[end : end + 2] != "},":
        return None, header
    return note_text, f"{{{text[end + 2 :]}".encode()


@remembered
def _plan(header: bytes, limits: Limits) -> Plan:
    """Make the plan of a header without a note.

    Raises:
        PatchFormatError: The tensors are not a patch of BigEarthNet.
    """
    parsed = read_header(header, limits)
    kind = _KIND_OF_NAMES.get(frozenset(tensor.name for tensor in parsed.tensors), GENERIC)
    if kind != GENERIC:
        return _standard_plan(kind, parsed)
    entries = tuple(_entry(tensor) for tensor in parsed.tensors)
    _layout(entries, limits)  # check names before sorting, which parses numbers in them
    in_order = tuple(sorted(entries, key=lambda entry: (entry[3], natural_key(entry[2]))))
    return _generic_plan(BigEarthNetPatch, in_order, parsed, limits)


def _entry(tensor: Tensor) -> Entry:
    """Describe a band from its tensor alone."""
    rows, columns = tensor.shape
    spec = BANDS.get(tensor.name)
    if spec is not None:
        _check_shape(spec, tensor)
        return spec.attribute, spec.band_class, spec.name, spec.resolution_m, rows, columns, tensor.dtype
    if rows != columns or PATCH_SIDE_M % rows:
        _refuse_patch(
            f"tensor {printable(tensor.name)} does not have the name of a BigEarthNet band, and {rows} x {columns} "
            f"pixels do not divide the {PATCH_SIDE_M} m of a patch into whole metres; values of other datasets are "
            "not patches"
        )
    return None, "Band", tensor.name, PATCH_SIDE_M // rows, rows, columns, tensor.dtype


def _check_shape(spec: BandSpec, tensor: Tensor) -> None:
    if tensor.shape != spec.shape:
        _refuse_patch(
            f"tensor {spec.name} has {tensor.shape[0]} x {tensor.shape[1]} pixels, expected {spec.side} x "
            f"{spec.side}; ask its publisher for bands of the published sizes"
        )


def _refuse_patch(fault: str) -> NoReturn:
    raise PatchFormatError(f"not a valid patch: {fault}", rule=Rule.PATCH, offset=LENGTH_BYTES)


def _standard_plan(kind: str, parsed: Header) -> Plan:
    tensors = {tensor.name: tensor for tensor in parsed.tensors}
    specs = [spec for group in STANDARD_KINDS[kind] for spec in group]
    for spec in specs:
        _check_shape(spec, tensors[spec.name])
    dtypes = Layout.canonical_dtypes(kind, [tensors[spec.name].dtype for spec in specs])
    return Plan(_CLASSES[kind], dtypes, _pieces(Layout.standard(kind, dtypes), tensors), parsed.nbytes)


def _layout(entries: tuple[Entry, ...], limits: Limits) -> Layout:
    try:
        return Layout.generic(entries, limits)
    except (TypeError, ValueError) as error:
        _refuse_patch(str(error))


def _generic_plan(
    patch_class: type[BigEarthNetPatch], entries: tuple[Entry, ...], parsed: Header, limits: Limits
) -> Plan:
    layout = _layout(entries, limits)
    pieces = _pieces(layout, {tensor.name: tensor for tensor in parsed.tensors})
    return Plan(patch_class, entries, pieces, parsed.nbytes)


def _noted_plan(header: bytes, noted: note.Note, classes: tuple[type[BigEarthNetPatch], ...], limits: Limits) -> Plan:
    """Make the plan of a header with a note.

    Raises:
        PatchFormatError: Tensors and note contradict each other, or it names a class that the caller did not declare.
    """
    parsed = read_header(header, limits)
    if type(noted.kind) is str:
        patch_class = _CLASSES.get(noted.kind)
    else:
        declared = {(cls.__module__, cls.__qualname__): cls for cls in classes}
        patch_class = declared.get(noted.kind)  # type: ignore[arg-type]
    if patch_class is None:
        _refuse_patch(
            f"its class is {printable(noted.kind)}, which is neither a class of BigEarthNet nor declared by the caller "
            "(classes=...)"
        )
    kind = kind_of(patch_class)
    if (kind == GENERIC) != (noted.bands is not None):
        _refuse_patch(f"{note.NAME} must list bands for a BigEarthNetPatch, and only for it")
    if noted.bands is None:
        plan = _plan(header, limits)
        if kind_of(plan.patch_class) != kind:
            _refuse_patch(
                f"{note.NAME} names the class {kind}, but the tensors are the bands of a {plan.patch_class.__name__}"
            )
        return plan._replace(patch_class=patch_class)
    tensors = {tensor.name: tensor for tensor in parsed.tensors}
    names = [band[2] for band in noted.bands]
    if len(names) != len(tensors) or any(type(name) is not str or name not in tensors for name in names):
        _refuse_patch(f"the bands listed in {note.NAME} are not the tensors")
    entries = tuple((*band, *tensors[band[2]].shape, tensors[band[2]].dtype) for band in noted.bands)  # type: ignore[index]
    return _generic_plan(patch_class, entries, parsed, limits)  # type: ignore[arg-type]


def _pieces(layout: Layout, tensors: Mapping[str, Tensor]) -> tuple[tuple[int, int] | bytes, ...]:
    """Return the pieces to copy, in the order of the buffer. Neighbours on both sides become one piece."""
    pieces: list[tuple[int, int] | bytes] = []
    end = 0
    for slot in layout.slots:
        if slot.offset > end:
            pieces.append(bytes(slot.offset - end))
        tensor = tensors[slot.name]
        last = pieces[-1] if pieces else b""
        if type(last) is tuple and last[1] == tensor.start:
            pieces[-1] = (last[0], tensor.stop)
        else:
            pieces.append((tensor.start, tensor.stop))
        end = slot.offset + slot.nbytes
    return tuple(pieces)
