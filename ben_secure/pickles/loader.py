"""``Loader``: reads values under fixed rules, and remembers parts that recur.

If a value does not match a template, ``machine`` runs it. Then this module (canonical values, docs/format.md) or
``legacy`` builds the patch. No other step decides. The memory of a loader never changes a verdict (see ``templates``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ben_secure.errors import LimitExceededError, PatchFormatError, Rule, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.patches.parts import rebuild
from ben_secure.patches.patch import BigEarthNetPatch, frame_of
from ben_secure.patches.standard import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch, BigEarthNet_S2_Patch
from ben_secure.pickles import machine
from ben_secure.pickles.arrays import Source
from ben_secure.pickles.legacy import Legacy
from ben_secure.pickles.names import Name, declared
from ben_secure.pickles.records import Block, Record, is_record, kind_of
from ben_secure.pickles.templates import Head, Template, Templates

_ALL = (BigEarthNetPatch, BigEarthNet_S1_Patch, BigEarthNet_S2_Patch, BigEarthNet_S1_S2_Patch)
_PATCH_CLASSES = {cls.__name__: cls for cls in _ALL}
LARGE_BYTES = 15 * 2**20
"""With fewer bytes of pixels, a canonical value is within the limits if the rest of it is plain."""
_PIXEL_OPCODES, _PIXEL_BYTES = 2, 32  # at most: frames that the pixels end and begin

_WORDS = {"_reconstruct": "numpy array", "_frombuffer": "numpy array", "scalar": "numpy scalar", "dtype": "numpy dtype"}


class Loader:
    """Reads pickled patches. Threads may share it.

    Args:
        classes: Subclasses of ``BigEarthNetPatch`` that may occur in addition to the interface's own, declared by the
            caller.
        limits: Limits on the cost of one value.

    Attributes:
        pixels_at: Start of the pixels in the latest canonical value, as a guess for the next.

    Raises:
        TypeError: ``classes`` holds something that is not a subclass of ``BigEarthNetPatch``.
        ValueError: Two classes have one name, or one has a name of the interface itself.
    """

    def __init__(self, classes: tuple[type[BigEarthNetPatch], ...] = (), limits: Limits = DEFAULT_LIMITS) -> None:
        for cls in classes:
            if not isinstance(cls, type) or not issubclass(cls, BigEarthNetPatch):  # type: ignore[redundant-expr]
                raise TypeError(f"classes must hold subclasses of BigEarthNetPatch, not {cls!r}")
        self.table = declared(classes)
        self.limits = limits
        self.pixels_at = 0
        self._templates = Templates()

    def load(self, data: bytes | memoryview, end: int, aligned: int | None = None) -> BigEarthNetPatch:
        """Read the patch in ``data[:end]``. The caller has verified the bytes after ``end``.

        Args:
            data: The stored bytes, which must not change meanwhile (hostile).
            end: Where the payload ends.
            aligned: If not None, the patch may keep ``data``, a writable memoryview, as its buffer. Positions equal to
                ``aligned`` modulo 16 then have addresses that are multiples of 16.

        Returns:
            The patch, on a writable buffer of its own.

        Raises:
            UnsafePickleError: The pickle uses something that no honest patch needs. Nothing of it was executed.
            LimitExceededError: The value costs more than the limits allow.
            PatchFormatError: The value is damaged, or is not a patch.
        """
        head, template = self._find(data, end)
        if template is not None:
            return template.patch(memoryview(data), aligned)
        return self._read(data, end, head, aligned, None)[0]

    def note(self, data: bytes | memoryview, end: int, make: Callable[[BigEarthNetPatch, machine.State], Any]) -> Any:
        """Return the result of ``make`` for a patch without its pixels and for the machine's last state.

        ``make`` must always be the same function. Values that differ only in their pixels share one note. This method
        returns or raises exactly as ``load`` does.
        """
        head, template = self._find(data, end)
        if template is not None and template.note is not None:
            return template.note
        return self._read(data, end, head, None, make)[1]

    def check_written(self, patch: BigEarthNetPatch) -> None:
        """Check that the canonical value of a patch, in which shared objects are written out, is within the limits.

        So every patch that is read can be written. Other checks imply this for plain and short metadata.

        Raises:
            LimitExceededError: The canonical value exceeds them.
        """
        frame, limits = frame_of(patch), self.limits
        try:
            opcodes = machine.run(frame, len(frame), self.table, limits).ops + _PIXEL_OPCODES
        except LimitExceededError as error:
            fact = error.message.partition(";")[0]
        else:
            size = len(frame) + len(patch._pixels) + _PIXEL_BYTES
            if opcodes <= limits.max_opcodes and size <= limits.max_value_bytes:
                return
            fact = f"{opcodes} opcodes and {size} bytes, at most {limits.max_opcodes} and {limits.max_value_bytes}"
        raise LimitExceededError(
            f"its metadata takes too much when shared objects are written out: {fact}; ask the publisher of the value",
            rule=Rule.LIMIT,
        )

    def _find(self, data: bytes | memoryview, end: int) -> tuple[Head | None, Template | None]:
        head = self._templates.head(data, end)
        return head, None if head is None else head.tails.get(bytes(data[head.end : end]))

    def _read(
        self, data: bytes | memoryview, end: int, head: Head | None, aligned: int | None,
        make: Callable[[BigEarthNetPatch, machine.State], Any] | None,
    ) -> tuple[BigEarthNetPatch, Any]:  # fmt: skip
        """Run a value, build its patch and learn both, with the note."""
        view = memoryview(data)
        payload = data if type(data) is bytes else bytes(view)
        state = machine.run(payload, end, self.table, self.limits, None if head is None else head.state)
        source = Source(view, self.limits, blank=make is not None)
        patch, parts = self._built(state.levels[0][0], source, head, aligned)
        if source.costly or state.text or state.numeric or len(patch._pixels) > LARGE_BYTES:
            self.check_written(patch)
        note = None if make is None else make(patch, state)
        # By identity, because a small bytearray, which is not a block, has no hash.
        if parts is not None and state.blocks and sorted(map(id, parts)) == sorted(map(id, state.blocks)):
            state_at = partial(machine.state_at, payload, end, self.table, self.limits)
            self._templates.learn(head, payload[:end], state, parts, patch, note, state_at)
        return patch, note

    def _built(
        self, root: Any, source: Source, head: Head | None, aligned: int | None
    ) -> tuple[BigEarthNetPatch, list[Block] | None]:
        """Build the patch of a finished pickle. Return its pixel blocks, too, if all pixels are blocks."""
        try:
            if is_record(root, "rebuild_patch"):
                return self._canonical(root, source, aligned)
            cls = root.name.patch_class or _PATCH_CLASSES.get(root.name.name) if type(root) is Record else None
            if cls is not None:
                legacy = Legacy(source, self.limits, {} if head is None else head.bands)
                return legacy.patch(root, cls), legacy.parts
        except (TypeError, ValueError) as error:
            raise PatchFormatError(f"not a valid patch: {error}", rule=Rule.PATCH) from error
        kind = printable(kind_of(root))
        raise PatchFormatError(f"the pickle holds a {_WORDS.get(kind, kind)}, not a patch", rule=Rule.PATCH)

    def _canonical(
        self, record: Record, source: Source, aligned: int | None
    ) -> tuple[BigEarthNetPatch, list[Block] | None]:
        """Build a patch from ``rebuild_patch(version, kind, layout, pixels, stored, extras)``. All of it is hostile."""
        version, kind, layout, pixels, stored, extras = record.arguments
        if type(version) is not int or version != 1:
            raise PatchFormatError(
                f"version {printable(version)} of the canonical value is unknown, expected 1; a newer ben_secure may "
                "read it",
                rule=Rule.PATCH,
            )
        cls: type[BigEarthNetPatch] | None = kind.patch_class if type(kind) is Name else None
        if type(kind) is str:
            cls = _PATCH_CLASSES.get(kind)
        if cls is None:
            raise PatchFormatError(f"the patch class {printable(kind)} is unknown", rule=Rule.PATCH)
        parts = None
        if type(pixels) is Block:
            self.pixels_at = pixels.start
            parts = [pixels] if extras is None else None
            pixels = source.pixels(pixels, aligned)
        stored, extras = source.metadata(stored), source.metadata(extras)
        return rebuild(cls, layout, pixels, stored, extras, self.limits), parts
