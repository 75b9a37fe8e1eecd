"""Every error that ben_secure raises about data. One root has two branches, which decide the exit code.

``UntrustedDataError`` means that the data was judged and refused (exit 1). ``UndecidedError`` means that it could
not be judged (exit 2). Every error that untrusted bytes cause is one of these. A caller's own mistake stays a
``TypeError``, ``ValueError`` or ``KeyError``. This module imports nothing of the package.
"""

from __future__ import annotations

import os
import shlex
from enum import Enum
from typing import Any

_SHOWN_CHARACTERS = 120


def printable(text: object, limit: int = _SHOWN_CHARACTERS) -> str:
    """Make hostile text safe to show: escape all characters except printable ASCII, and cut it to a length.

    LMDB keys, global names and strings from a payload can hold terminal escapes, line breaks, right-to-left marks
    and megabytes. Every piece of text that comes from a file passes through here before a person sees it.

    Args:
        text: A str, or bytes (shown as ``b'...'``), a number, None, or a short tuple or list of these. Any other object
            is shown only by its type, because a ``repr`` can exceed the available memory.
        limit: Maximum number of characters in the result; ``...`` replaces the rest.

    Returns:
        Printable ASCII of at most ``limit`` characters.
    """
    if isinstance(text, bytes | bytearray):
        escaped = repr(bytes(text[: limit + 1]))
    elif isinstance(text, str):
        escaped = "".join(map(_escaped, text[: limit + 1]))
    elif text is None or type(text) in (float, bool) or (type(text) is int and text.bit_length() <= 1024):
        escaped = ascii(text)
    elif type(text) in (tuple, list):
        escaped = _sequence(text, limit)
    else:
        escaped = f"<{type(text).__name__}>"
    return escaped if len(escaped) <= limit else escaped[: limit - 3] + "..."


def _escaped(character: str) -> str:
    return character if " " <= character <= "~" else ascii(character)[1:-1]


def _sequence(sequence: Any, limit: int) -> str:
    items = [
        f"<{type(item).__name__}>" if type(item) in (tuple, list) else printable(item, limit) for item in sequence[:8]
    ]
    left, right = "()" if type(sequence) is tuple else "[]"
    return left + ", ".join([*items, "..."] if len(sequence) > 8 else items) + right


def counted(count: int, noun: str) -> str:
    """Write a number of things, as in ``1 value`` and ``2,000 values``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def shell_command(*words: str) -> str:
    """Write a command for a person to type: printable ASCII that bash, zsh and ksh read as these words.

    Args:
        words: The program and its arguments. Paths as Python has them.

    Returns:
        The command. A word of printable ASCII is quoted as in ``shlex``. Any other is written as ``$'...'`` with its
        bytes escaped.
    """
    return " ".join(map(_shell_word, words))


def _shell_word(word: str) -> str:
    if all(" " <= character <= "~" for character in word):
        return shlex.quote(word)
    safe = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(safe)}'"


class Rule(str, Enum):
    """Stable ids of the faults that a value or a database can have. Errors and reports carry them.

    The rules of the second group never prevent the loading of a value. They concern a database as a whole, or are
    remarks of the audit (``audit.rules`` has the level and the help text of each).
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
    """Root of all errors about data. Only its subclasses are raised.

    The message states the failure, the values found and expected, and the remedy. Attributes hold the location in the
    data. They survive pickling, because errors pass from DataLoader workers to the main process.

    Attributes:
        message: The text without the location. Quotations of the data are printable ASCII.
        database: Path of the database, if known.
        lmdb_key: Raw LMDB key of the value, if known.
        rule: Stable id of the refusal, if the error is one.
        offset: Byte offset in the value (or in the data file, for a store error), if known.
        opcode: Name of the pickle opcode at ``offset``, if known.
        global_name: ``module.name`` of the refused global, escaped, if the payload asked for one.
    """

    _LOCATION = ("database", "lmdb_key", "rule", "offset", "opcode", "global_name")

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
        """Add the database and the LMDB key, in a layer that knows them, and return ``self`` to be raised."""
        self.database = self.database or database
        self.lmdb_key = self.lmdb_key if self.lmdb_key is not None else lmdb_key
        return self

    def __str__(self) -> str:
        location = ""
        if self.lmdb_key is not None:
            location += f" at LMDB key {printable(self.lmdb_key)}"
        if self.database is not None:
            location += f" in {printable(self.database, 400)}"
        return f"{self.message} [{location.strip()}]" if location else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        state = {name: getattr(self, name) for name in self._LOCATION if getattr(self, name) is not None}
        return type(self), (self.message,), state


class UntrustedDataError(BenSecureError):
    """The data was judged and refused (exit code 1). Only its subclasses are raised."""


class UnsafePickleError(UntrustedDataError):
    """The pickle uses a global, an opcode, a call or a structure that no honest patch needs."""


class LimitExceededError(UntrustedDataError):
    """The value is larger, deeper or longer than the limits allow (see ``ben_secure.limits``)."""


class PatchFormatError(UntrustedDataError):
    """The value is harmless but is not a patch: it is truncated, or a band or its metadata is malformed."""


class TagMismatchError(UntrustedDataError):
    """The value is not the one that was tagged under this LMDB key, context and MAC key, or it has no tag."""


class SignatureError(UntrustedDataError):
    """The envelope of a manifest is not signed by the keys that the caller trusts, or is about something else."""


class ManifestMismatchError(UntrustedDataError):
    """The database is not the one in the signed manifest: a value is missing, added, changed or moved."""


class UndecidedError(BenSecureError):
    """The data could not be judged (exit code 2). Only its subclasses are raised."""


class StoreError(UndecidedError):
    """A database or a file cannot be read or written: it is missing, damaged, in use, or of another kind."""


class TableError(UndecidedError):
    """A file of names, labels or statistics cannot be used: it is missing, malformed, too large or incomplete."""


class EncodeError(UndecidedError):
    """The input for a new database cannot be used: a band or label is missing, duplicated or malformed."""


class KeyFileError(UndecidedError):
    """A key file cannot be used: it is missing, malformed, of another kind, or a secret that others can read."""


class ResourceError(UndecidedError):
    """There was not enough memory or stack to judge a value. This is not a verdict on the value."""

    @classmethod
    def reading(cls, size: int) -> ResourceError:
        """Make the error for a value, or a part of a database, of ``size`` bytes."""
        return cls(
            f"there is not enough memory to read {size} bytes, so they were not judged; free some memory and try again"
        )


class MissingExtraError(UndecidedError):
    """A library that an optional function needs is not installed. The message names it."""
