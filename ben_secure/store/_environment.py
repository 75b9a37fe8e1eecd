"""Open a database with liblmdb, by any release of the package lmdb from 1.4 on."""

from __future__ import annotations

import os
from typing import Any

import lmdb

from ben_secure._system.optional import has_lmdb_verify


def open_environment(path: str | bytes, **options: Any) -> lmdb.Environment:
    """Open a database as ``lmdb.open`` does, in the file format of LMDB 0.9.

    Release 3 of lmdb knows another format, too, and an environment variable that asks for it; older ones do not.
    """
    if has_lmdb_verify():
        options["lib_version"] = 0
    return lmdb.open(os.fsencode(path), **options)  # liblmdb takes bytes, also such as are not UTF-8
