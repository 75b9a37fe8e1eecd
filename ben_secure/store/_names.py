"""The name of a patch and its LMDB key: one rule for readers, converters and the audit, without I/O."""

from __future__ import annotations

from ben_secure.errors import PatchFormatError, Rule

MAX_KEY_BYTES = 511
"""MDB_MAXKEYSIZE of liblmdb. Other builds can store longer keys, which writers and manifests refuse."""


def name_of(lmdb_key: bytes, database: str | None = None) -> str:
    """Decode the name of a patch.

    Args:
        lmdb_key: Raw LMDB key (hostile).
        database: Path of the database, for the message, if it is not clear.

    Returns:
        The name.

    Raises:
        PatchFormatError: The key is not UTF-8 or too long.
    """
    check_length(lmdb_key, database)
    try:
        return lmdb_key.decode()
    except UnicodeDecodeError as error:
        raise _unnamed(lmdb_key, f"is not UTF-8 (byte {error.start} of {len(lmdb_key)})", database) from error


def check_length(lmdb_key: bytes, database: str | None = None) -> None:
    """Check that a key can be written.

    Args:
        lmdb_key: Raw LMDB key; hostile.
        database: Path of the database, for the message, if it is not clear.

    Raises:
        PatchFormatError: The key is too long.
    """
    if len(lmdb_key) > MAX_KEY_BYTES:
        raise _unnamed(lmdb_key, f"has {len(lmdb_key)} bytes, expected at most {MAX_KEY_BYTES}", database)


def _unnamed(lmdb_key: bytes, fault: str, database: str | None = None) -> PatchFormatError:
    return PatchFormatError(
        f"the LMDB key {fault}, so no reader can name this patch; write a copy without it: "
        "ben-secure convert DB NEW --skip-refused",
        database=database,
        lmdb_key=lmdb_key,
        rule=Rule.LMDB_KEY,
    )


def lmdb_key_of(name: object) -> bytes | None:
    """Encode a name.

    Args:
        name: Name of a patch.

    Returns:
        The LMDB key, or None for a str that cannot be one.

    Raises:
        TypeError: ``name`` is not a str.
    """
    if not isinstance(name, str):
        raise TypeError(f"patch names are str, not {type(name).__name__}")
    try:
        lmdb_key = name.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return None
    return lmdb_key if len(lmdb_key) <= MAX_KEY_BYTES else None
