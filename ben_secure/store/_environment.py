"""Open a database with liblmdb, through version 1.4 or newer of the package lmdb."""

from __future__ import annotations

import os
from typing import Any

import lmdb

from ben_secure._system.optional import has_lmdb_verify


def open_environment(path: str | bytes, **options: Any) -> lmdb.Environment:
    """Open a database like ``lmdb.open``, in the file format of LMDB 0.9.

    Version 3 of lmdb knows a second format, which an environment variable can select; older versions do not.
    """
    if has_lmdb_verify():
        options["lib_version"] = 0
    return lmdb.open(os.fsencode(path), **options)  # liblmdb takes any bytes, even if they are not UTF-8
