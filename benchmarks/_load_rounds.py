"""The worker of ``bench_load.py``: ``build FOLDER`` writes the corpus, ``serve FOLDER`` times ways of reading it.

Runs inside a virtual environment, with this revision of ben_secure or an earlier one, so it uses only what both have.
"""

import json
import os
import pickle
import subprocess
import sys
import time

import _common
import bigearthnet_patch_interface.merged_interface as merged
import bigearthnet_patch_interface.s2_interface as s2_only
import lmdb
import numpy as np
import safetensors.numpy

import ben_secure
from ben_secure.batches import PatchArrays

# Few enough patches, read often enough in a turn, that most reads find the values in the processor's cache: with
# many, all ways wait for the memory, and what is compared is the machine.
PATCHES, PASSES = 16, 4
UNSEEN = 110
"""Values with labels that the process has never read; the first ten of them teach what all values share."""
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
    values = {name: {} for name in ("s2", "s1_s2", "s2.unseen", "s1_s2.unseen", "safetensors")}
    for number in range(PATCHES + UNSEEN):
        name = f"S2A_MSIL2A_20170613T101031_{number}_{number * 7 % 90}"
        bands = {f"band{b}": rng.integers(0, 10_000, (side, side), dtype="uint16") for b, side in SIDES.items()}
        radar = {b: rng.normal(-15, 4, (120, 120)).astype("float32") for b in ("bandVH", "bandVV")}
        labels = [LABELS[i] for i in rng.choice(43, 3, replace=False)]
        suffix = ""
        if number >= PATCHES:
            labels, suffix = [f"label {number} {place}" for place in range(3)], ".unseen"
        metadata = {"labels": labels, "new_labels": labels[:2]}
        values["s2" + suffix][name] = s2_only.BigEarthNet_S2_Patch(**bands, **metadata).dumps()
        values["s1_s2" + suffix][name] = merged.BigEarthNet_S1_S2_Patch(**bands, **radar, **metadata).dumps()
        if not suffix:
            tensors = {b.replace("band", "B"): array for b, array in bands.items()}
            values["safetensors"][name] = safetensors.numpy.save(tensors)
    tensors = values.pop("safetensors")
    write(f"{folder}/safetensors", tensors)
    for kind, legacy in values.items():
        write(f"{folder}/{kind}.legacy", legacy)
        write(f"{folder}/{kind}.canonical", {name: ben_secure.loads(value).dumps() for name, value in legacy.items()})


def write(path, values):
    with lmdb.open(path, map_size=2**28) as environment, environment.begin(write=True) as transaction:
        for name, value in values.items():
            transaction.put(name.encode(), value)


def read(path):
    with lmdb.open(path, readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {name.decode(): bytes(value) for name, value in transaction.cursor()}


def stacks(patch):
    """The three arrays that a training loop wants."""
    return patch.get_stacked_10m_bands(), patch.get_stacked_20m_bands(), patch.get_stacked_60m_bands()


def forget():
    """Forget every value that was read, in any revision of this package."""
    from ben_secure import values

    if hasattr(values, "Decoder"):
        values._usual = values.Decoder()
    else:  # 0.1.0 before it had one machine
        from ben_secure.pickles._segments import Segments

        Segments.forget()


def seen(function, items):
    """Time a function over items that it has seen."""

    def turn():
        for item in items:
            function(item)
        start = time.thread_time()
        for _ in range(PASSES):
            for item in items:
                function(item)
        return (time.thread_time() - start) / (PASSES * len(items))

    return turn


def never_seen(function, items):
    """Time a function over items of which it knows only what all of them share."""

    def turn():
        forget()
        for item in items[:10]:
            function(item)
        start = time.thread_time()
        for item in items[10:]:
            function(item)
        return (time.thread_time() - start) / (len(items) - 10)

    return turn


def first_of_a_process(path):
    """Time the first value of a fresh interpreter."""
    code = (
        "import sys, time, ben_secure; value = open(sys.argv[1], 'rb').read(); load = ben_secure.loads; "
        "start = time.thread_time(); load(value); print(time.thread_time() - start)"
    )
    return lambda: float(subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True).stdout)


def importing(module):
    def turn():
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        return time.perf_counter() - start

    return turn


def new_memory(path, sizes):
    """Read as many bytes as the values have, each into new memory."""
    descriptor = os.open(f"{path}/data.mdb", os.O_RDONLY)
    room = os.fstat(descriptor).st_size - max(sizes)

    def turn(size):
        os.preadv(descriptor, [memoryview(np.empty(size, np.uint8))], size * 7 % room)

    return seen(turn, sizes)


