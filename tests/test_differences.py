"""The changes between two releases."""

from hypothesis import given
from hypothesis import strategies as st

from ben_secure.store.change.differences import KEPT, changes

RECORDS = st.dictionaries(st.binary(min_size=1, max_size=3), st.sampled_from([b"1" * 32, b"2" * 32]), max_size=8)


@given(RECORDS, RECORDS)
def test_every_record_is_of_one_kind(old, new):
    """Added, changed, removed or unchanged, as the two dictionaries say."""
    found = changes(sorted(old.items()), sorted(new.items()))
    assert found.added.first == sorted(new.keys() - old.keys())
    assert found.removed.first == sorted(old.keys() - new.keys())
    assert found.changed.first == sorted(key for key in old.keys() & new.keys() if old[key] != new[key])
    assert found.unchanged == len(old.keys() & new.keys()) - found.changed.count
    for kind in (found.added, found.changed, found.removed):
        assert kind.count == len(kind.first)


def test_many_are_counted_and_some_are_kept():
    """The memory does not grow with the lists."""
    found = changes([], [(b"%09d" % number, b"") for number in range(1000)])
    assert (found.added.count, len(found.added.first)) == (1000, KEPT)
