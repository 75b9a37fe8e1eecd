"""What the commands that read patches share: how a reader is opened with the keys that were asked for."""

from __future__ import annotations

from typing import Annotated

import typer

from ben_secure.signing.keys import read_mac_keys, read_verify_key
from ben_secure.store.reader import PatchReader

VerifyKeyOption = Annotated[
    list[str] | None,
    typer.Option("--verify-key", metavar="FILE", help="Publisher's public key (PEM); any one of several must sign."),
]


def open_reader(
    database: str, mac_key: str | None, context: str, verify_keys: list[str] | None, manifest: str | None
) -> PatchReader:
    """Open a database; every value that is read from it is verified with the keys that are given.

    Args:
        database: Path of the database.
        mac_key: ``--mac-key``.
        context: ``--context``.
        verify_keys: ``--verify-key``.
        manifest: ``--manifest``.

    Returns:
        The reader.

    Raises:
        typer.BadParameter: An option is missing its partner.
        BenSecureError: A key file cannot be used, or as ``PatchReader``.
    """
    if context and mac_key is None:
        raise typer.BadParameter("--context belongs to --mac-key")
    if manifest is not None and not verify_keys:
        raise typer.BadParameter("--manifest belongs to --verify-key")
    return PatchReader(
        database,
        mac_key=None if mac_key is None else read_mac_keys(mac_key, database),
        context=context,
        verify_key=[read_verify_key(path) for path in verify_keys] if verify_keys else None,
        manifest=manifest,
    )
