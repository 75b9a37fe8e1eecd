"""The rounds of ``bench_encode.py``; runs inside its virtual environment and prints one JSON object."""

import json
import os
import pathlib
import pickle
import shutil
import statistics
import sys
import time

import _common
import lmdb
import numpy as np
import rasterio
import tifffile
from bigearthnet_patch_interface.merged_interface import BigEarthNet_S1_S2_Patch
from bigearthnet_patch_interface.s2_interface import BigEarthNet_S2_Patch

import ben_secure
from ben_secure.bands import BANDS, S1_BANDS, S2_BANDS
from ben_secure.encode import encode
from ben_secure.encode.geotiff import decode_band
from ben_secure.labels.nomenclature import CORINE_43, to_19
from ben_secure.signing.keys import MacKey


def build(root, patches):
    """Write patch folders as GDAL writes them, with label files that pair them; returns the Sentinel-2 names."""
    rng = np.random.default_rng(0)
    names = []
    for number in range(patches):
        s2_name = f"S2A_MSIL2A_20170613T101031_{number}_{number * 7 % 90}"
        s1_name = f"S1A_IW_GRDH_1SDV_20170613T165043_33UUP_{number}_{number * 7 % 90}"
        labels = [CORINE_43[i] for i in rng.choice(43, 3, replace=False)]
        for sensor, name, specs in (("s2", s2_name, S2_BANDS), ("s1", s1_name, S1_BANDS)):
            folder = root / sensor / name
            folder.mkdir(parents=True)
            for spec in specs:
                if spec.sensor == "S2":
                    array = rng.integers(0, 10_000, spec.shape, dtype="uint16")
                else:
                    array = rng.normal(-15, 4, spec.shape).astype("float32")
                write_band(folder / f"{name}_{spec.name}.tif", array, spec)
            document = {
                "labels": labels,
                "coordinates": {"ulx": 404400, "uly": 5342400, "lrx": 405600, "lry": 5341200},
                "projection": "PROJCS[...]" * 90,
            } | ({"corresponding_s2_patch": s2_name} if sensor == "s1" else {})
            (folder / f"{name}_labels_metadata.json").write_text(json.dumps(document))
        names.append((s2_name, s1_name))
    return names


def write_band(path, array, spec):
    transform = rasterio.transform.from_origin(404400, 5342400, spec.resolution_m, spec.resolution_m)
    profile = {"driver": "GTiff", "count": 1, "height": spec.side, "width": spec.side, "dtype": array.dtype.name}
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=transform) as file:
        file.write(array, 1)


def read_bands(folder):
    """Bands of a folder as the field's encoder reads them, by argument of the interface."""
    bands = {}
    for path in folder.glob("*.tif"):
        with rasterio.open(path) as file:
            bands["band" + path.stem.rpartition("_")[2].removeprefix("B")] = file.read(1)
    return bands


def field(root, names, target, merged):
    """Do the core work of the field's encoder."""
    with lmdb.open(target, map_size=2**32) as environment, environment.begin(write=True) as transaction:
        for s2_name, s1_name in names:
            folder = root / "s2" / s2_name
            bands = read_bands(folder) | (read_bands(root / "s1" / s1_name) if merged else {})
            labels = json.loads((folder / f"{s2_name}_labels_metadata.json").read_text())["labels"]
            cls = BigEarthNet_S1_S2_Patch if merged else BigEarthNet_S2_Patch
            patch = cls(**bands, labels=labels, new_labels=to_19(labels) or None)
            transaction.put(s2_name.encode(), patch.dumps())


def ways(root, names):
    """Return the timed functions, each of a target that does not exist yet."""
    s2, s1 = root / "s2", root / "s1"
    files = [(path, BANDS[path.stem.rpartition("_")[2]]) for path in s2.rglob("*.tif")]
    mac_key = MacKey.generate()

    def rasterio_reads(target):
        for path, _ in files:
            with rasterio.open(path) as file:
                file.read(1)

    def tifffile_reads(target):
        for path, _ in files:
            tifffile.imread(path)

    def we_read(target):
        for path, spec in files:
            decode_band(path.read_bytes(), spec)

    return {
        "rasterio: read the 12 bands": rasterio_reads,
        "tifffile: read the 12 bands": tifffile_reads,
        "encode.geotiff: read the 12 bands": we_read,
        "field: encode S2": lambda target: field(root, names, target, False),
        "encode: S2": lambda target: encode(target, s2=s2),
        "encode: S2, tagged": lambda target: encode(target, s2=s2, mac_key=mac_key, context="benchmark"),
        "field: encode S1+S2": lambda target: field(root, names, target, True),
        "encode: S1+S2": lambda target: encode(target, s2=s2, s1=s1),
    }


def agree(folder, root, names):
    """Stop if the two ways do not store the same patches."""
    field(root, names, f"{folder}/theirs", True)
    encode(f"{folder}/ours", s2=root / "s2", s1=root / "s1", place=False)  # the field stores none
    with ben_secure.PatchReader(f"{folder}/theirs") as theirs, ben_secure.PatchReader(f"{folder}/ours") as ours:
        if list(theirs) != list(ours) or any(theirs[name] != ours[name] for name in ours):
            raise SystemExit("the databases differ; the benchmark means nothing")
        value = theirs.raw(names[0][0])
    pickle.loads(value)  # their own way of reading takes it, too


def main():
    _common.check_origin(ben_secure)
    folder, seconds, patches = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    root = pathlib.Path(folder) / "input"
    names = build(root, patches)
    agree(folder, root, names)
    timed = {name: [] for name in ways(root, names)}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(timed["encode: S2"]) < 3:
        for name, way in ways(root, names).items():
            target = f"{folder}/target"
            start = time.perf_counter()
            way(target)
            timed[name].append((time.perf_counter() - start) / patches * 1e6)
            if os.path.exists(target):
                shutil.rmtree(target)
    median = {name: statistics.median(found) for name, found in timed.items()}
    rows = [
        ("field: encode S2", "encode: S2", 2.5),
        ("field: encode S1+S2", "encode: S1+S2", 2.5),
        ("field: encode S2", "encode: S2, tagged", 2.5),
        ("rasterio: read the 12 bands", "encode.geotiff: read the 12 bands", 2.5),
        ("tifffile: read the 12 bands", "encode.geotiff: read the 12 bands", None),
    ]
    ratios = [{"what": f"{a} / {b}", "ratio": median[a] / median[b], "at_least": budget} for a, b, budget in rows]
    print(json.dumps({"microseconds": {f"{name}, a patch": found for name, found in median.items()}, "ratios": ratios}))


if __name__ == "__main__":
    main()
