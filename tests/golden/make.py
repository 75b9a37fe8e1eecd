"""Make the signed database of a format version: ``python tests/golden/make.py tests/golden/v1``.

Run it once, when a version of the formats is released. The result is never changed and must always stay readable. The
keys are in this file on purpose: they protect nothing.
"""

import sys
from datetime import datetime, timezone

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ben_secure import Band, BigEarthNet_S2_Patch, BigEarthNetPatch, PatchWriter
from ben_secure.bands import STORAGE_ORDER
from ben_secure.signing.keys import MacKey, SigningKey
from ben_secure.store.change.sign import sign_database

MAC_KEY = MacKey(b"a key for tests, and for no secret")
PUBLISHER = SigningKey(Ed25519PrivateKey.from_private_bytes(b"a key for tests, worth no secret"))
CONTEXT = "golden"
RELEASE = {"name": "golden", "version": "1", "license": "CC0-1.0"}


def pixels(side: int, seed: int, dtype: str = "<u2") -> np.ndarray:
    """Pixels that compress well and are not alike."""
    rows, columns = np.mgrid[:side, :side]
    return (rows * 7 + columns // 8 + seed * 100).astype(dtype)


def patches() -> dict[str, BigEarthNetPatch]:
    """The content of the database, by name."""
    bands = [spec for spec in STORAGE_ORDER if spec.sensor == "S2"]
    s2 = {spec.attribute: pixels(spec.shape[0], place) for place, spec in enumerate(bands)}
    ndvi = Band(name="NDVI", spatial_resolution=10, data_shape=(12, 12), data=pixels(12, 1, "<f4"))
    return {
        "S2A_MSIL2A_20170613T101031_0_45": BigEarthNet_S2_Patch(**s2, labels=["Airports", "Sea and ocean"]),
        "indices of Höhe": BigEarthNetPatch(bands=[ndvi], labels=[], source="made by a script"),
    }


def main(folder: str) -> None:
    with PatchWriter(f"{folder}/ben.lmdb", mac_key=MAC_KEY, context=CONTEXT) as writer:
        for name, patch in patches().items():
            writer[name] = patch
    sign_database(f"{folder}/ben.lmdb", [PUBLISHER], **RELEASE, created=datetime(2026, 1, 1, tzinfo=timezone.utc))


if __name__ == "__main__":
    main(*sys.argv[1:])
