"""The law of the audit: a value is clean exactly if ``loads`` returns a patch, for every judge and every history."""

import os
import random

import pytest

from ben_secure.audit import Options, Run, audit_database
from ben_secure.audit.rules import Level
from ben_secure.audit.run.runner import audit_merged, audit_shard
from ben_secure.errors import UntrustedDataError
from ben_secure.signing.footer import payload_end
from ben_secure.signing.keys import MacKey, MacKeySet
from ben_secure.signing.tags import append_tag
from ben_secure.values import Decoder
from support.attacks import ATTACKS
from support.databases import HONEST, HOSTILE, make_database
from support.legacy_values import GENERATIONS, MERGED, S1, S2, small_tree, tree, write
from support.strategies import make_patch
from support.tensor_files import file as tensors
from support.tensor_files import sentinel

VALUES = int(os.environ.get("BEN_SECURE_LAW_VALUES", "600"))
"""How many; 20,000 take some minutes."""
IN_ONE = 5000  # of a database; a report keeps 10,000 findings
QUIET = Options(opinions=False)
KEYS = MacKeySet(MacKey(bytes(range(32))))


def seeds():
    """Honest values of every kind and hostile ones."""
    legacy = [write(small_tree(generation, {"labels": [f"label {n}"]})) for n in range(3) for generation in GENERATIONS]
    whole = [write(tree(kind)) for kind in (S1, S2, MERGED)]
    canonical = [make_patch(labels=[f"label {n}"], n=n).dumps() for n in range(4)]
    return [*HONEST, *legacy, *canonical, *whole, tensors(sentinel(("B02", "B11")))], [
        *HOSTILE,
        *(attack.value() for attack in ATTACKS),
    ]


def generated(count, seed):
    """So many values: as they are, with bytes changed, cut, joined or tagged; half of them have an honest origin."""
    chance = random.Random(seed)
    honest, hostile = seeds()
    for _ in range(count):
        value = bytearray(chance.choice(honest if chance.random() < 0.7 else hostile))
        kind = chance.random()
        for _ in range(0 if kind < 0.4 else chance.randrange(1, 4)):
            place = chance.randrange(len(value) + 1)
            if kind < 0.7:  # where opcodes are: at the ends
                place = min(len(value), chance.choice((place % 64, max(0, len(value) - place % 400))))
            if kind < 0.9:
                value[place : place + chance.randrange(2)] = chance.randbytes(chance.randrange(2))
            else:
                other = chance.choice(honest)
                value[place:] = chance.choice((b"", other[place:], other))
        yield bytes(value)


def name_of(number):
    """The name of a patch."""
    return b"S2A_MSIL2A_201706%02dT101031_%d_%d" % (1 + number // 8100, number // 90 % 90, number % 90)


def loads_cold(value):
    """Whether a reader without a memory returns a patch."""
    try:
        Decoder().load(value, payload_end(value))
    except UntrustedDataError:
        return False
    return True


def refused(report):
    """The keys that an audit refuses."""
    assert (report.undecided, report.findings_left_out) == (None, 0)
    keys = {finding.lmdb_key for finding in report.findings if finding.level is Level.ERROR}
    assert len(keys) == report.refused
    return keys


@pytest.mark.slow
@pytest.mark.threat("T1")
@pytest.mark.threat("T20")
def test_clean_is_what_loads(tmp_path):
    """The result is the same for any order of values, one to three workers, and shards."""
    chance = random.Random(2)
    for begin in range(0, VALUES, IN_ONE):
        values = list(generated(min(IN_ONE, VALUES - begin), seed=begin))
        loads = {value: loads_cold(value) for value in set(values)}
        assert 0.2 < sum(map(loads.get, values)) / len(values) < 0.8
        for workers in (1, 2, 3):
            chance.shuffle(values)
            records = {
                name_of(number): append_tag(KEYS.signing, b"c", name_of(number), value) if number % 5 == 4 else value
                for number, value in enumerate(values)
            }
            expected = {name for name, value in zip(records, values, strict=True) if not loads[value]}
            database = make_database(tmp_path / f"{begin}-{workers}", records)
            assert refused(audit_database(database, options=QUIET, run=Run(workers=workers))) == expected
        files = [tmp_path / f"part-{begin}-{number}" for number in (1, 2, 3)]
        for number, file in enumerate(files, 1):
            audit_shard([database], (number, 3), file, options=QUIET, run=Run(workers=1))
        (report,) = audit_merged(files, options=QUIET)
        assert refused(report) == expected
