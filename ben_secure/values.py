"""Read one stored value, of whichever format: a pickled patch, or a safetensors file.

The first bytes say which it is; nothing is ever tried and tried again otherwise. Reads nothing but what it is given,
and leaves every judgement to ``pickles`` and ``tensors``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

from ben_secure.errors import PatchFormatError, Rule, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.pickles.unpickler import loads_part as _pickle_part
from ben_secure.pickles.unpickler import recognised as _recognised_pickle
from ben_secure.signing.footer import FOOTER_BYTES, payload_end
from ben_secure.tensors.reading import SIGN
from ben_secure.tensors.reading import loads_part as _tensors_part

_PICKLE = 0x80


def loads_part(
    value: bytes, end: int, classes: tuple[type[BigEarthNetPatch], ...], limits: Limits, lend: bool = False
) -> BigEarthNetPatch:
    """Read the patch in ``value[:end]``, without a copy of it; for who has checked what follows.

    Args, Returns and Raises as for ``loads``; ``lend`` as for ``pickles.unpickler.loads_part``.
    """
    if value[4:9] == SIGN:
        return _tensors_part(value, end, classes, limits)
    if not end or value[0] != _PICKLE:
        begins = f"it starts with {printable(value[: min(end, 9)])}" if end else "it is empty"
        raise PatchFormatError(
            f"not a pickle and not a safetensors file: {begins}; a pickled "
            "patch starts with the opcode PROTO, b'\\x80', a safetensors file with the length of its header (8 bytes) "
            "and '{'",
            rule=Rule.NOT_A_PICKLE,
            offset=0,
        )
    return _pickle_part(value, end, classes, limits, lend)


def recognised(value: bytes, end: int, classes: tuple[type[BigEarthNetPatch], ...], limits: Limits) -> object | None:
    """Tell whether ``loads_part`` is known to return a patch, and all of it but the pixels, without building it.

    Law: if this returns something, ``loads_part`` returns a patch that differs from that of any other value for which
    this returned the same object in nothing but the pixels.

    Args and Raises as for ``loads_part``, but for what comes to light only when a patch is built.

    Returns:
        The same object, by identity, for all values that differ in their pixels only; or None, which says nothing.
    """
    if value[4:9] == SIGN or not end or value[0] != _PICKLE:
        return None
    return _recognised_pickle(value, end, classes, limits)


def load(
    file: BinaryIO, *, classes: Iterable[type[BigEarthNetPatch]] = (), limits: Limits = DEFAULT_LIMITS
) -> BigEarthNetPatch:
    """Read one patch from a binary file, to its end.

    Args, Returns and Raises as for ``loads``.
    """
    return loads(file.read(limits.max_value_bytes + FOOTER_BYTES + 1), classes=classes, limits=limits)


def loads(
    data: bytes | bytearray | memoryview,
    *,
    classes: Iterable[type[BigEarthNetPatch]] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> BigEarthNetPatch:
    """Read one patch: canonical, written by any generation of bigearthnet_patch_interface, or a safetensors file.

    Args:
        data: The stored value. Nothing may follow it but the footer of a tagged one, which is not verified here: pass
            the key to ``PatchReader`` for that.
        classes: Subclasses of ``BigEarthNetPatch`` that may occur besides the interface's own, as declared by the
            caller, for archives of people who inherited from it.
        limits: What the value may cost.

    Returns:
        The patch, on one new writable buffer.

    Raises:
        UnsafePickleError: The value is a pickle that asks for something that no honest patch needs; nothing of it was
            executed.
        LimitExceededError: It costs more than ``limits`` allow.
        PatchFormatError: It is damaged, or is not a patch.
        TypeError: ``data`` is not bytes-like, or ``classes`` holds something else than patch classes.
    """
    if not isinstance(data, bytes):
        if not isinstance(data, bytearray | memoryview):
            raise TypeError(f"a stored patch must be bytes, bytearray or memoryview, not {type(data).__name__}")
        data = bytes(data)
    return loads_part(data, payload_end(data), tuple(classes), limits)
