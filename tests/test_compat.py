"""Code written for the original package works with the safe classes, and nothing of the original gets in.

The first part has the behaviours that the original's own tests state, in our words; the rest is the standing in itself.
"""

import importlib
import importlib.util
import io
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import ben_secure
from ben_secure import compat
from ben_secure.bands import S2_BANDS
from ben_secure.errors import UnsafePickleError
from support.legacy_values import tree, write
from support.strategies import make_patch

PACKAGE = "bigearthnet_patch_interface"
EXPORTS = {
    "band_interface": {"Band", "BenS2_10mBand", "BenS2_20mBand", "BenS2_60mBand", "BenS1_Band"},
    "patch_interface": {"BigEarthNetPatch"},
    "s1_interface": {"BigEarthNet_S1_Patch", "random_ben_S1_band"},
    "s2_interface": {
        "BigEarthNet_S2_Patch", "S2_DN_TO_REFLECTANCE", "random_ben_S2_band", "s2_to_float", "s2_to_float32",
        "s2_to_float64",
    },
    "merged_interface": {"BigEarthNet_S1_S2_Patch", "BigEarthNet_S1_Patch", "BigEarthNet_S2_Patch", "BigEarthNetPatch"},
}  # fmt: skip
SIDES = {10: ("02", "03", "04", "08"), 20: ("05", "06", "07", "8A", "11", "12"), 60: ("01", "09")}


@pytest.fixture(autouse=True)
def clean():
    """No test leaves the name taken, and none starts with it taken."""
    compat.uninstall()
    foreign = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == PACKAGE}
    yield
    compat.uninstall()
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    sys.modules.update(foreign)


@pytest.fixture
def names():
    """The names that star imports of all modules give while compat is installed."""
    with compat.install():
        found = {}
        for module in EXPORTS:
            exec(f"from {PACKAGE}.{module} import *", found)
        yield found


@pytest.fixture
def radar(names):
    """Bands of an S1 patch, by argument."""
    return {"bandVV": names["random_ben_S1_band"](), "bandVH": names["random_ben_S1_band"]()}


@pytest.fixture
def optical(names):
    """Bands of an S2 patch, by argument."""
    make = names["random_ben_S2_band"]
    return {"band" + band: make(spatial_resoluion=metres) for metres, bands in SIDES.items() for band in bands}


def short(bands):
    """The same bands by their short names."""
    return {name[4:] if name[4] == "V" else "B" + name[4:]: pixels for name, pixels in bands.items()}


