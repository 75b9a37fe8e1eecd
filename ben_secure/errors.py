"""Every error that ben_secure raises about data: one root, two branches, the branch is the exit code.

``UntrustedDataError`` means that the data was judged and refused (exit 1). ``UndecidedError`` means that it could
not be judged (exit 2). Whatever untrusted bytes cause leaves as one of these; a caller's own mistake stays a
``TypeError``, ``ValueError`` or ``KeyError``. This module imports nothing of the package.
"""

from __future__ import annotations

import os
import shlex
from enum import Enum
from typing import Any

_SHOWN_CHARACTERS = 120


def printable(text: object, limit: int = _SHOWN_CHARACTERS) -> str:
    """Make hostile text safe to show: everything but printable ASCII is escaped, and it is cut to a length.

    LMDB keys, global names and strings from a payload can hold terminal escapes, line breaks, right-to-left marks
    and megabytes. Every piece of text that comes from a file passes through here before a person sees it.

    Args:
        text: A str, or bytes (shown as ``b'...'``), a number, None, or a short tuple or list of these. Of anything
            else only the type is shown: a ``repr`` can take more memory than there is.
        limit: Most characters in the result; what is cut is replaced by ``...``.

    Returns:
        Printable ASCII of at most ``limit`` characters.
    """
    if isinstance(text, bytes | bytearray):
        shown = repr(bytes(text[: limit + 1]))
    elif isinstance(text, str):
        shown = "".join(map(_escaped, text[: limit + 1]))
    elif text is None or type(text) in (float, bool) or (type(text) is int and text.bit_length() <= 1024):
        shown = ascii(text)
    elif type(text) in (tuple, list):
        shown = _sequence(text, limit)
    else:
        shown = f"<{type(text).__name__}>"
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _escaped(character: str) -> str:
    return character if " " <= character <= "~" else character.encode("unicode_escape").decode("ascii")


def _sequence(sequence: Any, limit: int) -> str:
    parts = [
        f"<{type(part).__name__}>" if type(part) in (tuple, list) else printable(part, limit) for part in sequence[:8]
    ]
    left, right = "()" if type(sequence) is tuple else "[]"
    return left + ", ".join([*parts, "..."] if len(sequence) > 8 else parts) + right


