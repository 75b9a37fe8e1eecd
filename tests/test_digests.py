"""Functions over all values of a database: in threads, in key order, bounded, and complete or an error."""

import hashlib
import itertools
import os
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ben_secure import LimitExceededError, StoreError
from ben_secure.pages.reader import PageReader
from ben_secure.store.change import digests
from ben_secure.store.change.digests import map_values, record_digests
from support.page_files import Layout, build, changed, open_env

in_one_directory = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Three records a batch, so that a few are many batches."""
    monkeypatch.setattr(digests, "_BATCH_RECORDS", 3)


def numbered(count, size=10):
    """Some records in key order."""
    return [(b"%05d" % number, b"%d" % number * size) for number in range(count)]


@in_one_directory
@given(
    st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=50) | st.binary(max_size=9000), max_size=40),
    st.none() | st.integers(1, 5),
)
def test_every_value_is_hashed(tmp_path, values, workers):
    """Each value is hashed once, in key order, whether inline or on many pages."""
    path = tmp_path / "data.mdb"
    path.unlink(missing_ok=True)
    build(path, values.items())
    with PageReader(path) as pages:
        found = list(record_digests(pages, workers))
    assert found == [(lmdb_key, hashlib.sha256(values[lmdb_key]).digest()) for lmdb_key in sorted(values)]


def test_threads_work_at_the_same_time(tmp_path):
    """Two workers are in the function together: each waits for the other."""
    records = numbered(12)
    with PageReader(build(tmp_path / "data.mdb", records)) as pages:
        barrier = threading.Barrier(2, timeout=300)
        found = list(map_values(pages, lambda _, value: (barrier.wait() in (0, 1), value), 2))
    assert found == [(lmdb_key, (True, value)) for lmdb_key, value in records]


def test_the_work_ahead_is_bounded(tmp_path):
    """If results are consumed slowly, only some batches wait, not the database; an abandoned reader stops the work."""
    with PageReader(build(tmp_path / "data.mdb", numbered(300))) as pages:
        done = []
        results = map_values(pages, lambda lmdb_key, _: done.append(lmdb_key), 2)
        for taken, _ in enumerate(itertools.islice(results, 60), start=1):
            assert len(done) <= taken + 3 * (2 * 3 + 2)
        results.close()
        after = len(done)
        assert after < 100
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("ben-secure")]
        assert not threads
        assert len(done) == after


def test_an_error_of_the_function_ends_the_walk(tmp_path):
    """It comes out as it is, after the results before it."""

    def fail(lmdb_key, _):
        if lmdb_key == b"00100":
            raise KeyError(lmdb_key)

    before = []
    with PageReader(build(tmp_path / "data.mdb", numbered(300))) as pages, pytest.raises(KeyError, match="00100"):
        before.extend(lmdb_key for lmdb_key, _ in map_values(pages, fail, 2))
    assert before == [lmdb_key for lmdb_key, _ in numbered(99)]  # whole batches


def test_a_value_that_is_too_long(tmp_path):
    """It is refused, and the error names it."""
    records = numbered(10) + [(b"9", bytes(5000))]
    build(tmp_path / "data.mdb", records)
    with PageReader(tmp_path, max_value_bytes=4999) as pages, pytest.raises(LimitExceededError) as caught:
        list(record_digests(pages))
    assert caught.value.lmdb_key == b"9"
    with PageReader(tmp_path, max_value_bytes=5000) as pages:
        assert len(list(record_digests(pages))) == 11


def test_a_damaged_database(tmp_path):
    """A file that is cut off is an error, not a shorter list."""
    path = build(tmp_path / "data.mdb", numbered(50, 2000))
    os.truncate(path, path.stat().st_size - 4096)
    with PageReader(path) as pages, pytest.raises(StoreError, match="truncated"):
        list(record_digests(pages))


@pytest.mark.threat("T8")
def test_a_tree_that_hides_records(tmp_path):
    """A separator that is too low leads searches past the end of the leaf before it; no walk accepts such a tree."""
    records = numbered(300)
    path = build(tmp_path / "data.mdb", records)
    data = path.read_bytes()
    layout = Layout(data)
    (branch,) = layout.branches
    second = layout.nodes(branch // layout.page_bytes)[1]
    separator = data[second + 8 : second + 8 + layout.u16(second + 6)]
    lower = b"%05d" % (int(separator) - 1)
    path.write_bytes(changed(data, second + 8, lower))
    with pytest.raises(StoreError, match="it has keys that its branch page does not lead to"):
        PageReader(path)
    path.write_bytes(data)
    with PageReader(path) as pages:
        assert len(list(record_digests(pages))) == 300


@pytest.mark.parametrize("change", ["added", "removed", "exchanged"])
def test_a_writer_meanwhile(tmp_path, change):
    """Results that are of no one state of the database end in an error."""
    path = build(tmp_path / "data.mdb", numbered(100))
    with PageReader(path) as pages:
        results = record_digests(pages, 2)
        assert next(results)[0] == b"00000"
        with open_env(path) as env, env.begin(write=True) as transaction:
            if change == "removed":
                transaction.delete(b"00050")
            else:
                transaction.put(b"00050" if change == "exchanged" else b"00050+", b"new")
        with pytest.raises(StoreError, match="was written to while it was read"):
            list(results)
        assert len(list(record_digests(pages, 2))) == {"added": 101, "removed": 99, "exchanged": 100}[change]


@pytest.mark.threat("T19")
@pytest.mark.parametrize("change", ["replaced", "removed", None])
def test_a_database_that_is_replaced_meanwhile(tmp_path, change):
    """If the file at the path was replaced, results end in an error; otherwise they do not."""
    path = build(tmp_path / "data.mdb", numbered(100))
    other = build(tmp_path / "other.mdb", numbered(100))
    with PageReader(path) as pages:
        results = record_digests(pages, 2)
        next(results)
        if change == "replaced":
            other.rename(path)
        elif change == "removed":
            path.unlink()
        if change is None:
            assert len(list(results)) == 99
            return
        with pytest.raises(StoreError, match="the database was replaced by another file"):
            list(results)


def test_an_empty_database(tmp_path):
    """There are no results; the caller decides their meaning."""
    with PageReader(build(tmp_path / "data.mdb", [])) as pages:
        assert list(record_digests(pages)) == []