class TestBehavioursOfTheOriginal:
    """The behaviour that the original's own tests state."""

    def test_a_band_checks_its_shape(self, names):
        """Pixels of another shape than announced are a ValueError."""
        with pytest.raises(ValueError, match=r"found shape \(1,\), expected \(2, 1\)"):
            names["Band"](name="B01", spatial_resolution=10, data=np.array([1]), data_shape=(2, 1))
        assert names["Band"](name="B01", spatial_resolution=10, data=np.array([[1], [2]]), data_shape=(2, 1)).data.size

    @pytest.mark.parametrize("data", [[[1]], 1, "1", None])
    def test_a_band_takes_arrays_only(self, names, data):
        """Anything else is a ValueError, as pydantic's error is one."""
        with pytest.raises(ValueError, match=r"expected a numpy\.ndarray"):
            names["Band"](name="B01", spatial_resolution=10, data=data, data_shape=(1, 1))

    def test_a_band_tells_its_name_and_resolution(self, names):
        """They are in its text."""
        band = names["Band"](name="B01", spatial_resolution=10, data=np.array([[1]]), data_shape=(1, 1))
        assert "B01" in str(band)
        assert "10" in str(band)

    @pytest.mark.parametrize(
        ("form", "wrong", "right"),
        [
            ("BenS2_10mBand", ["wrong_name", "B09", "B01", "B8A"], "B02"),
            ("BenS2_20mBand", ["wrong_name", "B02", "B03", "B09"], "B05"),
            ("BenS2_60mBand", ["wrong_name", "B02", "B11", "VV"], "B01"),
            ("BenS1_Band", ["wrong_name", "B01", "vv"], "VV"),
        ],
    )
    def test_fixed_bands_check_their_name(self, names, form, wrong, right):
        """A name of another resolution is a ValueError, whether or not there are pixels."""
        side = {"BenS2_20mBand": 60, "BenS2_60mBand": 20}.get(form, 120)
        for name in wrong:
            for pixels in ({}, {"data": np.zeros((side, side))}):
                with pytest.raises(ValueError, match=r"found band name .*, expected one of"):
                    names[form](name=name, **pixels)
        assert names[form](name=right, data=np.zeros((side, side))).name == right
        with pytest.raises(ValueError, match="found NoneType"):
            names[form](name=right)

    def test_helpers_have_their_shapes_and_dtypes(self, names):
        """Random bands and conversions have the shapes and dtypes of the original."""
        assert names["random_ben_S1_band"]().shape == (120, 120)
        for metres, side in ((10, 120), (20, 60), (60, 20)):
            assert names["random_ben_S2_band"](spatial_resoluion=metres).shape == (side, side)
        assert names["random_ben_S2_band"](original_dtype=True).dtype == "uint16"
        numbers = np.array([1, 2, 3])
        assert names["s2_to_float32"](numbers).dtype == names["s2_to_float"](numbers).dtype == "float32"
        assert names["s2_to_float64"](numbers).dtype == "float64"
        assert names["S2_DN_TO_REFLECTANCE"] == 10_000

    def test_radar_patches(self, names, radar):
        """VH before VV, however they are given; a flat band is refused; unknown names are KeyErrors."""
        cls = names["BigEarthNet_S1_Patch"]
        for patch in (cls(**radar), cls.short_init(**short(radar))):
            assert np.array_equal(patch.get_bands()[0], radar["bandVH"])
            assert np.array_equal(patch.get_bands()[1], radar["bandVV"])
            assert np.array_equal(patch.get_stacked_bands(), np.stack([radar["bandVH"], radar["bandVV"]]))
            assert isinstance(patch.get_band_by_name("VV"), names["Band"])
        with pytest.raises(ValueError, match="found shape"):
            cls(**radar | {"bandVV": radar["bandVV"].flatten()})
        for name in ("B01", "bandVH", "Vh"):
            with pytest.raises(KeyError):
                cls(**radar).get_band_data_by_name(name)

    def test_optical_patches(self, names, optical):
        """Bands come in natural order for each resolution; swapped ones are refused; unknown names are KeyErrors."""
        cls = names["BigEarthNet_S2_Patch"]
        for patch in (cls(**optical), cls.short_init(**short(optical))):
            for metres, bands in SIDES.items():
                expected = [optical["band" + band] for band in bands]
                found = getattr(patch, f"get_{metres}m_bands")()
                assert all(map(np.array_equal, found, expected))
                assert np.array_equal(getattr(patch, f"get_stacked_{metres}m_bands")(), np.stack(expected))
        with pytest.raises(ValueError, match="found shape"):
            cls(**optical | {"band01": optical["band02"], "band02": optical["band01"]})
        for name in ("B1", "B10", "band01"):
            with pytest.raises(KeyError):
                cls(**optical).get_band_data_by_name(name)

    def test_merged_patches(self, names, radar, optical):
        """All fourteen bands are found by name, and the parts are patches with bands as attributes."""
        cls = names["BigEarthNet_S1_S2_Patch"]
        bands = radar | optical
        for patch in (cls(**bands), cls.short_init(**short(bands))):
            for argument, name in zip(bands, short(bands), strict=True):
                assert np.array_equal(patch.get_band_data_by_name(name), bands[argument])
            assert [band.name for band in patch.bands][::13] == ["B01", "VV"]
            assert np.array_equal(patch.s2_patch.band8A.data, optical["band8A"])
            assert np.array_equal(patch.s1_patch.bandVH.data, radar["bandVH"])

    def test_bands_are_reached_without_getattr(self, names, radar, optical):
        """A reader of the field calls ``__getattribute__``, which does not come past ``__getattr__``."""
        patch = names["BigEarthNet_S1_S2_Patch"](**radar, **optical)
        for part, attribute in [("s1_patch", "bandVV"), ("s2_patch", "band8A"), ("s2_patch", "band02")]:
            band = patch.__getattribute__(part).__getattribute__(attribute)
            assert np.array_equal(band.data, (radar | optical)[attribute])
        with pytest.raises(AttributeError, match="band10"):
            patch.s2_patch.__getattribute__("band10")

    def test_metadata_becomes_attributes(self, names, radar, optical):
        """It becomes attributes of each class, and is in the text of the patch."""
        for cls, bands in (("S1", radar), ("S2", optical), ("S1_S2", radar | optical)):
            patch = names[f"BigEarthNet_{cls}_Patch"](**bands, labels=["Marine waters"])
            assert patch.labels == patch.__stored_args__["labels"] == ["Marine waters"]
            assert "Marine waters" in repr(patch)

    def test_values_are_written_and_read(self, names, radar, optical):
        """Both bytes and files work."""
        for cls, bands in (("S1", radar), ("S2", optical), ("S1_S2", radar | optical)):
            patch = names[f"BigEarthNet_{cls}_Patch"](**bands, labels=["x"])
            file = io.BytesIO()
            patch.dump(file)
            file.seek(0)
            assert type(patch).loads(patch.dumps()) == patch == type(patch).load(file)

    @pytest.mark.parametrize(
        ("cls", "given", "long"),
        [("S1", "VV", "bandVV"), ("S1", "Vh", "bandVH"), ("S2", "B01", "band01"), ("S2", "1", "band01"),
         ("S2", "08a", "band8A"), ("S2", "b12", "band12")],
    )  # fmt: skip
    def test_short_names_become_arguments(self, names, cls, given, long):
        """Names of any case and length are accepted."""
        assert names[f"BigEarthNet_{cls}_Patch"].short_to_long_band_name(given) == long

    def test_own_patches_derive_from_the_base(self, names):
        """As the original's documentation shows."""

        class OwnPatch(names["BigEarthNetPatch"]):
            def __init__(self, green, **metadata):
                self.green = names["Band"](name="green", spatial_resolution=5, data_shape=(2, 2), data=green)
                super().__init__(bands=[self.green], **metadata)

        patch = OwnPatch(np.ones((2, 2)), labels=["x"])
        assert patch.get_natsorted_bands_by_spatial_res(5)[0].sum() == 4
        assert patch.green.name == "green"


