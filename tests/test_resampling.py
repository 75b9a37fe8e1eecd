"""Resampling does what torch's ``interpolate`` does: nearest is exact, the others are within float32 rounding."""

import tracemalloc

import numpy as np
import pytest

from ben_secure.batches.resampling import MODES, nearest_rows, resample, taps

SIZES = [(60, 120), (20, 120), (120, 128), (120, 64), (60, 224), (20, 60), (120, 119), (120, 1), (1, 120), (37, 91)]


def noise(source, dtype="f4", seed=0):
    return np.random.default_rng(seed).integers(0, 10_000, (3, source, source)).astype(dtype)


def resampled(images, target, mode):
    out = np.full((len(images), target, target), np.nan, np.float32)
    resample(images, out, mode)
    return out


def interpolated(images, size, mode):
    from torch.nn.functional import interpolate

    kind, _, corners = mode.partition("-")
    return interpolate(images, size, mode=kind, align_corners=None if kind == "nearest" else bool(corners))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_as_torch_does_it(source, target, mode):
    """Larger, smaller, and by any factor; errors are a few units in the last place of the largest pixel."""
    torch = pytest.importorskip("torch")
    images = noise(source)
    expected = interpolated(torch.from_numpy(images)[None], (target, target), mode)
    np.testing.assert_allclose(
        resampled(images, target, mode), expected[0].numpy(), rtol=0, atol=0 if mode == "nearest" else 0.03
    )


@pytest.mark.parametrize("mode", MODES)
def test_rows_and_columns_are_apart(mode):
    """An image that is not square, brought to one that is not."""
    torch = pytest.importorskip("torch")
    images = noise(30)[:, :13]
    out = np.empty((3, 26, 45), np.float32)
    resample(images, out, mode)
    expected = interpolated(torch.from_numpy(images)[None], (26, 45), mode)
    np.testing.assert_allclose(out, expected[0].numpy(), rtol=0, atol=0.03)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["u2", ">u2", "i4", "f8"])
def test_every_dtype_and_layout(mode, dtype):
    """Read-only views, foreign bytes, results that are slices of a larger array."""
    images = noise(20, dtype)
    images.flags.writeable = False
    whole = np.full((5, 120, 120), -1, np.float32)
    resample(images[:, ::-1], whole[1:4], mode)
    assert np.array_equal(whole[1:4], resampled(np.ascontiguousarray(images[:, ::-1]).astype("f4"), 120, mode))
    assert (whole[[0, 4]] == -1).all()


@pytest.mark.parametrize("mode", MODES)
def test_equal_sizes_are_copied(mode):
    """They are copied bit for bit, in every mode."""
    images = noise(60, "u2")
    assert np.array_equal(resampled(images, 60, mode), images)


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_weights_sum_to_one(source, target, mode):
    """So a constant image stays constant, and normalisation can come before or after."""
    places, weights = taps(source, target, mode)
    assert places.min() >= 0
    assert places.max() < source
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(resampled(np.full((1, source, source), 7, "f4"), target, mode), 7, rtol=1e-5)


def test_what_is_remembered_is_bounded_in_bytes():
    """Tables of rows for the largest sizes that a loader accepts: less than 2 MB of the two kinds together."""
    tracemalloc.start()
    try:
        for size in range(4096 - 30, 4096 + 1):
            assert len(nearest_rows(120, size)) == size
            assert taps(120, size, "bicubic").rows.shape == (4, size)
        assert tracemalloc.get_traced_memory()[0] < 2 * 2**20
    finally:
        tracemalloc.stop()