def ways(folder):
    """Every way of reading, as a function that returns seconds a patch."""
    legacy = {kind: list(read(f"{folder}/{kind}.legacy").values()) for kind in ("s2", "s1_s2")}
    canonical = {kind: list(read(f"{folder}/{kind}.canonical").values()) for kind in ("s2", "s1_s2")}
    unseen = {form: list(read(f"{folder}/s2.unseen.{form}").values()) for form in ("legacy", "canonical")}
    merged_unseen = list(read(f"{folder}/s1_s2.unseen.legacy").values())
    reader = ben_secure.PatchReader(f"{folder}/s2.canonical")
    legacy_reader = ben_secure.PatchReader(f"{folder}/s2.legacy")
    tensor_reader = ben_secure.PatchReader(f"{folder}/safetensors")
    names = list(reader)
    environment = lmdb.open(f"{folder}/s2.legacy", readonly=True, lock=False, readahead=False)
    tensor_environment = lmdb.open(f"{folder}/safetensors", readonly=True, lock=False, readahead=False)
    for form, values in ("legacy", legacy), ("canonical", canonical):
        for kind in values:
            with open(f"{folder}/first.{form}.{kind}", "wb") as file:
                file.write(values[kind][0])

    def original_read(name):
        with environment.begin(buffers=False) as transaction:
            return stacks(pickle.loads(transaction.get(name.encode())))

    def tensors_read(name):
        with tensor_environment.begin(buffers=False) as transaction:
            arrays = safetensors.numpy.load(transaction.get(name.encode()))
        return [np.stack([arrays[band] for band in group]) for group in GROUPS]

    for name in names:  # the same arrays everywhere
        for other in (stacks(reader[name]), stacks(legacy_reader[name]), tensors_read(name)):
            for left, right in zip(original_read(name), other, strict=True):
                np.testing.assert_array_equal(left, right)
    load = ben_secure.loads
    batches = {
        f"ours: batch of {bands}, S1+S2": PatchArrays(f"{folder}/s1_s2.canonical", bands=bands, labels=None)
        for bands in ("10m", "all")
    }
    return {
        "original: loads, S2": seen(pickle.loads, legacy["s2"]),
        "original: loads, S1+S2": seen(pickle.loads, legacy["s1_s2"]),
        "original: loads + stacks": seen(lambda value: stacks(pickle.loads(value)), legacy["s2"]),
        "original: get + loads + stacks": seen(original_read, names),
        "original: loads, S2, labels never seen": never_seen(pickle.loads, unseen["legacy"]),
        "original: loads + stacks, labels never seen": never_seen(
            lambda value: stacks(pickle.loads(value)), unseen["legacy"]
        ),
        "safetensors: get + load + stack": seen(tensors_read, names),
        "preadv into new memory": new_memory(f"{folder}/s2.canonical", list(map(len, canonical["s2"]))),
        "ours: canonical loads, S2": seen(load, canonical["s2"]),
        "ours: canonical loads, S1+S2": seen(load, canonical["s1_s2"]),
        "ours: canonical loads + stacks": seen(lambda value: stacks(load(value)), canonical["s2"]),
        "ours: reader": seen(reader.__getitem__, names),
        "ours: reader + stacks": seen(lambda name: stacks(reader[name]), names),
        "ours: safetensors reader + stacks": seen(lambda name: stacks(tensor_reader[name]), names),
        "ours: legacy reader + stacks": seen(lambda name: stacks(legacy_reader[name]), names),
        "ours: legacy loads, S2": seen(load, legacy["s2"]),
        "ours: legacy loads, S1+S2": seen(load, legacy["s1_s2"]),
        "ours: legacy loads + stacks": seen(lambda value: stacks(load(value)), legacy["s2"]),
        "ours: legacy loads, S2, labels never seen": never_seen(load, unseen["legacy"]),
        "ours: legacy loads, S1+S2, labels never seen": never_seen(load, merged_unseen),
        "ours: legacy loads + stacks, labels never seen": never_seen(
            lambda value: stacks(load(value)), unseen["legacy"]
        ),
        "ours: canonical loads + stacks, labels never seen": never_seen(
            lambda value: stacks(load(value)), unseen["canonical"]
        ),
        **{
            f"ours: first {form} value of a process, {kind}": first_of_a_process(f"{folder}/first.{form}.{kind}")
            for form in ("legacy", "canonical")
            for kind in ("s2", "s1_s2")
        },
        **{
            way: (lambda arrays=arrays: seen(arrays.batch, [range(PATCHES)])() / PATCHES)
            for way, arrays in batches.items()
        },
        "import numpy": importing("numpy"),
        "import ben_secure": importing("ben_secure"),
    }


def main():
    _common.check_origin(ben_secure)
    command, folder = sys.argv[1:]
    if command == "build":
        build(folder)
        return
    timed = ways(folder)
    print(json.dumps(list(timed)), flush=True)
    for line in sys.stdin:
        print(json.dumps(timed[line.rstrip("\n")]()), flush=True)


if __name__ == "__main__":
    main()