def test_modules_export_what_the_original_exports():
    """A star import of each module gives its names, and they are the classes of this package."""
    with compat.install():
        for short_name, expected in EXPORTS.items():
            module = importlib.import_module(f"{PACKAGE}.{short_name}")
            found = {}
            exec(f"from {PACKAGE}.{short_name} import *", found)
            assert expected <= set(found)
            assert "pickle" not in found
            for name in expected:
                assert found[name] is getattr(ben_secure.patches, name) is getattr(module, name)
        package = importlib.import_module(PACKAGE)
        assert package.__version__ == "0.1.2"
        assert package.s2_interface is sys.modules[f"{PACKAGE}.s2_interface"]
        for names in ("Bands", "TPatch", "TBand"):
            assert hasattr(package.patch_interface, names)


def test_modules_are_proper_modules():
    """They have specs, survive a reload, and an import after they were taken out of sys.modules."""
    with compat.install():
        package = importlib.import_module(PACKAGE)
        module = importlib.import_module(f"{PACKAGE}.s2_interface")
        assert importlib.util.find_spec(f"{PACKAGE}.s2_interface").origin == "ben_secure.compat"
        assert (package.__package__, module.__package__) == (PACKAGE, PACKAGE)
        assert package.__spec__.submodule_search_locations == []
        assert importlib.reload(module) is module
        assert importlib.reload(package) is package
        del sys.modules[f"{PACKAGE}.s2_interface"]
        assert importlib.import_module(f"{PACKAGE}.s2_interface") is module
        with pytest.raises(ModuleNotFoundError, match="no_interface"):
            importlib.import_module(f"{PACKAGE}.no_interface")


def test_the_name_is_free_before_and_after():
    """Without the original there is nothing outside of the block; twice is as good as once."""
    before = list(sys.meta_path)
    for _ in range(2):
        assert importlib.util.find_spec(PACKAGE) is None
        with compat.install():
            assert compat.installed()
            importlib.import_module(PACKAGE)
        assert not compat.installed()
        assert sys.meta_path == before
        with pytest.raises(ModuleNotFoundError, match=PACKAGE):
            importlib.import_module(PACKAGE)


def test_installations_nest():
    """An inner block does not end an outer one, nor a call without a block; uninstall ends all, also twice."""
    before = list(sys.meta_path)
    with compat.install():
        with compat.install():
            pass
        assert importlib.import_module(PACKAGE).__version__
    compat.install()
    compat.install()
    with compat.install():
        pass
    assert len(sys.meta_path) == len(before) + 1
    assert importlib.import_module(PACKAGE).__version__
    with compat.install() as held:
        compat.uninstall()
        assert not compat.installed()
    held.__exit__(None, None, None)
    compat.uninstall()
    assert importlib.util.find_spec(PACKAGE) is None


def test_threads_may_install_at_once():
    """In any order, all threads see the modules while installed, and the last one restores the names."""
    failures, before = [], list(sys.meta_path)

    def work():
        for _ in range(50):
            with compat.install():
                if importlib.import_module(f"{PACKAGE}.s1_interface").__name__ not in sys.modules:
                    failures.append("gone")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not compat.installed()
    assert sys.meta_path == before


