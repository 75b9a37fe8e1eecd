"""The part of the demo that signs: tag and sign a few patches, tamper with copies, and show what a reader says.

Works on copies in a directory of its own, which it removes; keys are made for the occasion and never written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

import lmdb
from rich import box
from rich.console import Console
from rich.table import Table

from ben_secure.errors import UntrustedDataError
from ben_secure.signing.keys import MacKey, SigningKey
from ben_secure.signing.manifest import manifest_path
from ben_secure.signing.policy import Verification
from ben_secure.store.change.sign import sign_database
from ben_secure.store.reader import PatchReader
from ben_secure.store.writer import PatchWriter

_PATCHES = 6
_NAME = "demo"
_NEW, _OLD = "2.0", "1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tampering:
    """One thing that someone with write access, but no key, does.

    Attributes:
        what: For the table.
        change: Changes a transaction; gets the keys of the first two values.
        verification: What the reader asks for.
    """

    what: str
    change: Callable[[lmdb.Transaction, bytes, bytes], object]
    verification: Verification


def _value(reading: lmdb.Transaction, lmdb_key: bytes) -> bytes:
    return bytes(reading.get(lmdb_key) or b"")


def _flip(writing: lmdb.Transaction, first: bytes, second: bytes) -> None:
    value = bytearray(_value(writing, first))
    value[len(value) // 2] ^= 1
    writing.put(first, bytes(value))


def _swap(writing: lmdb.Transaction, first: bytes, second: bytes) -> None:
    values = _value(writing, first), _value(writing, second)
    writing.put(second, values[0])
    writing.put(first, values[1])


def _strip(writing: lmdb.Transaction, first: bytes, second: bytes) -> None:
    writing.put(first, _value(writing, first)[:-64])


def _remove(writing: lmdb.Transaction, first: bytes, second: bytes) -> None:
    writing.delete(first)


def show_signing(honest: Path, out: Console) -> list[str]:
    """Sign, tamper, read.

    Args:
        honest: Database of honest patches; only read.
        out: Where to print.

    Returns:
        What did not go as it should.
    """
    mac_key, publisher = MacKey.generate(), SigningKey.generate()
    team = Verification(mac_key=mac_key, context=_NAME)
    release = Verification(verify_key=publisher.verify_key, name=_NAME, version=_NEW)
    tamperings = (
        Tampering(what="one bit of a value flipped", change=_flip, verification=team),
        Tampering(what="the tag of a value stripped", change=_strip, verification=team),
        Tampering(what="two values swapped", change=_swap, verification=release),
        Tampering(what="one record deleted", change=_remove, verification=release),
    )
    with tempfile.TemporaryDirectory(dir=honest.parent, prefix="signed-") as folder:
        new, old = Path(folder, "new.lmdb"), Path(folder, "old.lmdb")
        for database, version, count in ((new, _NEW, _PATCHES), (old, _OLD, _PATCHES - 1)):
            _copy_tagged(honest, database, mac_key, count)
            created = datetime.now(timezone.utc).replace(microsecond=0)
            sign_database(database, [publisher], name=_NAME, version=version, created=created)
        problems = (
            []
            if _reads(new, replace(release, mac_key=mac_key, context=_NAME)) is None
            else ["the signed patches are refused"]
        )
        said = {tampering.what: _said_of_copy(new, tampering) for tampering in tamperings}
        said["an older signed copy in its place"] = _reads(old, release)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("done without the key", no_wrap=True)
    table.add_column("the reader refuses: ", overflow="fold")
    for what, reason in said.items():
        table.add_row(what, reason or "NOT NOTICED")
    out.print(f"\n4. Tag and sign {_PATCHES} patches, and tamper with copies", style="bold")
    out.print(table)
    return problems + [f"{what}: not noticed" for what, reason in said.items() if reason is None]


def _copy_tagged(honest: Path, database: Path, mac_key: MacKey, count: int) -> None:
    with PatchReader(honest) as reader, PatchWriter(database, mac_key=mac_key, context=_NAME) as writer:
        for name in list(reader)[:count]:
            writer[name] = reader[name]


def _said_of_copy(database: Path, tampering: Tampering) -> str | None:
    copy = database.with_name("tampered.lmdb")
    shutil.copytree(database, copy)
    with lmdb.open(str(copy), map_size=2**28, lock=False) as environment, environment.begin(write=True) as writing:
        first, second = (bytes(lmdb_key) for (lmdb_key, _), _ in zip(writing.cursor(), range(2), strict=False))
        tampering.change(writing, first, second)
    verification = tampering.verification
    if verification.verify_keys:
        verification = replace(verification, manifest=manifest_path(database))
    said = _reads(copy, verification)
    shutil.rmtree(copy)
    return said


def _reads(database: Path, verification: Verification) -> str | None:
    """Read every patch as a user who asks for this; None, or the first sentence of the refusal."""
    try:
        with PatchReader(database, verification=verification) as reader:
            for name in reader:
                reader[name]
    except UntrustedDataError as refusal:
        return refusal.message.split("; ")[0]
    return None
