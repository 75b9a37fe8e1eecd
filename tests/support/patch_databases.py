"""Patches of noise and the databases that ``PatchWriter`` makes of them."""

from __future__ import annotations

import numpy as np

from ben_secure import BigEarthNet_S1_S2_Patch, PatchWriter
from ben_secure.signing.keys import MacKey
from support.strategies import make_patch

LABELS = ["Pastures", "Non-irrigated arable land", "Airports"]
NEW_LABELS = ["Pastures", "Arable land"]
KEY = MacKey(bytes(range(32)))


def patches(count=5, cls=BigEarthNet_S1_S2_Patch, start=0, **metadata):
    """Patches of noise by name; float32 noise has no NaN, so arrays can be compared."""
    found = {}
    for seed in range(start, start + count):
        patch = make_patch(cls, seed=seed, labels=LABELS, new_labels=NEW_LABELS, **metadata)
        for band in patch.bands:
            if band.data.dtype == "<f4":
                band.data[...] = np.random.default_rng(seed).normal(-15, 5, band.data.shape)
        found[f"patch {seed}"] = patch
    return found


def database(path, found, **keys):
    """Write the patches with ``PatchWriter``."""
    with PatchWriter(path, **keys) as writer:
        for name, patch in found.items():
            writer[name] = patch
    return path
