"""The names that users may rely on."""

import importlib
import pickle

import pytest

import ben_secure
import ben_secure.audit


def test_every_public_name_resolves():
    """Each name of ``__all__`` can be fetched and is listed by ``dir``."""
    for package in (ben_secure, ben_secure.audit):
        for name in package.__all__:
            assert getattr(package, name) is not None
        assert set(package.__all__) <= set(dir(package))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("bands", "S2_BANDS"),
        ("batches", "PatchArrays"),
        ("compat", "install"),
        ("encode", "encode"),
        ("labels.nomenclature", "to_19"),
        ("labels.tables", "pairs_of"),
        ("labels.tables", "read_table"),
        ("metadata", "rebuild_array"),
        ("metadata", "rebuild_scalar"),
        ("patches", "rebuild_patch"),
        ("signing.keys", "MacKey"),
        ("stats", "stats"),
        ("store.reader", "PatchReader"),
    ],
)
def test_documented_paths_stay(module, name):
    """Paths in documents or stored values lead to the objects, wherever these are defined."""
    assert hasattr(importlib.import_module(f"ben_secure.{module}"), name)


def test_only_public_names_are_listed():
    """Completion shows only names that users may rely on."""
    assert sorted(dir(ben_secure)) == sorted(["__version__", *ben_secure.__all__])


def test_unknown_name_is_an_attribute_error():
    """A misspelt name fails as in any module, and ``hasattr`` is false."""
    with pytest.raises(AttributeError, match="no attribute 'PatchRaeder'"):
        ben_secure.PatchRaeder  # noqa: B018
    assert not hasattr(ben_secure, "pickle")
    assert not hasattr(ben_secure.audit, "pickle")


def test_errors_have_one_root_and_two_branches():
    """Every public error is refused (exit 1) or undecided (exit 2), never both."""
    for name in ben_secure.__all__:
        found = getattr(ben_secure, name)
        if isinstance(found, type) and issubclass(found, Exception) and found is not ben_secure.BenSecureError:
            branches = [issubclass(found, b) for b in (ben_secure.UntrustedDataError, ben_secure.UndecidedError)]
            assert sum(branches) == 1


def test_errors_survive_pickling():
    """An error that crosses the border of a worker keeps its text and place."""
    error = ben_secure.UnsafePickleError(
        "refused", lmdb_key=b"k\x1b", database="a.lmdb", offset=3, global_name="os.system"
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ben_secure.UnsafePickleError
    assert str(again) == str(error) == "refused [at LMDB key b'k\\x1b' in a.lmdb]"
    assert (again.offset, again.global_name) == (3, "os.system")
