"""The rounds of ``bench_loader.py``; runs inside its virtual environment and prints one JSON object."""

import itertools
import json
import pathlib
import pickle
import random
import statistics
import sys
import time
import warnings

import _common
import bigearthnet_patch_interface.merged_interface as merged
import bigearthnet_patch_interface.s2_interface as s2_only
import lmdb
import numpy as np
import safetensors.numpy
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

import ben_secure
from ben_secure.labels.nomenclature import BEN_19, CORINE_43, to_19
from ben_secure.signing.keys import MacKey
from ben_secure.torch import PatchDataset, batch_loader

PATCHES = 256
ITEMS = 1024
"""Items of one round: each patch four times, in an order that is the same for all."""
BATCH = 64
CONTEXT = "benchmark"
TEN = ("B02", "B03", "B04", "B08")
TWENTY = ("B05", "B06", "B07", "B8A", "B11", "B12")
SIXTY = ("B01", "B09")
SIDES = {**dict.fromkeys(TEN, 120), **dict.fromkeys(TWENTY, 60), **dict.fromkeys(SIXTY, 20)}
PLACES = {label: place for place, label in enumerate(BEN_19)}
WORKLOADS = {"10 m bands": TEN, "S2 at 120": TEN + TWENTY + SIXTY, "S1+S2 at 120": TEN + TWENTY + SIXTY + ("VH", "VV")}


def build(folder, mac_key):
    """Write the same patches as the original's pickles, in canonical form, tagged, and as safetensors."""
    rng = np.random.default_rng(0)
    legacy, tensors, labels = {"s2": {}, "s1_s2": {}}, {}, {}
    for number in range(PATCHES):
        name = f"S2A_MSIL2A_20170613T101031_{number}_{number * 7 % 90}"
        bands = {b: rng.integers(0, 10_000, (side, side), dtype="uint16") for b, side in SIDES.items()}
        radar = {b: rng.normal(-15, 4, (120, 120)).astype("float32") for b in ("VH", "VV")}
        old = [CORINE_43[place] for place in rng.choice(43, 3, replace=False)]
        metadata = {"labels": old, "new_labels": to_19(old) or None}
        labels[name] = metadata["new_labels"] or []
        long = {f"band{b.removeprefix('B')}": array for b, array in bands.items()}
        long_radar = {f"band{b}": array for b, array in radar.items()}
        legacy["s2"][name] = s2_only.BigEarthNet_S2_Patch(**long, **metadata).dumps()
        legacy["s1_s2"][name] = merged.BigEarthNet_S1_S2_Patch(**long, **long_radar, **metadata).dumps()
        tensors[name] = safetensors.numpy.save(bands)
        tensors["S1" + name] = safetensors.numpy.save(radar)
    for kind, values in legacy.items():
        write(f"{folder}/{kind}.legacy", values)
        for suffix, keys in (("canonical", {}), ("tagged", {"mac_key": mac_key, "context": CONTEXT})):
            with ben_secure.PatchWriter(f"{folder}/{kind}.{suffix}", **keys) as writer:
                for name, value in values.items():
                    writer[name] = ben_secure.loads(value)
    write(f"{folder}/safetensors", tensors)
    return labels


def write(path, values):
    with lmdb.open(path, map_size=2**29) as environment, environment.begin(write=True) as transaction:
        for name, value in values.items():
            transaction.put(name.encode(), value)


def multi_hot(labels):
    vector = np.zeros(len(BEN_19))
    vector[[PLACES[label] for label in labels]] = 1.0
    return torch.from_numpy(vector)


class Empty(Dataset):
    """The lower bound for loading single items: an uninitialised tensor of the right shape, and a label vector."""

    def __init__(self, bands):
        self.item = torch.zeros(len(bands), 120, 120), torch.zeros(len(BEN_19))

    def __len__(self):
        return PATCHES

    def __getitem__(self, index):
        return self.item


