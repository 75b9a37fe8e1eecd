"""Records joined where a table says so: nothing by likeness, nothing lost, errors that name both records."""

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ben_secure import tensors
from ben_secure.bands import BANDS
from ben_secure.errors import PatchFormatError, StoreError, TagMismatchError, UnsafePickleError
from ben_secure.patches import BigEarthNet_S1_Patch, BigEarthNet_S1_S2_Patch, BigEarthNet_S2_Patch
from ben_secure.signing.keys import MacKey
from ben_secure.signing.tags import append_tag
from ben_secure.store.pairs import PairedReader, join
from ben_secure.store.reader import PatchReader
from support.databases import SHELL, make_database
from support.strategies import make_patch

KEY = MacKey(bytes(32))
S2_NAME, S1_NAME = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_75_43", "S1A_IW_GRDH_1SDV_20170613T165043_33UUP_70_48"
PAIRS = {S2_NAME: S1_NAME, "S2B": "S1B", "S2C": "S1C"}
S2 = make_patch(BigEarthNet_S2_Patch, labels=["Pastures"])
S1 = make_patch(BigEarthNet_S1_Patch, seed=1)
RECORDS = {
    S2_NAME.encode(): tensors.dumps(S2),
    S1_NAME.encode(): tensors.dumps(S1),
    b"S2B": S2.dumps(),
    b"S1B": S1.dumps(),
    b"S2 without a twin": S2.dumps(),
}


@pytest.fixture
def reader(tmp_path):
    """A database with both kinds of records, in both formats."""
    with PatchReader(make_database(tmp_path / "db", RECORDS)) as opened:
        yield opened


def test_pairs_are_merged_patches(reader):
    """Of the bands of both and the metadata of both; names, number and order are those of the pairs that are there."""
    paired = PairedReader(reader, PAIRS)
    assert list(paired) == [S2_NAME, "S2B"]
    assert len(paired) == 2
    assert S2_NAME in paired
    assert "S2C" not in paired
    assert "S2 without a twin" not in paired
    for patch in (*paired.values(), *paired.get_many(["S2B"])):
        assert type(patch) is BigEarthNet_S1_S2_Patch
        assert (patch.s2_patch, patch.s1_patch) == (BigEarthNet_S2_Patch(**arrays(S2)), S1)
        assert patch.__stored_args__ == {"labels": ["Pastures"]}
    assert "pairs>" in repr(paired)
    assert paired == paired
    assert len({paired, PairedReader(reader, PAIRS)}) == 2


def arrays(patch):
    """Pixels as arguments of the class."""
    return {BANDS[band.name].attribute: band.data for band in patch.bands}


def test_two_databases(tmp_path):
    """The Sentinel-1 records may lie elsewhere; closing closes both."""
    s2 = {lmdb_key: value for lmdb_key, value in RECORDS.items() if lmdb_key.startswith(b"S2")}
    s1 = {lmdb_key: value for lmdb_key, value in RECORDS.items() if lmdb_key.startswith(b"S1")}
    readers = PatchReader(make_database(tmp_path / "s2", s2)), PatchReader(make_database(tmp_path / "s1", s1))
    with PairedReader(readers[0], PAIRS, readers[1]) as paired:
        assert paired["S2B"] == join(S2, S1)
        again = pickle.loads(pickle.dumps(paired))
        assert again["S2B"] == paired["S2B"]
        assert again.s1_reader is not again.s2_reader
    again.close()
    again.close()


