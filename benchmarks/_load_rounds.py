"""The rounds of ``bench_load.py``; runs inside its virtual environment and prints one JSON object."""

import json
import pathlib
import pickle
import random
import statistics
import subprocess
import sys
import time

import bigearthnet_patch_interface.merged_interface as merged
import bigearthnet_patch_interface.s2_interface as s2_only
import lmdb
import numpy as np
import safetensors.numpy

import ben_secure
from ben_secure.pickles._segments import Segments

# Few enough patches, read often enough in a turn, that most reads find the values in the processor's cache: with
# many, all ways wait for the memory, and what is compared is the machine.
PATCHES = 16
PASSES = 4
SIDES = {
    **dict.fromkeys(("02", "03", "04", "08"), 120),
    **dict.fromkeys(("05", "06", "07", "8A", "11", "12"), 60),
    **dict.fromkeys(("01", "09"), 20),
}
LABELS = [f"class {number} of some nomenclature, with a name as long as they are" for number in range(43)]
GROUPS = (("B02", "B03", "B04", "B08"), ("B05", "B06", "B07", "B8A", "B11", "B12"), ("B01", "B09"))


def build(folder):
    """Write the same patches as the original's pickles, in canonical form and as safetensors."""
    rng = np.random.default_rng(0)
    legacy = {"s2": {}, "s1_s2": {}}
    tensors = {}
    for number in range(PATCHES):
        name = f"S2A_MSIL2A_20170613T101031_{number}_{number * 7 % 90}"
        bands = {f"band{b}": rng.integers(0, 10_000, (side, side), dtype="uint16") for b, side in SIDES.items()}
        radar = {b: rng.normal(-15, 4, (120, 120)).astype("float32") for b in ("bandVH", "bandVV")}
        labels = [LABELS[i] for i in rng.choice(43, 3, replace=False)]
        metadata = {"labels": labels, "new_labels": labels[:2]}
        legacy["s2"][name] = s2_only.BigEarthNet_S2_Patch(**bands, **metadata).dumps()
        legacy["s1_s2"][name] = merged.BigEarthNet_S1_S2_Patch(**bands, **radar, **metadata).dumps()
        tensors[name] = safetensors.numpy.save({b.replace("band", "B"): array for b, array in bands.items()})
    for kind, values in legacy.items():
        write(f"{folder}/{kind}.legacy", values)
        with ben_secure.PatchWriter(f"{folder}/{kind}.canonical") as writer:
            for name, value in values.items():
                writer[name] = ben_secure.loads(value)
    write(f"{folder}/safetensors", tensors)
    return legacy


def write(path, values):
    with lmdb.open(path, map_size=2**28) as environment, environment.begin(write=True) as transaction:
        for name, value in values.items():
            transaction.put(name.encode(), value)


def stacked(patch):
    """The three arrays that a training loop wants."""
    return patch.get_stacked_10m_bands(), patch.get_stacked_20m_bands(), patch.get_stacked_60m_bands()


def ways(folder, legacy):
    """Every way of reading, as a function of a patch name."""
    names = list(legacy["s2"])
    reader = ben_secure.PatchReader(f"{folder}/s2.canonical")
    legacy_reader = ben_secure.PatchReader(f"{folder}/s2.legacy")
    tensor_reader = ben_secure.PatchReader(f"{folder}/safetensors")
    canonical = {name: reader.raw(name) for name in names}
    environment = lmdb.open(f"{folder}/s2.legacy", readonly=True, lock=False, readahead=False)
    tensor_environment = lmdb.open(f"{folder}/safetensors", readonly=True, lock=False, readahead=False)

    def original_read(name):
        with environment.begin(buffers=False) as transaction:
            return stacked(pickle.loads(transaction.get(name.encode())))

    def tensors_read(name):
        with tensor_environment.begin(buffers=False) as transaction:
            arrays = safetensors.numpy.load(transaction.get(name.encode()))
        return [np.stack([arrays[band] for band in group]) for group in GROUPS]

    return names, {
        "original: loads, S2": lambda name: pickle.loads(legacy["s2"][name]),
        "original: loads, S1+S2": lambda name: pickle.loads(legacy["s1_s2"][name]),
        "original: loads + stacked": lambda name: stacked(pickle.loads(legacy["s2"][name])),
        "original: get + loads + stacked": original_read,
        "safetensors: get + load + stack": tensors_read,
        "ours: canonical loads + stacked": lambda name: stacked(ben_secure.loads(canonical[name])),
        "ours: reader + stacked": lambda name: stacked(reader[name]),
        "ours: safetensors reader + stacked": lambda name: stacked(tensor_reader[name]),
        "ours: legacy reader + stacked": lambda name: stacked(legacy_reader[name]),
        "ours: legacy loads + stacked": lambda name: stacked(ben_secure.loads(legacy["s2"][name])),
        "ours: legacy loads, S2": lambda name: ben_secure.loads(legacy["s2"][name]),
        "ours: legacy loads, S1+S2": lambda name: ben_secure.loads(legacy["s1_s2"][name]),
    }


