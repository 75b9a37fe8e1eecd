"""Databases that liblmdb writes, honest, hostile or damaged, and the values in them."""

from __future__ import annotations

import lmdb
import numpy as np
import pytest
from hypothesis import strategies as st

from support import assembler
from support.legacy_values import GENERATIONS, small_tree, write
from support.strategies import TwoBandPatch

try:
    import lmdb.verify
except ImportError:
    HAS_LMDB_VERIFY = False
else:
    HAS_LMDB_VERIFY = True
needs_lmdb_3 = pytest.mark.skipif(not HAS_LMDB_VERIFY, reason="lmdb before release 3 has no lmdb.verify")

NAME = b"S2A_MSIL2A_20170613T101031_87_48"

HONEST = [*(write(small_tree(generation)) for generation in GENERATIONS), assembler.canonical()]
SHELL = assembler.program(assembler.call(assembler.name("posix", "system"), assembler.text("touch canary")))
HOSTILE = [
    SHELL,
    HONEST[0] + SHELL,
    HONEST[0][:-1],
    b"",
    b"\x80\x04N.",
    b"\x80\x04" + b")" + b"\x85" * 1000 + b".",
    TwoBandPatch(np.zeros((2, 3), "<u2"), np.zeros((60, 60), "<f4")).dumps(),
]


def make_database(path, records, **options):
    """Write raw records with liblmdb, as another program would."""
    with lmdb.open(str(path), map_size=2**30, sync=False, **options) as env, env.begin(write=True) as transaction:
        for lmdb_key, value in records.items():
            transaction.put(lmdb_key, value)
    return path


def faults_of(path):
    """The faults that ``lmdb.verify`` finds in a database; empty without ``lmdb.verify``."""
    if not HAS_LMDB_VERIFY:
        return []
    try:
        return lmdb.verify.verify(str(path))
    except lmdb.verify.VerifyError as error:
        return [str(error)]


def damage_key(path, lmdb_key):
    """Give a key another length, so that a walk over the keys ends there."""
    data_file = path / "data.mdb"
    content = bytearray(data_file.read_bytes())
    content[content.index(lmdb_key) - 8 + 6] = 0xFF
    data_file.write_bytes(content)


def damage(path, marker):
    """Break the header of the overflow page whose value begins with ``marker``."""
    data_file = path / "data.mdb"
    content = bytearray(data_file.read_bytes())
    header = content.index(marker) - 16
    content[header : header + 8] = b"\xff" * 8
    data_file.write_bytes(content)


@st.composite
def values(draw):
    """Honest values, hostile ones, and both with a few bytes changed, cut or added."""
    value = bytearray(draw(st.sampled_from(HONEST + HOSTILE)))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(value)))
        value[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(value)