@pytest.fixture
def original(tmp_path, monkeypatch):
    """Something in the place of the original, installed and not yet imported."""
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("original = True\n")
    for module in (*EXPORTS, "later_interface"):
        (folder / f"{module}.py").write_text("original = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder


@pytest.mark.threat("T17")
def test_an_installed_original_does_not_get_in(original):
    """Ours wins over an original that is installed, whole, and gives the name back afterwards."""
    with compat.install():
        for module in EXPORTS:
            assert not hasattr(importlib.import_module(f"{PACKAGE}.{module}"), "original")
        assert not hasattr(importlib.reload(sys.modules[PACKAGE]), "original")
        with pytest.raises(ModuleNotFoundError, match=r"later_interface'; bigearthnet_patch_interface is ben_secure"):
            importlib.import_module(f"{PACKAGE}.later_interface")
    assert importlib.import_module(f"{PACKAGE}.later_interface").original


@pytest.mark.threat("T17")
def test_an_original_that_was_imported_is_an_error(original):
    """The error names the modules and the remedy, and nothing is changed; before the import, install works."""
    with compat.install():
        pass
    importlib.import_module(f"{PACKAGE}.s1_interface")
    before = list(sys.meta_path)
    with pytest.raises(RuntimeError, match=rf"{PACKAGE}, {PACKAGE}\.s1_interface of the original .*install\(\) before"):
        compat.install()
    assert not compat.installed()
    assert sys.modules[PACKAGE].original
    assert sys.meta_path == before


@pytest.mark.threat("T17")
@pytest.mark.parametrize("generation", ["numpy2-pydantic2", "interface-0.1.0"])
def test_code_for_the_original_reads_legacy_values_safely(names, generation):
    """The class methods that training code calls give the patch of an honest value and run nothing of a hostile one."""
    cls = names["BigEarthNet_S1_S2_Patch"]
    honest = write(tree("BigEarthNet_S1_S2_Patch", generation))
    assert type(cls.loads(honest)) is cls
    assert cls.load(io.BytesIO(honest)) == ben_secure.loads(honest)


@pytest.mark.threat("T17")
def test_code_for_the_original_runs_no_hostile_value(names, tmp_path, monkeypatch):
    """The same call on a value that would run code is an error, and the canary does not appear."""
    monkeypatch.chdir(tmp_path)
    hostile = b"\x80\x04cposix\nsystem\n(X\x0c\x00\x00\x00touch canarytR."
    for load in (names["BigEarthNet_S2_Patch"].loads, lambda value: names["BigEarthNetPatch"].load(io.BytesIO(value))):
        with pytest.raises(UnsafePickleError, match="do not load this value with pickle"):
            load(hostile)
    assert not (tmp_path / "canary").exists()
    pickle.loads(hostile)
    assert (tmp_path / "canary").exists()  # the remaining risk: code that calls pickle itself


@pytest.mark.threat("T17")
@pytest.mark.parametrize("kind", ["BigEarthNet_S1_Patch", "BigEarthNet_S2_Patch", "BigEarthNet_S1_S2_Patch"])
def test_pickle_itself_never_half_builds_a_patch(names, kind):
    """``pickle.loads`` of a legacy value is refused with the way out; of a canonical one it gives the whole patch."""
    legacy = write(tree(kind, "numpy1-pydantic1" if np.__version__.startswith("1.") else "numpy2-pydantic2"))
    with pytest.raises(UnsafePickleError, match=r"was read with pickle\.loads.*use ben_secure\.loads"):
        pickle.loads(legacy)
    patch = names[kind].loads(legacy)
    assert pickle.loads(patch.dumps()) == patch


@pytest.mark.parametrize("cls", ["BigEarthNet_S2_Patch", "Band"])
def test_no_object_is_filled_by_a_state(cls):
    """Not even an empty state: neither a patch nor a band is ever filled past its checks."""
    target = getattr(ben_secure, cls)
    with pytest.raises(UnsafePickleError, match=f"fill a {cls} past all checks"):
        target.__new__(target).__setstate__({})


def test_values_are_canonical(names):
    """Code for the original writes the same values as this package, by its methods and by pickle."""
    ours = make_patch(labels=["x"])
    theirs = names["BigEarthNet_S2_Patch"](
        **{spec.attribute: getattr(ours, spec.attribute).data for spec in S2_BANDS}, labels=["x"]
    )
    assert theirs.dumps() == ours.dumps()
    assert PACKAGE.encode() not in theirs.dumps()
    assert ben_secure.loads(pickle.dumps(theirs, protocol=5)) == ours


def test_one_line_at_the_top_is_enough():
    """A program for the original, which is not installed, runs in a process of its own."""
    program = f"""
import ben_secure.compat
ben_secure.compat.install()
from {PACKAGE}.s2_interface import *
from {PACKAGE}.merged_interface import BigEarthNet_S1_S2_Patch
import {PACKAGE}
bands = {{f"band{{n}}": random_ben_S2_band(spatial_resoluion=m)
         for m, ns in {SIDES!r}.items() for n in ns}}
print(type(BigEarthNet_S2_Patch.loads(BigEarthNet_S2_Patch(**bands).dumps())).__module__)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ben_secure.patches\n", "")
