"""Second wall: turn an admitted pickle into a patch with an unpickler that can reach nothing.

``find_class`` looks the exact (module, name) pair up in a frozen table and returns an inert stand-in; it never
imports, never splits on dots, never falls back. What the pickle leaves behind are records, which are read and
checked after the last opcode, when nothing can change them any more; only then is a patch built. No byte reaches
the unpickler that ``opcodes`` has not passed; it gets the program that was read there, not the payload.

Order of steps: read (bounded), ``opcodes.check``, unpickle onto stand-ins, build the patch, give it out.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, BinaryIO, NoReturn

from ben_secure.errors import BenSecureError, PatchFormatError, Rule, UnsafePickleError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.patches.layout import Layout
from ben_secure.patches.parts import rebuild
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.pickles import opcodes
from ben_secure.pickles._prefix import capture
from ben_secure.pickles._segments import Known
from ben_secure.pickles.allowlist import BAND_CLASSES, KINDS, PATCH_MODULES, Declared
from ben_secure.pickles.arrays import (
    Block,
    CallRecord,
    Dtype,
    FromBuffer,
    NdarrayName,
    RebuildArray,
    RebuildScalar,
    Reconstruct,
    Recorder,
    Resolver,
    Scalar,
)
from ben_secure.pickles.legacy import (
    BAND_RECORDS,
    PATCH_RECORDS,
    PatchRecord,
    Places,
    UnbuiltObject,
    patch_of,
    patch_record,
    stand_in,
)
from ben_secure.signing.footer import FOOTER_BYTES, payload_end


class RebuildPatch(Recorder):
    """Stands for ``ben_secure.patches.rebuild_patch``."""

    __slots__ = ()
    function, arity = "rebuild_patch", 6


def _stand_ins() -> Mapping[tuple[str, str], object]:
    reconstruct, scalar, from_buffer = Reconstruct(), Scalar(), FromBuffer()
    table: dict[tuple[str, str], object] = {
        ("ben_secure.patches", "rebuild_patch"): RebuildPatch(),
        ("ben_secure.metadata", "rebuild_array"): RebuildArray(),
        ("ben_secure.metadata", "rebuild_scalar"): RebuildScalar(),
        ("numpy", "ndarray"): NdarrayName(),
        ("numpy", "dtype"): Dtype(),
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = reconstruct
        table[f"{core}.multiarray", "scalar"] = scalar
        table[f"{core}.numeric", "_frombuffer"] = from_buffer
    for name in BAND_CLASSES:
        table["bigearthnet_patch_interface.band_interface", name] = stand_in(BAND_RECORDS[name])
    for name, module in PATCH_MODULES.items():
        table[module, name] = stand_in(PATCH_RECORDS[name])
    return MappingProxyType(table)


STAND_INS = _stand_ins()
"""What each pair of the allow-list resolves to; has exactly the keys of ``allowlist.KINDS``."""
_stand_in = STAND_INS.get


@lru_cache(maxsize=32)
def _declared(
    classes: tuple[type[BigEarthNetPatch], ...],
) -> tuple[Mapping[tuple[str, str], tuple[type[UnbuiltObject], type[PatchRecord]]], Declared]:
    """Stand-ins and records for the subclasses that the caller declared, and the pairs that name them."""
    table: dict[tuple[str, str], tuple[type[UnbuiltObject], type[PatchRecord]]] = {}
    for cls in classes:
        if not isinstance(cls, type) or not issubclass(cls, BigEarthNetPatch):  # type: ignore[redundant-expr]
            raise TypeError(f"classes must hold subclasses of BigEarthNetPatch, not {cls!r}")
        pair = (cls.__module__, cls.__qualname__)
        if pair in KINDS or pair in table:
            raise ValueError(f"{pair[0]}.{pair[1]} is declared twice or is a class of the interface itself")
        record = patch_record(cls)
        table[pair] = stand_in(record), record
    return MappingProxyType(table), Declared(table)


# Without bytes: they may be those of a block, which are each value's own.
_IMMUTABLE = frozenset({str, int, float, bool, type(None)})

# Fetched once: what is done for every value.
_initialise = pickle.Unpickler.__init__
_execute = pickle.Unpickler.load


class PatchUnpickler(pickle.Unpickler):
    """Unpickler that admits patches and nothing else.

    Args:
        file: Binary file that holds exactly one pickled patch, to its end; the footer of a tagged value may follow
            (it is not verified here).
        classes: Subclasses of ``BigEarthNetPatch`` that may occur besides the interface's own; named by their module
            and qualified name. Their code is never called: an instance is made without ``__new__`` and ``__init__``.
        limits: What the value may cost.

    Raises:
        BenSecureError: As ``loads``.
        TypeError: ``classes`` holds something that is not a subclass of ``BigEarthNetPatch``.
    """

    __slots__ = ("_classes", "_lend", "_limits", "_program")

    def __init__(
        self,
        file: BinaryIO,
        *,
        classes: Iterable[type[BigEarthNetPatch]] = (),
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        value = file.read(limits.max_value_bytes + FOOTER_BYTES + 1)
        self._begin(value, payload_end(value), tuple(classes), limits)

    def _begin(
        self, value: bytes, end: int, classes: tuple[type[BigEarthNetPatch], ...], limits: Limits, lend: bool = False
    ) -> None:
        """Check the payload, ``value[:end]``, and prepare to execute its program."""
        self._lend = lend
        self._limits = limits
        self._classes, pairs = _declared(classes)
        self._program = program = opcodes.check(value, limits, pairs, end)
        if program.tail is None or program.tail.built is None:
            _initialise(self, io.BytesIO(program.opcodes), buffers=program.buffers)

    def find_class(self, module: str, name: str, /) -> Any:
        """Look a global up in the frozen table; nothing is ever imported.

        Raises:
            UnsafePickleError: The pair is not in the table.
        """
        found = _stand_in((module, name))
        if found is None and (module, name) in self._classes:
            found = self._classes[module, name][0]
        if found is None:
            asked = printable(f"{module}.{name}", self._limits.max_name_characters)
            raise UnsafePickleError(
                f"the payload asks for {asked}, which no patch needs; do not load this value with pickle",
                rule=Rule.FORBIDDEN_GLOBAL,
                global_name=asked,
            )
        return found

    def persistent_load(self, pid: object) -> NoReturn:
        """Refuse every persistent id; patches have none.

        Raises:
            UnsafePickleError: Always.
        """
        raise UnsafePickleError("the payload refers to something outside itself", rule=Rule.FORBIDDEN_OPCODE)

    def load(self) -> BigEarthNetPatch:
        """Unpickle and build the patch.

        Returns:
            The patch. Nothing that is only partly built or checked is ever given out.

        Raises:
            UnsafePickleError: A call of another shape than honest patches make.
            PatchFormatError: What came out is not a whole, valid patch.
        """
        if self._program.tail is not None and self._program.tail.built is not None:
            return self._built(*self._program.tail.built)
        try:
            patch = self._finish(_execute(self))
            if self._program.known is not None:
                self._capture(self._program.known)
            return patch
        except BenSecureError:
            raise
        except Exception as error:  # the decode boundary: whatever the C unpickler raises about untrusted bytes
            raise PatchFormatError(
                f"the pickle cannot be read as a patch: {type(error).__name__}: {printable(str(error))}; "
                "fetch the value again",
                rule=Rule.MALFORMED,
            ) from error

    def _capture(self, known: Known) -> None:
        """Keep the state after the beginning that this value shares with others, which were admitted like it."""
        classes = self._classes

        class Beginning(pickle.Unpickler):
            """Executes the known segments over the same stand-ins."""

            def find_class(self, module: str, name: str, /) -> Any:
                return _stand_in((module, name)) or classes[module, name][0]

        known.keep(capture(Beginning, known.program, known.snapshot, known.blocks))

    def _finish(self, result: object) -> BigEarthNetPatch:
        if type(result) is CallRecord and result.function == "rebuild_patch":
            return self._canonical(*result.arguments)
        if isinstance(result, PatchRecord):
            patch, places = patch_of(result, self._program.blocks, self._limits)
            if places is not None:
                self._remember(patch, places)
            return patch
        raise PatchFormatError(f"the pickle holds a {printable(type(result).__name__)}, not a patch", rule=Rule.PATCH)

    def _canonical(
        self, version: object, kind: object, layout: Any, pixels: Any, stored: Any, extras: Any
    ) -> BigEarthNetPatch:
        """Build a patch from the arguments of a canonical value (docs/format.md)."""
        if type(version) is not int or version != 1:
            raise PatchFormatError(
                f"version {printable(version)} of the canonical value is unknown, this package reads version 1; "
                "a newer ben_secure may read it",
                rule=Rule.PATCH,
            )
        if type(kind) is str:
            record = PATCH_RECORDS.get(kind)
        else:
            record = next((records for stand_in, records in self._classes.values() if stand_in is kind), None)
        if record is None:
            raise PatchFormatError(f"no patch class is called {printable(kind)}", rule=Rule.PATCH)
        try:
            blocks = self._program.blocks
            if type(pixels) is Block:
                pixels = blocks[pixels.place]
            whole = len(blocks) == 1 and pixels is blocks[0]
            if type(pixels) is memoryview and not self._lend:
                pixels = bytearray(pixels)
            resolver = Resolver(blocks, self._limits)
            stored, extras = resolver.copy(stored), resolver.copy(extras)
            patch = rebuild(record.patch_class, layout, pixels, stored, extras, self._limits)
        except (TypeError, ValueError) as error:
            raise PatchFormatError(f"not a valid patch: {error}", rule=Rule.PATCH) from error
        if whole and extras is None:
            self._remember(patch, (0,))
        return patch

    def _remember(self, patch: BigEarthNetPatch, places: Places) -> None:
        """Keep what was built, for values that differ in their pixels only.

        Args:
            patch: What was built.
            places: The blocks that its pixels are, in their order: all of the value's. Metadata may still have their
                bytes too; such a patch is not kept.
        """
        tail, stored = self._program.tail, patch.__stored_args__
        own = PATCH_RECORDS[patch._kind].patch_class is type(patch)  # not of the caller's classes
        if tail is not None and own and not patch._layout.gaps and _is_flat(stored):
            tail.built = type(patch), patch._layout, _copied(stored), places

    def _built(
        self, cls: type[BigEarthNetPatch], layout: Layout, stored: dict[str, object], places: Places
    ) -> BigEarthNetPatch:
        """The patch of a value that differs from one that was built in nothing but the pixels."""
        blocks = self._program.blocks
        pixels: bytearray | memoryview
        if self._lend and len(places) == 1:
            pixels = blocks[0].cast("B")
        else:
            pixels = bytearray().join([blocks[place] for place in places])
        return cls._assemble(layout, pixels, _copied(stored))


def _is_flat(stored: dict[str, object]) -> bool:
    """Whether ``_copied`` copies all metadata that can change, and none of it is in two places or from a block."""
    lists = [value for value in stored.values() if type(value) not in _IMMUTABLE]
    plain = all(type(value) is list and _IMMUTABLE.issuperset(map(type, value)) for value in lists)
    return plain and len(set(map(id, lists))) == len(lists)


def _copied(stored: dict[str, object]) -> dict[str, object]:
    return {name: value.copy() if type(value) is list else value for name, value in stored.items()}


def recognised(value: bytes, end: int, classes: tuple[type[BigEarthNetPatch], ...], limits: Limits) -> object | None:
    """Tell whether a payload differs from one that was loaded in nothing but the pixels; then it loads as that did.

    Args, Raises as for ``loads_part``, but for what comes to light only when a patch is built.

    Returns:
        The same object for all such payloads, by identity; or None, which says nothing.
    """
    tail = opcodes.check(value, limits, _declared(classes)[1], end).tail
    return tail if tail is not None and tail.built is not None else None


def loads_part(
    value: bytes, end: int, classes: tuple[type[BigEarthNetPatch], ...], limits: Limits, lend: bool = False
) -> BigEarthNetPatch:
    """Read the pickled patch in ``value[:end]``, without a copy of it; for who has checked what follows.

    Args, Returns and Raises as for ``loads``.

    Args:
        value: The stored bytes.
        end: Where the payload ends.
        classes: As for ``loads``.
        limits: As for ``loads``.
        lend: Whether the pixels of a canonical value stay where they are, in ``value``, and the patch is a read-only
            view of them: for who copies them elsewhere and gives the patch to nobody. Every check is the same, and so
            is the patch: it equals that without ``lend``.
    """
    unpickler = PatchUnpickler.__new__(PatchUnpickler)
    unpickler._begin(value, end, classes, limits, lend)
    return unpickler.load()


def load(
    file: BinaryIO, *, classes: Iterable[type[BigEarthNetPatch]] = (), limits: Limits = DEFAULT_LIMITS
) -> BigEarthNetPatch:
    """Read one pickled patch from a binary file, to its end.

    Args, Returns and Raises as for ``loads``.
    """
    return PatchUnpickler(file, classes=classes, limits=limits).load()


def loads(
    data: bytes | bytearray | memoryview,
    *,
    classes: Iterable[type[BigEarthNetPatch]] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> BigEarthNetPatch:
    """Read one pickled patch: canonical, or written by any generation of bigearthnet_patch_interface.

    Args:
        data: The pickle. Nothing may follow it but the footer of a tagged value, which is not verified here: pass the
            key to ``PatchReader`` for that.
        classes: Subclasses of ``BigEarthNetPatch`` that may occur besides the interface's own, as declared by the
            caller, for archives of people who inherited from it.
        limits: What the value may cost.

    Returns:
        The patch, on one new writable buffer.

    Raises:
        UnsafePickleError: The pickle asks for something that no honest patch needs; nothing of it was executed.
        LimitExceededError: It costs more than ``limits`` allow.
        PatchFormatError: It is damaged, or is not a patch.
        TypeError: ``data`` is not bytes-like, or ``classes`` holds something else than patch classes.
    """
    if not isinstance(data, bytes):
        if not isinstance(data, bytearray | memoryview):
            raise TypeError(f"a pickled patch must be bytes, bytearray or memoryview, not {type(data).__name__}")
        data = bytes(data)
    return loads_part(data, payload_end(data), tuple(classes), limits)
