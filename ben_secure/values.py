"""Read one stored value: a pickled patch or a safetensors file.

The first bytes decide the format. A value that one reader refuses is never given to another. ``pickles`` and
``tensors`` give the verdict. Lack of memory is not a verdict and raises an ``UndecidedError``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, BinaryIO

from ben_secure.errors import BenSecureError, PatchFormatError, ResourceError, Rule, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.pickles.loader import LARGE_BYTES, Loader
from ben_secure.pickles.machine import State
from ben_secure.signing.footer import FOOTER_BYTES, payload_end
from ben_secure.tensors import SIGN, read
from ben_secure.tensors.header import LENGTH_BYTES, MAX_REMEMBERED_BYTES

_PICKLE = 0x80
# Keys of records that other tools put beside the samples in an LMDB, and the content of these records.
_FOREIGN = {
    **dict.fromkeys((b"length", b"len", b"__len__", b"num-samples", b"num_samples"), "the number of its records"),
    **dict.fromkeys((b"keys", b"__keys__"), "the list of its keys"),
    **dict.fromkeys((b"meta", b"__meta__", b"meta_info", b"metadata", b"__metadata__"), "notes on the database"),
}
_HARMLESS = frozenset({Rule.NOT_A_PICKLE, Rule.PATCH, Rule.MALFORMED, Rule.LIMIT})


def name_foreign(error: BenSecureError, lmdb_key: bytes | None) -> None:
    """Add to an error that the refused value is a record of another tool.

    Args:
        error: The refusal. It is not changed if the value may be an attack.
        lmdb_key: Raw LMDB key of the value.
    """
    if lmdb_key is not None and lmdb_key in _FOREIGN and error.rule in _HARMLESS and error.global_name is None:
        error.message = (
            f"{lmdb_key.decode()!r} is not a patch but a record of another tool, with {_FOREIGN[lmdb_key]} "
            f"({error.message})"
        )
        error.args = (error.message,)


class Decoder:
    """Reads stored values of either format under fixed rules. Each reader has one. Threads may share it.

    Args:
        classes: Subclasses of ``BigEarthNetPatch`` that may occur in addition to the interface's own, declared by the
            caller.
        limits: Limits on the cost of one value.

    Raises:
        TypeError: ``classes`` holds something that is not a subclass of ``BigEarthNetPatch``.
        ValueError: Two classes have one name, or one has a name of the interface itself.
    """

    def __init__(self, classes: tuple[type[BigEarthNetPatch], ...] = (), limits: Limits = DEFAULT_LIMITS) -> None:
        self.pickles = Loader(classes, limits)
        self._classes = classes
        self._limits = limits

    def load(self, value: bytes | memoryview, end: int, aligned: int | None = None) -> BigEarthNetPatch:
        """Read the patch in ``value[:end]``. The caller has verified the bytes after ``end``.

        Args:
            value: The stored bytes, which must not change meanwhile (hostile).
            end: Where the payload ends.
            aligned: As for ``pickles.loader.Loader.load``.

        Returns:
            The patch.

        Raises:
            UntrustedDataError: As ``loads``.
            ResourceError: There is not enough memory to judge the value.
        """
        try:
            if value[4:9] == SIGN:
                patch = read(value, end, self._classes, self._limits)
                if int.from_bytes(value[:LENGTH_BYTES], "little") > MAX_REMEMBERED_BYTES or end > LARGE_BYTES:
                    self.pickles.check_written(patch)
                return patch
            if end and value[0] == _PICKLE:
                return self.pickles.load(value, end, aligned)
        except (MemoryError, RecursionError) as error:
            raise ResourceError.reading(end) from error
        begins = f"it starts with {printable(bytes(value[: min(end, 9)]))}" if end else "it is empty"
        raise PatchFormatError(
            f"not a pickle and not a safetensors file: {begins}; a pickled "
            "patch starts with the opcode PROTO, b'\\x80', a safetensors file with the length of its header (8 bytes) "
            "and '{'",
            rule=Rule.NOT_A_PICKLE,
            offset=0,
        )

    def note(self, value: bytes | memoryview, end: int, make: Callable[[BigEarthNetPatch, State | None], Any]) -> Any:
        """Return the result of ``make`` for the patch in ``value[:end]``. Values that differ only in pixels share it.

        Args:
            value: As for ``load``.
            end: As for ``load``.
            make: Called with a patch, whose pixels it must not read, and with the last state of the machine (None for a
                safetensors file). It must always be the same function. Its result should be small.

        Returns:
            The note.

        Raises:
            UntrustedDataError: As ``load``, for the same values.
            ResourceError: There is not enough memory to judge the value.
        """
        if value[4:9] == SIGN or not end or value[0] != _PICKLE:
            return make(self.load(value, end), None)
        try:
            return self.pickles.note(value, end, make)
        except (MemoryError, RecursionError) as error:
            raise ResourceError.reading(end) from error


# For the function ``loads``: one decoder for the default rules, and one for the latest other rules.
_usual = Decoder()
_other = lru_cache(maxsize=1)(Decoder)


def load(
    file: BinaryIO | str | os.PathLike[str],
    *,
    classes: Iterable[type[BigEarthNetPatch]] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> BigEarthNetPatch:
    """Read one patch from a file, to its end.

    Args:
        file: Its path, or a file that is open for binary reading.
        classes: As for ``loads``.
        limits: As for ``loads``.

    Returns:
        As ``loads``.

    Raises:
        OSError: The path is not a readable file.
        BenSecureError: As ``loads``.
    """
    if isinstance(file, str | os.PathLike):
        with open(file, "rb") as opened:
            return load(opened, classes=classes, limits=limits)
    return loads(file.read(limits.max_value_bytes + FOOTER_BYTES + 1), classes=classes, limits=limits)


def loads(
    data: bytes | bytearray | memoryview,
    *,
    classes: Iterable[type[BigEarthNetPatch]] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> BigEarthNetPatch:
    """Read one patch: a canonical value, a legacy value of any generation, or a safetensors file.

    Args:
        data: The stored value, with its footer if it is tagged. The tag is not verified here: pass the key to
            ``PatchReader`` for that. Nothing else may follow the value.
        classes: Subclasses of ``BigEarthNetPatch`` that may occur in addition to the interface's own, for databases
            with patches of such classes. Their code is never called.
        limits: Limits on the cost of the value.

    Returns:
        The patch, on one new writable buffer.

    Raises:
        UnsafePickleError: The value is a pickle that uses something that no honest patch needs. Nothing of it was
            executed.
        LimitExceededError: The value costs more than ``limits`` allow.
        PatchFormatError: The value is damaged, or is not a patch.
        ResourceError: There is not enough memory to judge it.
        TypeError: ``data`` is not bytes-like, or an item of ``classes`` is not a patch class.
        ValueError: Two of ``classes`` have one name, or one has a name of the interface itself.
    """
    if type(data) is not bytes:
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"a stored patch must be bytes, bytearray or memoryview, not {type(data).__name__}")
        data = bytes(data)
    usual = classes == () and limits is DEFAULT_LIMITS
    return (_usual if usual else _other(tuple(classes), limits)).load(data, payload_end(data))