def test_it_is_picklable_and_shared_by_threads(reader):
    """As the reader that it has, which it does not open twice."""
    paired = PairedReader(reader, PAIRS)
    again = pickle.loads(pickle.dumps(paired))
    assert again.s1_reader is again.s2_reader
    assert dict(again) == dict(paired)
    found = []
    threads = [threading.Thread(target=lambda: found.append(paired[S2_NAME])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [again[S2_NAME]] * 4
    again.close()


def test_a_database_that_grows_is_walked_again(tmp_path, reader):
    """Names are remembered until another transaction is committed."""
    paired = PairedReader(reader, PAIRS)
    assert len(paired) == 2
    import lmdb

    with lmdb.open(str(tmp_path / "db")) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"S2C", S2.dumps())
    assert len(paired) == 3
    with pytest.raises(StoreError, match=r"the Sentinel-1 record paired with S2C: there is no such record .*S1C.*db"):
        paired["S2C"]


def test_what_is_not_there(reader):
    """A name without a record, without a pair, or whose pair is missing."""
    paired = PairedReader(reader, {**PAIRS, S2_NAME: "S1 nowhere"})
    with pytest.raises(KeyError, match="no patch named S2Z"):
        paired["S2Z"]
    with pytest.raises(KeyError, match="does not pair S2 without a twin with a Sentinel-1 record"):
        paired["S2 without a twin"]
    with pytest.raises(StoreError, match=f"paired with {S2_NAME}: there is no such record .*b'S1 nowhere'"):
        paired[S2_NAME]
    with pytest.raises(TypeError, match="names are str"):
        paired[1]
    assert all(other not in paired for other in (1, None, b"S2B", ["S2B"]))
    assert paired["S2B"]


@pytest.mark.parametrize("kind", ["S2", "S1"])
def test_hostile_and_wrong_records_are_refused(tmp_path, kind):
    """Either record is read as the reader reads it, and the error names both."""
    good = {b"S2B": S2.dumps(), b"S1B": S1.dumps()}
    lmdb_key = f"{kind}B".encode()
    with PatchReader(make_database(tmp_path / "hostile", good | {lmdb_key: SHELL})) as reader:
        words = r"posix.system.*S2B" if kind == "S2" else r"paired with S2B: .*posix.system.*S1B"
        with pytest.raises(UnsafePickleError, match=words):
            PairedReader(reader, {"S2B": "S1B"})["S2B"]
    other = {"S2": S1, "S1": S2}[kind].dumps()
    with PatchReader(make_database(tmp_path / "wrong", good | {lmdb_key: other})) as reader:
        words = rf"a BigEarthNet_S._Patch, expected a BigEarthNet_{kind}_Patch.*record S1B.*S2B"
        with pytest.raises(PatchFormatError, match=words):
            PairedReader(reader, {"S2B": "S1B"})["S2B"]
    with PatchReader(make_database(tmp_path / "good", good)) as reader:
        assert PairedReader(reader, {"S2B": "S1B"})["S2B"] == join(S2, S1)


@pytest.mark.threat("T9")
def test_both_records_are_verified(tmp_path):
    """With a key, an untagged record of a pair is refused like any value; ``verified`` describes both."""
    tagged = {lmdb_key: append_tag(KEY, b"", lmdb_key, value) for lmdb_key, value in RECORDS.items()}
    make_database(tmp_path / "tagged", tagged)
    make_database(tmp_path / "twin", tagged | {b"S1B": RECORDS[b"S1B"]})
    with PatchReader(tmp_path / "tagged", mac_key=KEY) as reader, PatchReader(tmp_path / "tagged") as bare:
        paired = PairedReader(reader, PAIRS)
        assert paired[S2_NAME] == join(S2, S1)
        assert paired.verified == reader.verified
        assert PairedReader(reader, PAIRS, bare).verified is None
        assert PairedReader(bare, PAIRS, reader).verified is None
        again = pickle.loads(pickle.dumps(paired))
        assert again.verified == paired.verified
        again.close()
        with PatchReader(tmp_path / "tagged", mac_key=KEY) as second:
            verified = PairedReader(reader, PAIRS, second).verified
            assert verified == f"Sentinel-2: {reader.verified}; Sentinel-1: {second.verified}"
    with PatchReader(tmp_path / "twin", mac_key=KEY) as reader:
        with pytest.raises(TagMismatchError, match=r"paired with S2B: .*S1B"):
            PairedReader(reader, PAIRS)["S2B"]
        assert PairedReader(reader, PAIRS)[S2_NAME]


def test_a_callers_mistakes(reader):
    """Readers of another kind, names that are not str, and no pairs are refused."""
    for arguments, error in (
        (({}, PAIRS), TypeError),
        ((reader, PAIRS, {}), TypeError),
        ((reader, {"a": 1}), TypeError),
        ((reader, {1: "a"}), TypeError),
        ((reader, {}), ValueError),
    ):
        with pytest.raises(error):
            PairedReader(*arguments)
    assert PairedReader(reader, PAIRS, None)


_dtypes = st.sampled_from(["<u2", "<f4", "|u1", ">f8"])


@settings(max_examples=20)
@given(st.lists(_dtypes, min_size=14, max_size=14))
def test_pixels_and_dtypes_are_those_of_the_two(codes):
    """The bands have their own dtypes, on a new buffer."""
    dtypes = dict(zip(BANDS, codes, strict=True))
    s2, s1 = make_patch(BigEarthNet_S2_Patch, dtypes), make_patch(BigEarthNet_S1_Patch, dtypes, seed=3)
    merged = join(s2, s1)
    assert (merged.s2_patch, merged.s1_patch) == (s2, s1)
    merged.get_band_data_by_name("VV")[:] = 0
    assert not np.shares_memory(merged.get_band_data_by_name("VV"), s1.get_band_data_by_name("VV"))


def test_metadata_of_both():
    """Equal metadata occur once, different ones under ``s1_NAME``; a name that is then taken is refused."""
    s2 = make_patch(BigEarthNet_S2_Patch, labels=["a"], date="2017", snow=False)
    s1 = make_patch(BigEarthNet_S1_Patch, labels=["a"], date="2018", orbit=3)
    s1.later = [1]
    assert join(s2, s1).__stored_args__ == {
        "labels": ["a"], "date": "2017", "snow": False, "s1_date": "2018", "orbit": 3, "later": [1],
    }  # fmt: skip
    s2.s1_date = "?"
    with pytest.raises(PatchFormatError, match="'date', and there is 's1_date' already"):
        join(s2, s1)


def test_real_records(real_data):
    """rico-hdl's database, and the legacy ones, whose merged patches were made by the original encoder."""
    with PatchReader(real_data / "rico") as reader:
        paired = PairedReader(reader, PAIRS)
        assert list(paired) == [S2_NAME]
        assert paired[S2_NAME].s2_patch == reader[S2_NAME]
        assert paired[S2_NAME].s1_patch == reader[S1_NAME]
    legacy = real_data / "legacy" / "numpy1-pydantic1"
    with (
        PatchReader(legacy / "s2.lmdb") as s2,
        PatchReader(legacy / "s1.lmdb") as s1,
        PatchReader(legacy / "s1_s2.lmdb") as both,
    ):
        pairs = {name: twin for name in s2 for twin in s1 if same_pixels(both, name, s1[twin])}
        assert len(pairs) == 6
        assert dict(PairedReader(s2, pairs, s1)) == {name: both[name] for name in s2}


def same_pixels(both, name, s1):
    """Whether a patch is the Sentinel-1 half of a merged one."""
    return np.array_equal(both[name].s1_patch.get_stacked_bands(), s1.get_stacked_bands())