def counted(count: int, noun: str) -> str:
    """Write a number of things, as in ``1 value`` and ``2,000 values``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shell_command(*words: str) -> str:
    """Write a command that a person types: printable ASCII that bash, zsh and ksh read as these words.

    Args:
        words: The program and its arguments; paths as Python has them.

    Returns:
        The command. A word of printable ASCII is quoted as ``shlex`` does it. Any other is written as ``$'...'`` with
        its bytes escaped.
    """
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    if all(" " <= character <= "~" for character in word):
        return shlex.quote(word)
    safe = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(safe)}'"


class Rule(str, Enum):
    """Stable ids of what is wrong with a value or a database; errors and reports carry them.

    Those of the second group never keep a value from being loaded: they concern a database as a whole, or are
    remarks of the audit (``audit.rules`` has the level and the help of each).
    """

    NOT_A_PICKLE = "not-a-pickle"
    MALFORMED = "malformed"
    TRAILING_DATA = "trailing-data"
    FORBIDDEN_OPCODE = "forbidden-opcode"
    FORBIDDEN_GLOBAL = "forbidden-global"
    CALL_SHAPE = "call-shape"
    LIMIT = "limit-exceeded"
    STRUCTURE = "unsafe-structure"
    ARRAY = "invalid-array"
    PATCH = "invalid-patch"
    LMDB_KEY = "invalid-lmdb-key"
    TAG_MISSING = "tag-missing"
    TAG_INVALID = "tag-invalid"
    MANIFEST = "manifest-mismatch"
    SIGNATURE = "signature-invalid"
    TAG_FOREIGN = "tag-foreign"
    TENSORS = "invalid-safetensors"
    LOST = "worker-lost"

    DAMAGED = "database-damaged"
    RECORD_MISSING = "record-missing"
    FOREIGN_FILE = "foreign-file"
    WRITABLE = "writable-by-others"
    OWNER = "foreign-owner"
    OPINION = "second-opinion"
    METADATA = "suspicious-metadata"
    KEY_NAME = "lmdb-key-name"

    def __str__(self) -> str:
        return self.value


class BenSecureError(Exception):
    """Root of all errors about data; never raised itself.

    The message says what failed, what was found against what was expected, and what to do. Where in the data it
    happened rides as attributes, which survive pickling (errors cross the borders of DataLoader workers).

    Attributes:
        message: The text without the place; printable ASCII where it quotes the data.
        database: Path of the database, if known.
        lmdb_key: Raw LMDB key of the value, if known.
        rule: Stable id of the refusal, if it is one.
        offset: Byte offset in the value (or in the data file, for a store error), if known.
        opcode: Name of the pickle opcode at ``offset``, if known.
        global_name: ``module.name`` that the payload asked for, escaped, if that is what was refused.
    """

    _PLACE = ("database", "lmdb_key", "rule", "offset", "opcode", "global_name")

    def __init__(
        self,
        message: str,
        *,
        database: str | None = None,
        lmdb_key: bytes | None = None,
        rule: Rule | None = None,
        offset: int | None = None,
        opcode: str | None = None,
        global_name: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.database = database
        self.lmdb_key = lmdb_key
        self.rule = rule
        self.offset = offset
        self.opcode = opcode
        self.global_name = global_name

    def located(self, database: str, lmdb_key: bytes | None = None) -> BenSecureError:
        """Add the database and the LMDB key, for a layer that knows them; returns ``self`` to be raised."""
        self.database = self.database or database
        self.lmdb_key = self.lmdb_key if self.lmdb_key is not None else lmdb_key
        return self

    def __str__(self) -> str:
        place = ""
        if self.lmdb_key is not None:
            place += f" at LMDB key {printable(self.lmdb_key)}"
        if self.database is not None:
            place += f" in {printable(self.database, 400)}"
        return f"{self.message} [{place.strip()}]" if place else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: getattr(self, name) for name in self._PLACE if getattr(self, name) is not None}
        return type(self), (self.message,), state


class UntrustedDataError(BenSecureError):
    """The data was judged and refused (exit code 1); never raised itself."""


class UnsafePickleError(UntrustedDataError):
    """The pickle asks for something that no honest patch needs: a global, an opcode, a call, a structure."""


class LimitExceededError(UntrustedDataError):
    """The value is larger, deeper or longer than the limits allow (see ``ben_secure.limits``)."""


class PatchFormatError(UntrustedDataError):
    """The value is harmless but is not a patch: truncated, a band missing or misshapen, metadata of another type."""


class TagMismatchError(UntrustedDataError):
    """The value is not the one that was tagged under this LMDB key, context and MAC key, or it bears no tag."""


class SignatureError(UntrustedDataError):
    """The envelope of a manifest is not signed by the keys that the caller trusts, or says something else."""


class ManifestMismatchError(UntrustedDataError):
    """The database is not the one that the signed manifest lists: a value missing, added, changed or moved."""


class UndecidedError(BenSecureError):
    """The data could not be judged (exit code 2); never raised itself."""


class StoreError(UndecidedError):
    """A database or a file cannot be read or written: missing, truncated, damaged, taken, or of another kind."""


class TableError(UndecidedError):
    """A file of names, labels or statistics cannot be used: missing, malformed, too large, or without what it needs."""


class EncodeError(UndecidedError):
    """The input for a new database cannot be used: a band or label is missing, doubled or malformed."""


class KeyFileError(UndecidedError):
    """A key file cannot be used: missing, malformed, of another kind, or a secret that is not kept as one."""


class ResourceError(UndecidedError):
    """There was not enough memory or stack to judge a value; that says nothing about the value."""

    @classmethod
    def reading(cls, size: int) -> ResourceError:
        """The error for a value, or a part of a database, of ``size`` bytes."""
        return cls(
            f"there is not enough memory to read {size} bytes, which says nothing about them; free some memory and try "
            "again"
        )


class MissingExtraError(UndecidedError):
    """A library that only some functions need is not installed; the message names it."""
