"""Load, audit and publish BigEarthNet LMDB databases without running code from them.

``loads`` and ``PatchReader`` read pickled patches safely, and safetensors values. ``PatchWriter`` writes patches in the
canonical form. Importing this package loads numpy and nothing heavier. The reader, the writer and the unpickler are
imported when they are first used.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING

from ben_secure.errors import (
    BenSecureError,
    EncodeError,
    KeyFileError,
    LimitExceededError,
    ManifestMismatchError,
    MissingExtraError,
    PatchFormatError,
    ResourceError,
    SignatureError,
    StoreError,
    TableError,
    TagMismatchError,
    UndecidedError,
    UnsafePickleError,
    UntrustedDataError,
)
from ben_secure.limits import Limits

if TYPE_CHECKING:
    from ben_secure.patches import (
        Band,
        BenS1_Band,
        BenS2_10mBand,
        BenS2_20mBand,
        BenS2_60mBand,
        BigEarthNet_S1_Patch,
        BigEarthNet_S1_S2_Patch,
        BigEarthNet_S2_Patch,
        BigEarthNetPatch,
    )
    from ben_secure.pickles import PatchUnpickler
    from ben_secure.signing.policy import Verification
    from ben_secure.store.pairs import PairedReader
    from ben_secure.store.reader import PatchReader
    from ben_secure.store.writer import PatchWriter
    from ben_secure.values import load, loads

__version__ = "0.1.0"

__all__ = [
    "Band",
    "BenS1_Band",
    "BenS2_10mBand",
    "BenS2_20mBand",
    "BenS2_60mBand",
    "BenSecureError",
    "BigEarthNetPatch",
    "BigEarthNet_S1_Patch",
    "BigEarthNet_S1_S2_Patch",
    "BigEarthNet_S2_Patch",
    "EncodeError",
    "KeyFileError",
    "LimitExceededError",
    "Limits",
    "ManifestMismatchError",
    "MissingExtraError",
    "PairedReader",
    "PatchFormatError",
    "PatchReader",
    "PatchUnpickler",
    "PatchWriter",
    "ResourceError",
    "SignatureError",
    "StoreError",
    "TableError",
    "TagMismatchError",
    "UndecidedError",
    "UnsafePickleError",
    "UntrustedDataError",
    "Verification",
    "load",
    "loads",
]

# The modules of the names that are imported on first use (PEP 562). Errors and limits are imported above.
_HOMES = dict.fromkeys(__all__, "ben_secure.patches") | {
    "PairedReader": "ben_secure.store.pairs",
    "PatchReader": "ben_secure.store.reader",
    "PatchUnpickler": "ben_secure.pickles",
    "PatchWriter": "ben_secure.store.writer",
    "Verification": "ben_secure.signing.policy",
    "load": "ben_secure.values",
    "loads": "ben_secure.values",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(import_module(_HOMES[name]), name))


def __dir__() -> list[str]:
    return ["__version__", *__all__]