def rounds(names, functions, seconds):
    """Interleaved rounds; returns the samples of every way, in seconds a patch."""
    samples = {way: [] for way in functions}
    order = list(functions)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(samples[order[0]]) < 3:
        random.shuffle(order)
        random.shuffle(names)
        for way in order:
            function = functions[way]
            turn = names * PASSES
            start = time.perf_counter()
            for name in turn:
                function(name)
            samples[way].append((time.perf_counter() - start) / len(turn))
    return samples


UNSEEN = 200


def unseen():
    """Values whose labels the process has never read, so that nothing of their ends is remembered; in seconds a patch.

    The rounds above read the same labels again and again, as an archive does in which label sets recur.
    """
    rng = np.random.default_rng(1)
    bands = {f"band{b}": rng.integers(0, 10_000, (side, side), dtype="uint16") for b, side in SIDES.items()}
    legacy = []
    for number in range(UNSEEN):
        labels = [f"label {number} {place}" for place in range(3)]
        legacy.append(s2_only.BigEarthNet_S2_Patch(**bands, labels=labels, new_labels=[f"new {number}"]).dumps())
    canonical = [ben_secure.loads(value).dumps() for value in legacy]
    ways = {
        "never seen: original loads, S2": (pickle.loads, legacy),
        "never seen: original loads + stacked": (lambda value: stacked(pickle.loads(value)), legacy),
        "never seen: legacy loads, S2": (ben_secure.loads, legacy),
        "never seen: legacy loads + stacked": (lambda value: stacked(ben_secure.loads(value)), legacy),
        "never seen: canonical loads + stacked": (lambda value: stacked(ben_secure.loads(value)), canonical),
    }
    samples = {way: [] for way in ways}
    for _ in range(9):
        for way, (function, values) in ways.items():
            Segments.forget()
            for value in values[:10]:  # the part that all values share is known
                ben_secure.loads(value)
            start = time.perf_counter()
            for value in values[10:]:
                function(value)
            samples[way].append((time.perf_counter() - start) / (UNSEEN - 10))
    return samples


def import_times():
    """Interleaved import times in fresh interpreters."""
    samples = {"import numpy": [], "import ben_secure": []}
    for _ in range(15):
        for statement, found in samples.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            found.append(time.perf_counter() - start)
    return samples


BUDGETS = [
    ("ours: canonical loads + stacked", "original: loads + stacked", 0.08),
    ("ours: reader + stacked", "original: get + loads + stacked", 0.15),
    ("ours: legacy loads + stacked", "original: loads + stacked", 0.5),
    ("ours: reader + stacked", "safetensors: get + load + stack", 0.7),
    ("ours: safetensors reader + stacked", "safetensors: get + load + stack", 0.7),
    ("ours: legacy loads, S2", "original: loads, S2", 1.35),
    ("ours: legacy loads, S1+S2", "original: loads, S1+S2", 1.35),
    ("import ben_secure", "import numpy", 1.3),
    ("never seen: canonical loads + stacked", "never seen: original loads + stacked", None),
    ("never seen: legacy loads + stacked", "never seen: original loads + stacked", None),
    ("never seen: legacy loads, S2", "never seen: original loads, S2", None),
]
"""What is divided by what, and the most that it may be; None where no budget was set."""


def main():
    folder, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
    names, functions = ways(folder, build(folder))
    for name in names:  # warm, and the same arrays everywhere
        expected = functions["original: loads + stacked"](name)
        for way in functions:
            found = functions[way](name)
            if isinstance(found, tuple | list):
                for left, right in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(left, right)
    samples = rounds(names, functions, seconds) | unseen() | import_times()
    medians = {way: statistics.median(found) for way, found in samples.items()}
    figures = {way: {"value": found * 1e6, "unit": "us"} for way, found in medians.items()}
    rows = [
        {"what": f"{ours} / {theirs}", "value": medians[ours] / medians[theirs], "at_most": budget, "at_least": None}
        for ours, theirs, budget in BUDGETS
    ]
    json.dump({"figures": figures, "rows": rows}, sys.stdout)


if __name__ == "__main__":
    main()
