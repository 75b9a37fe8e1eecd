"""Write a patch as a safetensors value: the layout of rico-hdl, byte for byte as the safetensors library writes it.

Tensors have the names of the bands. They are little-endian, in the library's order. A patch with metadata, or with
bands other than the published ones, has a note (``note.py``) in the metadata of the value. Nothing is lost silently:
content that the format cannot hold is refused by name.
"""

from __future__ import annotations

import json

from ben_secure.errors import UntrustedDataError, printable
from ben_secure.limits import DEFAULT_LIMITS
from ben_secure.patches.layout import GENERIC
from ben_secure.patches.parts import kind_of
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.signing.footer import payload_end
from ben_secure.tensors import note
from ben_secure.tensors.header import DTYPES, LENGTH_BYTES, METADATA
from ben_secure.tensors.reading import read

_NAMES = {code: name for name, code in DTYPES.items()}
# The library writes the dtypes from last to first, so that wide ones, which need alignment, come first.
_RANK = {code: -rank for rank, code in enumerate(_NAMES)}
_ALIGNMENT = 8


def dumps(patch: BigEarthNetPatch) -> bytes:
    """Write the safetensors value of a patch.

    Equal patches give equal bytes, except for the order of dicts. The value is read back once before it is returned,
    so ``loads`` never refuses it.

    Args:
        patch: The patch.

    Returns:
        The value. It is identical to the output of ``safetensors.numpy.save`` if the patch is of a standard class and
        has no metadata.

    Raises:
        TypeError: Metadata has a type that JSON lacks (tuple, set, bytes, numpy). The message names it.
        ValueError: A band has a dtype or name that the format lacks, a float of the metadata is not finite, or the
            patch exceeds the limits of ``loads``.
    """
    if not isinstance(patch, BigEarthNetPatch):
        raise TypeError(f"only a patch can be written, not {type(patch).__name__}")
    arrays = {slot.name: slot.view(patch._pixels) for slot in patch._layout.slots}
    for name, array in arrays.items():
        if array.dtype.str not in _NAMES:
            raise ValueError(
                f"band {printable(name)} has the dtype {array.dtype.str}, which a safetensors value cannot hold; "
                f"convert it to one of {' '.join(_NAMES)}, or keep this patch canonical"
            )
        if name == METADATA:
            raise ValueError(f"a band cannot be named {METADATA} in a safetensors value; rename it")
    text = _note(patch)
    header: dict[str, object] = {} if text is None else {METADATA: {note.NAME: text}}
    order = sorted(arrays, key=lambda name: (_RANK[arrays[name].dtype.str], name))
    end = 0
    for name in order:
        array = arrays[name]
        offsets = [end, end + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype.str], "shape": list(array.shape), "data_offsets": offsets}
        end = offsets[1]
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % _ALIGNMENT)
    value = b"".join((len(written).to_bytes(LENGTH_BYTES, "little"), written, *(arrays[name].data for name in order)))
    try:
        read(value, payload_end(value), patch._declared(), DEFAULT_LIMITS)
    except UntrustedDataError as error:
        raise ValueError(f"this patch could not be read back, make it smaller: {error.message}") from error
    return value


def _note(patch: BigEarthNetPatch) -> str | None:
    """Return the note of a patch, or None if the tensors describe all of it."""
    # Checked as for a canonical value: lists and dicts may have been changed in place.
    _, kind, layout, *_ = patch.__reduce_ex__(5)[1]
    stored, extras = patch.__stored_args__, patch._extras()
    if type(kind) is str and kind != GENERIC and not stored and not extras:
        return None
    named = kind if type(kind) is str else (kind.__module__, kind.__qualname__)
    return note.write_note(named, layout if kind_of(type(patch)) == GENERIC else None, stored, extras)
