"""Hypothesis strategies for patches and their metadata, shared by all tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ben_secure.bands import BANDS, PIXEL_DTYPES, STORAGE_ORDER
from ben_secure.patches import (
    Band,
    BigEarthNet_S1_Patch,
    BigEarthNet_S1_S2_Patch,
    BigEarthNet_S2_Patch,
    BigEarthNetPatch,
)
from ben_secure.patches.layout import STANDARD_KINDS

STANDARD_CLASSES = (BigEarthNet_S1_Patch, BigEarthNet_S2_Patch, BigEarthNet_S1_S2_Patch)


def noise(shape, dtype, seed=0):
    """An array of any bits (NaN payloads included) that its seed repeats."""
    dtype = np.dtype(dtype)
    data = np.random.default_rng(seed).bytes(int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape)


def standard_specs(cls):
    """The bands of a class with fixed bands, in storage order."""
    return [spec for group in STANDARD_KINDS[cls.__name__] for spec in group]


def make_patch(cls=BigEarthNet_S2_Patch, dtypes=None, seed=0, **metadata):
    """A patch of noise; ``dtypes`` by band name, else uint16 for S2 and float32 for S1."""
    usual = {"S1": "<f4", "S2": "<u2"}
    arrays = {
        spec.attribute: noise(spec.shape, (dtypes or {}).get(spec.name, usual[spec.sensor]), [seed, place])
        for place, spec in enumerate(standard_specs(cls))
    }
    return cls(**arrays, **metadata)


class TwoBandPatch(BigEarthNetPatch):
    """A subclass as the original's documentation advises, one band of its own and one of Sentinel-2."""

    def __init__(self, green, swir, **metadata):
        self.green = Band(name="green", spatial_resolution=5, data_shape=green.shape, data=green)
        self.swir = Band(name="B11", spatial_resolution=20, data_shape=(60, 60), data=swir)
        super().__init__(bands=[self.green, self.swir], **metadata)


_ints = st.integers(-(2**500), 2**500)
_leaves = st.none() | st.booleans() | _ints | st.floats() | st.text(max_size=8) | st.binary(max_size=8)
_fixed_dtypes = st.sampled_from(sorted(PIXEL_DTYPES | {"|b1"})).map(np.dtype)
_dtypes = _fixed_dtypes | st.sampled_from(["<U1", "<U5", ">U3"]).map(np.dtype)
_arrays = hnp.arrays(_dtypes, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
# numpy 1 loses zeros at the end of a text whenever it copies a scalar.
_characters = st.characters(codec="utf-8", exclude_characters="\0" if np.__version__.startswith("1.") else "")
_texts = st.text(_characters, max_size=5).map(np.str_)
_scalars = hnp.arrays(_fixed_dtypes, ()).map(lambda array: array[()]) | _texts
_objects = st.lists(st.text(max_size=5), max_size=4).map(lambda items: np.array([*items, None], dtype=object)[:-1])


def metadata_values():
    """Every kind of value that metadata may have."""
    leaves = _leaves | st.sets(_leaves, max_size=4) | _arrays | _scalars | _objects
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.lists(inner, max_size=4).map(tuple)
            | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        ),
        max_leaves=8,
    )


def metadata(max_size=3):
    """Metadata by name, as keyword arguments of a patch."""
    names = st.sampled_from(["labels", "new_labels", "patch_id", "snow", "acquired", "größe", "not an identifier"])
    return st.dictionaries(names, metadata_values(), max_size=max_size)


@st.composite
def patches(draw):
    """S1, S2 and S1+S2 patches and one subclass: uniform and mixed dtypes, metadata stored and set later."""
    cls = draw(st.sampled_from([*STANDARD_CLASSES, TwoBandPatch]))
    seed = draw(st.integers(0, 2**16))
    stored = draw(metadata())
    if cls is TwoBandPatch:
        green, swir = (draw(st.sampled_from(["<u2", "<f4", "|u1", ">f8"])) for _ in range(2))
        patch = cls(noise((draw(st.integers(1, 9)), 3), green, seed), noise((60, 60), swir, seed), **stored)
    elif draw(st.booleans()):
        patch = make_patch(cls, None, seed, **stored)
    else:
        codes = draw(st.lists(st.sampled_from(["<u2", "<f4"]), min_size=14, max_size=14))
        patch = make_patch(cls, dict(zip((spec.name for spec in STORAGE_ORDER), codes, strict=True)), seed, **stored)
    for name, value in draw(metadata(max_size=1)).items():
        setattr(patch, name, value)
    return patch


def band_names():
    """Band names as published, and others that sort in odd ways."""
    return st.sampled_from(list(BANDS)) | st.text(max_size=6) | st.from_regex(r"\A[AB]?[0-9]{0,3}[AB]?\Z")
