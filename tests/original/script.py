"""Make and describe values in a virtual environment with the original package.

``make FOLDER`` writes one pickle per case; ``describe`` reads paths of pickles from standard input and prints one JSON
list, with the result of the original package for each.
"""

import hashlib
import json
import pathlib
import pickle
import re
import sys

import numpy as np
from bigearthnet_patch_interface.band_interface import Band
from bigearthnet_patch_interface.merged_interface import BigEarthNet_S1_S2_Patch
from bigearthnet_patch_interface.s1_interface import BigEarthNet_S1_Patch
from bigearthnet_patch_interface.s2_interface import BigEarthNet_S2_Patch

sys.modules["archive_patches"] = sys.modules["__main__"]
SIDES = {
    **dict.fromkeys(("02", "03", "04", "08", "VH", "VV"), 120),
    **dict.fromkeys(("05", "06", "07", "8A", "11", "12"), 60),
    **dict.fromkeys(("01", "09"), 20),
}
LABELS = ["Pastures", "Land principally occupied by agriculture, with significant areas of natural vegetation"]


def bands(seed, names, dtype):
    rng = np.random.default_rng(seed)
    return {"band" + name: rng.normal(3000, 900, (SIDES[name],) * 2).astype(dtype) for name in names}


def s2(seed, dtype="uint16"):
    return bands(seed, [name for name in SIDES if name not in ("VH", "VV")], dtype)


def s1(seed, dtype="float32"):
    return bands(seed, ["VH", "VV"], dtype)


METADATA = {
    "labels": LABELS,
    "new_labels": LABELS[:1],
    "acquired": "2017-06-13T10:10:31Z",
    "cloud": 0.25,
    "count": -(2**70),
    "none": None,
    "flag": True,
    "raw": b"\x00\xff",
    "nested": {"tuple": (1, 2.5, ("x", [])), "set": {"a"}, "empty": {}, "unicode": "Münster \u200f\U0001f6f0"},
}
NUMPY_METADATA = {
    "from_parquet": np.array(["Pastures", "Sea and ocean"], dtype=object),
    "bounds": np.array([[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]]),
    "column_major": np.asfortranarray(np.arange(6, dtype="int16").reshape(2, 3)),
    "big_endian": np.arange(3, dtype=">u4"),
    "names": np.array(["ä", "bc"]),
    "mask": np.array([True, False]),
    "scalar": np.float32(1.5),
    "number": np.int64(-3),
    "text": np.str_("B02"),
    "truth": np.bool_(True),
    "zero_dimensions": np.array(7, dtype="uint8"),
    "empty": np.zeros((0, 3), dtype="float64"),
    "listed": [np.float64(0.5), (np.arange(2), {"deep": np.arange(2.0)})],
}


class OwnPatch:
    """A user's own class, by inheritance as recommended; 0.1.0 has no base class to inherit from."""


try:
    from bigearthnet_patch_interface.patch_interface import BigEarthNetPatch
except ImportError:
    BigEarthNetPatch = None
else:

    class OwnPatch(BigEarthNetPatch):
        __module__ = "archive_patches"

        def __init__(self, ndvi, scl, **metadata):
            self.ndvi = Band(name="NDVI", spatial_resolution=10, data_shape=(12, 10), data=ndvi)
            scl = Band(name="SCL", spatial_resolution=20, data_shape=(6, 5), data=scl)
            super().__init__(bands=[scl, self.ndvi], **metadata)


def cases():
    yield "s1", BigEarthNet_S1_Patch(**s1(1), **METADATA)
    yield "s2", BigEarthNet_S2_Patch(**s2(2), **METADATA)
    yield "s1_s2", BigEarthNet_S1_S2_Patch(**s1(3), **s2(4), **METADATA)
    yield "bare", BigEarthNet_S2_Patch(**s2(5))
    yield "numpy_metadata", BigEarthNet_S1_Patch(**s1(6), **NUMPY_METADATA)
    yield "float_bands", BigEarthNet_S1_S2_Patch(**s1(7, "float64"), **s2(8, "float32"))
    mixed = s2(9)
    mixed["band02"] = mixed["band02"].astype("float32")
    mixed["band8A"] = np.asfortranarray(mixed["band8A"])
    mixed["band11"] = mixed["band11"].astype(">u2")
    yield "mixed_bands", BigEarthNet_S2_Patch(**mixed)
    changed = BigEarthNet_S2_Patch(**s2(10), labels=LABELS)
    changed.note = "set later"
    changed.labels = ["changed later"]
    yield "changed_attributes", changed
    if BigEarthNetPatch is not None:
        rng = np.random.default_rng(11)
        yield "own", OwnPatch(rng.random((12, 10)), rng.integers(0, 11, (6, 5), dtype="uint8"), labels=LABELS)


def plain(value):
    """A JSON form of metadata that keeps every type apart."""
    if isinstance(value, dict):
        content = {name: plain(item) for name, item in value.items()}
    elif isinstance(value, (list, tuple)):
        content = [plain(item) for item in value]
    elif isinstance(value, set):
        content = sorted(map(repr, value))
    elif isinstance(value, np.ndarray):
        content = [value.dtype.str, value.shape, value.tolist() if value.dtype.kind != "c" else repr(value)]
    elif isinstance(value, np.generic):
        return ["scalar", value.dtype.str, repr(value.item())]
    else:
        content = repr(value)
    return [type(value).__name__, content]


def describe(patch):
    """The content of a patch as JSON; the same function describes ours."""
    bands = sorted(patch.bands, key=lambda band: band.name)
    attributes = {
        name: value
        for name, value in vars(patch).items()
        if not name.startswith("_") and not type(value).__name__.startswith(("Ben", "Band", "BigEarthNet"))
    }
    attributes.pop("bands", None)
    return {
        "class": type(patch).__name__,
        "order": [band.name for band in patch.bands],
        "bands": [
            [type(b).__name__, b.name, b.spatial_resolution, list(b.data_shape), b.data.dtype.str,
             b.data.flags.writeable, hashlib.sha256(b.data.tobytes("C")).hexdigest()]
            for b in bands
        ],
        "attributes": plain(attributes),
        "stored": plain(patch.__stored_args__),
        "stacked": {
            name: [array.dtype.str, array.shape, hashlib.sha256(array.tobytes("C")).hexdigest()]
            for name in ("bands", "10m_bands", "20m_bands", "60m_bands")
            if hasattr(patch, "get_stacked_" + name)
            for array in [getattr(patch, "get_stacked_" + name)()]
        },
        # numpy 2 writes its scalars in another way.
        "repr": re.sub(r"np\.\w+\((.*?)\)", r"\1", repr(patch)),
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "make":
        for name, patch in cases():
            for protocol in (4, 5):
                path = pathlib.Path(sys.argv[2], f"{name}.protocol{protocol}.pickle")
                path.write_bytes(pickle.dumps(patch, protocol=protocol))
    else:
        json.dump([describe(pickle.loads(pathlib.Path(line.strip()).read_bytes())) for line in sys.stdin], sys.stdout)
