"""Judge one record of a database.

The law: a value is clean exactly if ``values.loads`` returns a patch. So this calls ``loads`` and nothing else; it
has no rules about values of its own and never keeps what was loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ben_secure.audit.findings import Finding
from ben_secure.errors import BenSecureError, Rule
from ben_secure.limits import DEFAULT_LIMITS, Limits
from ben_secure.values import loads

if TYPE_CHECKING:
    from ben_secure.patches import BigEarthNetPatch


def scan_value(
    lmdb_key: bytes,
    value: bytes,
    *,
    classes: Iterable[type[BigEarthNetPatch]] = (),
    limits: Limits = DEFAULT_LIMITS,
) -> Finding | None:
    """Judge one record.

    Args:
        lmdb_key: Raw LMDB key; must be UTF-8, since a reader names patches by it.
        value: The stored bytes.
        classes: Patch subclasses that the caller declares, as for ``loads``.
        limits: What the value may cost.

    Returns:
        None if the value is a patch under a key that has a name; otherwise what is wrong, the value before the key.
    """
    try:
        loads(value, classes=classes, limits=limits)
    except BenSecureError as error:
        return Finding.from_error(lmdb_key, error)
    try:
        lmdb_key.decode()
    except UnicodeDecodeError as error:
        return Finding(
            lmdb_key=lmdb_key,
            rule=Rule.LMDB_KEY,
            message=f"the LMDB key is not UTF-8 (byte {error.start} of {len(lmdb_key)}), so no reader can name this "
            "patch; store it under its name",
        )
    return None
