"""The allow-list is a closed table of exact pairs, and the unpickler has a stand-in for each and for nothing else."""

import importlib
import inspect
import types

import numpy as np
import pytest

import ben_secure
from ben_secure import metadata, patches
from ben_secure.bands import BAND_CLASSES as BAND_TABLE
from ben_secure.pickles import allowlist, unpickler
from ben_secure.pickles.allowlist import BAND_CLASSES, KINDS, PATCH_MODULES, Kind
from ben_secure.pickles.arrays import Inert
from support.legacy_values import PATCH_MODULES as WRITTEN_MODULES


@pytest.mark.threat("T1")
def test_table_is_closed():
    """Exact pairs of text in a read-only mapping; every change of the table has to be made here, too."""
    assert type(KINDS) is types.MappingProxyType
    assert type(unpickler.STAND_INS) is types.MappingProxyType
    with pytest.raises(TypeError):
        KINDS["os", "system"] = Kind.CALL
    interface = "bigearthnet_patch_interface"
    assert {pair: kind.name for pair, kind in KINDS.items()} == {
        ("ben_secure.patches", "rebuild_patch"): "CALL",
        ("ben_secure.metadata", "rebuild_array"): "CALL",
        ("ben_secure.metadata", "rebuild_scalar"): "CALL",
        ("numpy", "ndarray"): "NAME",
        ("numpy", "dtype"): "BUILDER",
        ("numpy.core.multiarray", "_reconstruct"): "BUILDER",
        ("numpy._core.multiarray", "_reconstruct"): "BUILDER",
        ("numpy.core.multiarray", "scalar"): "CALL",
        ("numpy._core.multiarray", "scalar"): "CALL",
        ("numpy.core.numeric", "_frombuffer"): "CALL",
        ("numpy._core.numeric", "_frombuffer"): "CALL",
        (f"{interface}.band_interface", "Band"): "CLASS",
        (f"{interface}.band_interface", "BenS1_Band"): "CLASS",
        (f"{interface}.band_interface", "BenS2_10mBand"): "CLASS",
        (f"{interface}.band_interface", "BenS2_20mBand"): "CLASS",
        (f"{interface}.band_interface", "BenS2_60mBand"): "CLASS",
        (f"{interface}.patch_interface", "BigEarthNetPatch"): "CLASS",
        (f"{interface}.s1_interface", "BigEarthNet_S1_Patch"): "CLASS",
        (f"{interface}.s2_interface", "BigEarthNet_S2_Patch"): "CLASS",
        (f"{interface}.merged_interface", "BigEarthNet_S1_S2_Patch"): "CLASS",
    }


@pytest.mark.threat("T1")
def test_every_pair_has_a_stand_in_and_no_other():
    """Both walls know the same names, and none of the stand-ins is the real thing."""
    assert unpickler.STAND_INS.keys() == KINDS.keys()
    real = {id(np.ndarray), id(np.dtype), id(patches.rebuild_patch), id(metadata.rebuild_array)}
    for pair, stand_in in unpickler.STAND_INS.items():
        assert id(stand_in) not in real
        made = stand_in if isinstance(stand_in, type) else type(stand_in)
        assert issubclass(made, Inert)
        assert made.__module__.startswith("ben_secure.pickles."), pair
        assert isinstance(stand_in, type) == (KINDS[pair] is Kind.CLASS)
        assert callable(stand_in) == (KINDS[pair] is not Kind.NAME)


@pytest.mark.threat("T1")
def test_modules_that_decide_import_nothing_by_name():
    """Neither the table nor the walls import, evaluate or look up by a name from the data."""
    for module in (allowlist, unpickler, *map(importlib.import_module, (
        "ben_secure.pickles.opcodes", "ben_secure.pickles._steps", "ben_secure.pickles._segments",
        "ben_secure.pickles.arrays", "ben_secure.pickles.legacy",
    ))):  # fmt: skip
        source = inspect.getsource(module)
        for word in ("__import__", "import_module", "importlib", "eval(", "exec(", "sys.modules", "super().find_class"):
            assert word not in source, (module.__name__, word)


def test_names_are_those_that_pickles_write():
    """Our functions are found under their names, numpy's pickles name the admitted functions, and the tables agree."""
    for module, attribute in (pair for pair in KINDS if pair[0].startswith("ben_secure")):
        function = getattr(importlib.import_module(module), attribute)
        assert (function.__module__, function.__qualname__) == (module, attribute)
    array = np.zeros((2, 2), np.float32)
    for function in (array.__reduce__()[0], array[0, 0].__reduce__()[0], array.__reduce_ex__(5)[0]):
        core = function.__module__.replace("numpy.core", "numpy._core")
        assert (core, function.__name__) in KINDS
        assert (core.replace("numpy._core", "numpy.core"), function.__name__) in KINDS
    assert dict(PATCH_MODULES) == WRITTEN_MODULES
    assert set(BAND_CLASSES) == set(BAND_TABLE)
    assert all(hasattr(ben_secure, name) for name in (*PATCH_MODULES, *BAND_CLASSES))
