"""The allow-list is a closed table of exact pairs, whose rows are inert."""

import ast
import dataclasses
import importlib
import pathlib
import types

import numpy as np
import pytest

import ben_secure
from ben_secure import pickles
from ben_secure.bands import BAND_CLASSES as BAND_TABLE
from ben_secure.pickles.names import BAND_CLASSES, PATCH_MODULES, TABLE, Name, Use, declared
from support.legacy_values import PATCH_MODULES as WRITTEN_MODULES


@pytest.mark.threat("T1")
def test_table_is_closed():
    """Exact pairs of text in a read-only mapping; every change of the table has to be made here, too."""
    assert type(TABLE) is types.MappingProxyType
    with pytest.raises(TypeError):
        TABLE["os", "system"] = Name("system", Use.CALL)
    for row in TABLE.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            row.use = Use.CALL
    interface = "bigearthnet_patch_interface"
    assert {pair: row.use.name for pair, row in TABLE.items()} == {
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
def test_a_row_is_nothing_but_its_name():
    """A row for a global is not the real object, cannot be called, and has no references to it."""
    for pair, row in TABLE.items():
        assert type(row) is Name
        assert row.name == pair[1]
        assert not callable(row)
        assert row.patch_class is None
        assert (row.arity > 0) == (row.use in (Use.CALL, Use.BUILDER))
        for attribute in ("name", "use", "arity", "patch_class", "x", "__class__", "__call__", "__setstate__"):
            with pytest.raises((AttributeError, TypeError)):
                setattr(row, attribute, dict)


@pytest.mark.threat("T1")
def test_declared_classes_stand_beside_the_table():
    """They are in the caller's table alone, and cannot take a name of the interface."""
    mine = type("Mine", (), {"__module__": "archive"})
    table = declared((mine,))
    assert table["archive", "Mine"].patch_class is mine
    assert {pair: row for pair, row in table.items() if pair[0] != "archive"} == dict(TABLE)
    assert ("archive", "Mine") not in TABLE
    posing = type("Band", (), {"__module__": "bigearthnet_patch_interface.band_interface"})
    for classes in ((mine, mine), (posing,)):
        with pytest.raises(ValueError, match="declared twice or is a class of the interface"):
            declared(classes)


FORBIDDEN = {
    "__import__", "import_module", "importlib", "eval", "exec", "compile", "modules", "getattr", "setattr", "delattr",
    "globals", "locals", "vars", "__globals__", "__builtins__", "_Unpickler", "methodcaller", "attrgetter",
    "__setstate__", "__reduce_ex__", "__class__", "__new__",
}  # fmt: skip


@pytest.mark.threat("T1")
@pytest.mark.parametrize("path", sorted(pathlib.Path(pickles.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_modules_of_the_core_have_no_word_for_it(path):
    """No module can import, evaluate or look up by a name; one knows pickle, and calls its constructor only."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    words = {node.id for node in nodes if isinstance(node, ast.Name)}
    words |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    words |= {alias.name for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    assert not words & FORBIDDEN
    assert ("pickle" in words) == (path.stem == "unpickler")
    of_super = {node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "super()"}
    assert of_super <= {"__init__"}


def test_names_are_those_that_pickles_write():
    """Our functions are found under their names, numpy's pickles name the admitted functions, and the tables agree."""
    for module, attribute in (pair for pair in TABLE if pair[0].startswith("ben_secure")):
        function = getattr(importlib.import_module(module), attribute)
        assert (function.__module__, function.__qualname__) == (module, attribute)
    array = np.zeros((2, 2), np.float32)
    for function in (array.__reduce__()[0], array[0, 0].__reduce__()[0], array.__reduce_ex__(5)[0]):
        core = function.__module__.replace("numpy.core", "numpy._core")
        assert (core, function.__name__) in TABLE
        assert (core.replace("numpy._core", "numpy.core"), function.__name__) in TABLE
    assert dict(PATCH_MODULES) == WRITTEN_MODULES
    assert set(BAND_CLASSES) == set(BAND_TABLE)
    assert all(hasattr(ben_secure, name) for name in (*PATCH_MODULES, *BAND_CLASSES))