class EmptyBatches(Empty):
    """The lower bound for whole batches: new memory crosses from a worker, but nothing is written to it."""

    def __getitem__(self, indices):
        image, label = self.item
        return torch.empty(len(indices), *image.shape), label.expand(len(indices), -1)


class Original(Dataset):
    """The original interface on its own LMDB: ``pickle.loads``, its stacked arrays, torch float32."""

    def __init__(self, path, names, bands):
        self.path, self.names, self.bands, self.environment = path, names, bands, None

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if self.environment is None:
            self.environment = lmdb.open(self.path, readonly=True, lock=False, readahead=False)
        with self.environment.begin(buffers=False) as transaction:
            patch = pickle.loads(transaction.get(self.names[index].encode()))
        s2 = getattr(patch, "s2_patch", patch)
        image = torch.from_numpy(s2.get_stacked_10m_bands().astype(np.float32))
        if len(self.bands) > 4:
            parts = [image]
            for stacked in (s2.get_stacked_20m_bands(), s2.get_stacked_60m_bands()):
                part = torch.from_numpy(stacked.astype(np.float32))
                parts.append(F.interpolate(part[None], (120, 120), mode="nearest")[0])
            if "VV" in self.bands:
                parts.append(torch.from_numpy(patch.s1_patch.get_stacked_bands()))
            image = torch.cat(parts)
        return image, multi_hot(patch.new_labels or [])


class Tensors(Dataset):
    """safetensors values, read as ConfigILM's reader of BigEarthNet v2 does: a copy out of the map, the library's
    ``load``, each band made a float32 tensor, interpolated if its size differs (nearest, its default), and stacked."""

    def __init__(self, path, names, bands, labels):
        self.path, self.names, self.bands, self.labels, self.environment = path, names, bands, labels, None

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        if self.environment is None:
            self.environment = lmdb.open(
                self.path, readonly=True, lock=False, meminit=False, readahead=False, map_size=2**33, max_spare_txns=16
            )
        name, arrays = self.names[index], {}
        for lmdb_key in (name, "S1" + name) if "VV" in self.bands else (name,):
            with self.environment.begin(write=False, buffers=True) as transaction:
                arrays.update(safetensors.numpy.load(bytes(transaction.get(lmdb_key.encode()))))
        image = torch.stack([self.band(arrays[band]) for band in self.bands])
        return image, multi_hot(self.labels[name])

    @staticmethod
    def band(array):
        tensor = torch.Tensor(np.float32(array))
        if array.shape != (120, 120):
            tensor = F.interpolate(tensor[None, None], (120, 120), mode="nearest").squeeze()
        return tensor


