"""``PatchUnpickler``: the trusted core behind the interface of ``pickle.Unpickler``, for one pickled patch."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any, BinaryIO, NoReturn

from ben_secure.errors import ResourceError, Rule, UnsafePickleError, printable
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.patches.patch import BigEarthNetPatch
from ben_secure.pickles.loader import Loader
from ben_secure.signing.footer import FOOTER_BYTES, payload_end


class PatchUnpickler(pickle.Unpickler):
    """Unpickler that accepts only patches.

    ``find_class`` is the allow-list and ``load`` runs ``machine``. The C engine that this class inherits never sees a
    payload.

    Args:
        file: Binary file with exactly one pickled patch and nothing after it, except the footer of a tagged value
            (which is not verified here).
        classes: Subclasses of ``BigEarthNetPatch`` that may occur in addition to the interface's own, named by module
            and qualified name. Their code is never called: an instance is made without ``__new__`` and ``__init__``.
        limits: Limits on the cost of the value.

    Raises:
        TypeError: ``classes`` holds something that is not a subclass of ``BigEarthNetPatch``.
        ValueError: Two classes have one name, or one has a name of the interface itself.
    """

    __slots__ = ("_file", "_loader")

    def __init__(
        self, file: BinaryIO, *, classes: Iterable[type[BigEarthNetPatch]] = (), limits: Limits = DEFAULT_LIMITS
    ) -> None:
        super().__init__(file)
        self._file = file
        self._loader = Loader(tuple(classes), limits)

    def find_class(self, module: str, name: str, /) -> Any:
        """Look up a global in the frozen table. Return its row, which is inert. Nothing is imported.

        Raises:
            UnsafePickleError: The pair is not in the table.
        """
        row = self._loader.table.get((module, name))
        if row is None:
            asked = printable(f"{module}.{name}", self._loader.limits.max_name_characters)
            raise UnsafePickleError(
                f"the payload asks for {asked}, which no patch needs; do not load this value with pickle",
                rule=Rule.FORBIDDEN_GLOBAL,
                global_name=asked,
            )
        return row

    def persistent_load(self, pid: object) -> NoReturn:
        """Refuse every persistent id. Patches have none.

        Raises:
            UnsafePickleError: Always.
        """
        raise UnsafePickleError("the payload refers to something outside itself", rule=Rule.FORBIDDEN_OPCODE)

    def load(self) -> BigEarthNetPatch:
        """Read the file to its end. Returns and raises as ``loads``."""
        value = self._file.read(self._loader.limits.max_value_bytes + FOOTER_BYTES + 1)
        end = payload_end(value)
        try:
            return self._loader.load(value, end)
        except (MemoryError, RecursionError) as error:
            raise ResourceError.reading(end) from error
