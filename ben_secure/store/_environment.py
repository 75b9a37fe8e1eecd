"""Open a database with liblmdb, through version 1.4 or newer of the package lmdb."""

from __future__ import annotations

import os
import sys
from typing import Any

import lmdb

from ben_secure._system.optional import has_lmdb_verify
from ben_secure.errors import StoreError


def open_environment(path: str | bytes, **options: Any) -> lmdb.Environment:
    """Open a database like ``lmdb.open``, in the file format of LMDB 0.9.

    Version 3 of lmdb supports a second format, which an environment variable can select. Older versions do not.

    Raises:
        StoreError: The machine is big-endian. LMDB would write in its byte order.
        lmdb.Error: The database cannot be opened.
    """
    if sys.byteorder != "little":
        raise StoreError(
            "this machine is big-endian, and most machines could not read an LMDB database that it writes; "
            "write the database on a little-endian machine (reading one here works)"
        )
    if has_lmdb_verify():
        options["lib_version"] = 0
    try:
        return lmdb.open(os.fsencode(path), **options)  # liblmdb takes any bytes, even if they are not UTF-8
    except OSError as error:  # lmdb itself makes the directory
        raise lmdb.Error(str(error)) from error