def loaders(folder, labels, mac_key, workload, workers):
    """Every way of loading as a DataLoader over the same items in the same order."""
    bands, names = WORKLOADS[workload], sorted(labels)
    kind = "s1_s2" if "VV" in bands else "s2"
    order = random.Random(0).sample([*range(PATCHES)] * (ITEMS // PATCHES), ITEMS)
    common = {"num_workers": workers, "persistent_workers": workers > 0}
    items = {**common, "batch_size": BATCH, "sampler": order}
    batches = {**common, "batch_size": None, "sampler": [order[at : at + BATCH] for at in range(0, ITEMS, BATCH)]}

    def ours(suffix, **keys):
        return PatchDataset(f"{folder}/{kind}.{suffix}", bands=list(bands), labels="multi-hot-19", **keys)

    keys = {"mac_key": mac_key, "context": CONTEXT}
    return {
        "floor: empty dataset, items": DataLoader(Empty(bands), **items),
        "floor: empty dataset, batches": DataLoader(EmptyBatches(bands), **batches),
        "original": DataLoader(Original(f"{folder}/{kind}.legacy", names, bands), **items),
        "safetensors": DataLoader(Tensors(f"{folder}/safetensors", names, bands, labels), **items),
        "ours, items": DataLoader(PerItem(ours("canonical")), **items),
        "ours, batches": batch_loader(ours("canonical"), **items),
        "ours, batches, tags verified": batch_loader(ours("tagged", **keys), **items),
        "ours, batches, original's values": batch_loader(ours("legacy"), **items),
    }


class PerItem(Dataset):
    """Hides ``__getitems__``, so that the DataLoader takes items and collates them."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]


def check_equal(ways):
    """All ways give the same batches."""
    reference = None
    for way, loader in ways.items():
        found = [(images, labels) for images, labels in loader]
        if way.startswith("floor"):
            continue
        reference = reference or found
        for (images, labels), (wanted_images, wanted_labels) in zip(found, reference, strict=True):
            if not (torch.equal(images, wanted_images) and torch.equal(labels.float(), wanted_labels.float())):
                raise SystemExit(f"{way} gives other batches")


def nothing(images, labels):
    """A loop that only loads."""


def waiting(images, labels):
    """A loop that waits for a device, which needs no processor."""
    time.sleep(0.016)


class Training:
    """A loop that trains a small network on the processor."""

    def __init__(self):
        self.networks = {}

    def __call__(self, images, labels):
        network = self.networks.get(images.shape[1])
        if network is None:
            layers = [torch.nn.Conv2d(images.shape[1], 8, 5, 4), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
            network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8, len(BEN_19)))
            self.networks[images.shape[1]] = network
        F.binary_cross_entropy_with_logits(network(images), labels.float()).backward()


LOOPS = {"": nothing, ", 16 ms a batch": waiting, ", small network": Training()}
"""What happens between two batches."""


def rounds(ways, step, seconds):
    """Interleaved rounds; returns the median of every way in seconds a patch."""
    samples = {way: [] for way in ways}
    order = list(ways)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(samples[order[0]]) < 3:
        random.shuffle(order)
        for way in order:
            start = time.perf_counter()
            for images, labels in ways[way]:
                step(images, labels)
            samples[way].append((time.perf_counter() - start) / ITEMS)
    return {way: statistics.median(found) for way, found in samples.items()}


BUDGETS = [
    ("ours, items", "safetensors", {0: 1.0, 2: 1.0}),
    ("ours, batches", "safetensors", {0: 0.3, 2: 1.0}),
    ("ours, batches, tags verified", "original", {0: 1.0, 2: None}),
    ("ours, batches, tags verified", "safetensors", {0: None, 2: None}),
]
"""What is divided by what in the loop that only loads, and the most that it may be with 0 and with 2 workers; None
where no budget was set."""

IN_LOOPS = ("safetensors", "ours, batches")
"""What runs in the other loops."""


def main():
    _common.check_origin(ben_secure)
    folder, seconds = pathlib.Path(sys.argv[1]), float(sys.argv[2])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # as in a worker
    mac_key = MacKey.generate()
    labels = build(folder, mac_key)
    figures, rows = {}, []
    for workload, workers, (loop, step) in itertools.product(WORKLOADS, (0, 2), LOOPS.items()):
        ways = loaders(folder, labels, mac_key, workload, workers)
        if loop:
            ways = {way: ways[way] for way in IN_LOOPS}
        else:
            check_equal(ways)
        medians = rounds(ways, step, seconds / (6 * len(LOOPS)))
        del ways
        place = f"{workload}, {workers} workers{loop}"
        for way, found in medians.items():
            figures[f"{place}: {way}"] = {"value": found * 1e6, "unit": "us/patch"}
        budgets = [(*IN_LOOPS[::-1], {0: 1.0, 2: 1.0})] if loop else BUDGETS
        for ours, theirs, most in budgets:
            row = {"what": f"{place}: {ours} / {theirs}", "value": medians[ours] / medians[theirs]}
            rows.append({**row, "at_least": None, "at_most": most[workers]})
    json.dump({"figures": figures, "rows": rows}, sys.stdout)


if __name__ == "__main__":
    main()
