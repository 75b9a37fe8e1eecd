"""``Band`` and its four fixed classes: one band's name, resolution and pixels.

A band checks its pixels once, at construction. Afterwards it is read-only, except that pixels may be written in place.
It never copies the pixels.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ben_secure.bands import BAND_CLASSES, PIXEL_DTYPES
from ben_secure.errors import Rule, UnsafePickleError, printable

if TYPE_CHECKING:
    from ben_secure.patches.layout import PixelArray


class BandTypeError(TypeError, ValueError):
    """An argument for a band has the wrong type. Also a ``ValueError``, as in the original package."""


def refuse_state(target: object) -> NoReturn:
    """Refuse to be filled by a pickle. Only ``pickle.loads`` does this, with a value of the original package.

    Args:
        target: The empty object, of a class that replaces the original's (see ``ben_secure.compat``).

    Raises:
        UnsafePickleError: Always.
    """
    raise UnsafePickleError(
        f"a pickle would fill a {type(target).__name__} past all checks: this value was read with pickle.loads, which "
        "can run code from it; use ben_secure.loads",
        rule=Rule.CALL_SHAPE,
    )


def check_pixels(name: str, data: object, shape: tuple[int, int]) -> None:
    """Check that an object can be the pixels of a band.

    Args:
        name: The band, for the message.
        data: The argument for its pixels.
        shape: The required rows and columns.

    Raises:
        BandTypeError: The object is not a numpy array, or is of a subclass other than ``np.memmap``, whose meaning
            would be lost.
        ValueError: The shape differs or the dtype is not numeric.
    """
    if type(data) is not np.ndarray and type(data) is not np.memmap:
        raise BandTypeError(
            f"band {printable(name)}: found {printable(type(data).__name__)}, expected a numpy.ndarray; convert it "
            "with numpy.asarray"
        )
    if data.dtype.str not in PIXEL_DTYPES:
        raise ValueError(
            f"band {printable(name)}: found dtype {printable(str(data.dtype))}, expected a numeric one (integer, "
            "float or complex of fixed size); convert it with astype"
        )
    if data.shape != shape:
        raise ValueError(f"band {printable(name)}: found shape {data.shape}, expected {shape}")


class Band:
    """One band of a patch, of any name, resolution and size."""

    __slots__ = ("_data", "_data_shape", "_name", "_spatial_resolution")

    _data: PixelArray
    _data_shape: tuple[int, int]
    _name: str
    _spatial_resolution: int

    def __init__(
        self,
        *,
        name: str,
        data: PixelArray = None,  # type: ignore[assignment]
        spatial_resolution: int | None = None,
        data_shape: tuple[int, int] | None = None,
    ) -> None:
        """Make a band from pixels.

        Args:
            name: Official name, such as ``B8A``. The fixed classes accept only their own bands.
            data: Pixels, numeric, two-dimensional, used without a copy. Required. The default exists only so that a
                wrong name is reported first, as in the original package.
            spatial_resolution: Metres along one side of a pixel. Not needed for the fixed classes.
            data_shape: Required rows and columns of ``data``. Not needed for the fixed classes.

        Raises:
            TypeError: ``name`` is not a str, ``data`` is not an array, or a number that ``Band`` needs is missing.
            ValueError: The name is not one of this class, or shape, dtype or resolution does not fit it.
        """
        if not isinstance(name, str):
            raise BandTypeError(f"a band name must be a str, not {type(name).__name__}")
        resolution_m, shape = self._expected(str(name), spatial_resolution, data_shape)
        check_pixels(name, data, shape)
        self._set(str(name), resolution_m, shape, data)

    @classmethod
    def _expected(
        cls, name: str, resolution_m: int | None, shape: tuple[int, int] | None
    ) -> tuple[int, tuple[int, int]]:
        """Determine resolution and shape from the arguments and, for a fixed class, from its table."""
        given_m = None if resolution_m is None else operator.index(resolution_m)
        given_shape = None if shape is None else tuple(map(operator.index, shape))
        specs = {spec.name: spec for spec in BAND_CLASSES.get(cls.__name__, ())}
        if not specs:
            if given_m is None or given_shape is None:
                raise BandTypeError(f"band {printable(name)}: {cls.__name__} needs spatial_resolution and data_shape")
            if given_m < 1 or len(given_shape) != 2 or min(given_shape) < 1:
                raise ValueError(
                    f"band {printable(name)}: found resolution {given_m} and shape {given_shape}, expected positive "
                    "metres and two positive lengths"
                )
            return given_m, given_shape
        spec = specs.get(name)
        if spec is None:
            raise ValueError(
                f"found band name {printable(name)!r}, expected one of {', '.join(specs)} for a {cls.__name__}"
            )
        if given_m not in (None, spec.resolution_m) or given_shape not in (None, spec.shape):
            raise ValueError(
                f"band {name}: found resolution {given_m} and shape {given_shape}, a {cls.__name__} has "
                f"{spec.resolution_m} and {spec.shape}; use Band for others"
            )
        return spec.resolution_m, spec.shape

    @classmethod
    def _wrap(cls, name: str, resolution_m: int, shape: tuple[int, int], data: PixelArray) -> Band:
        """Make a band from checked arguments."""
        band = cls.__new__(cls)
        band._set(name, resolution_m, shape, data)
        return band

    def _set(self, name: str, resolution_m: int, shape: tuple[int, int], data: PixelArray) -> None:
        write = object.__setattr__
        write(self, "_name", name)
        write(self, "_spatial_resolution", resolution_m)
        write(self, "_data_shape", shape)
        write(self, "_data", data)

    @property
    def name(self) -> str:
        """Official name of the band."""
        return self._name

    @property
    def spatial_resolution(self) -> int:
        """Metres along one side of a pixel."""
        return self._spatial_resolution

    @property
    def data_shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._data_shape

    @property
    def data(self) -> PixelArray:
        """Pixels; in a patch, a writable view of the patch's buffer."""
        return self._data

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"a band is read-only, {name!r} cannot be set; write the pixels in place (band.data[...] = ...) or make a "
            "new band"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a band is read-only, {name!r} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not isinstance(other, Band):
            return NotImplemented
        return (
            (self._name, self._spatial_resolution, self._data_shape, self._data.dtype.str)
            == (other._name, other._spatial_resolution, other._data_shape, other._data.dtype.str)
        ) and self._data.tobytes() == other._data.tobytes()

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self._name!r}, spatial_resolution={self._spatial_resolution}, "
            f"data_shape={self._data_shape}, data={self._data!r})"
        )

    def __str__(self) -> str:
        return (
            f"{self._name} with {self._spatial_resolution}m spatial resolution and a size of {self._data_shape} pixel"
        )

    def __setstate__(self, state: object) -> NoReturn:
        refuse_state(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._wrap, (self._name, self._spatial_resolution, self._data_shape, np.asarray(self._data))


class BenS1_Band(Band):
    """A Sentinel-1 band: VH or VV, 10 m, (120, 120)."""

    __slots__ = ()


class BenS2_10mBand(Band):
    """A Sentinel-2 band at 10 m, (120, 120): B02, B03, B04 or B08."""

    __slots__ = ()


class BenS2_20mBand(Band):
    """A Sentinel-2 band at 20 m, (60, 60): B05, B06, B07, B8A, B11 or B12."""

    __slots__ = ()


class BenS2_60mBand(Band):
    """A Sentinel-2 band at 60 m, (20, 20): B01 or B09."""

    __slots__ = ()


BAND_TYPES: Mapping[str, type[Band]] = MappingProxyType(
    {band_type.__name__: band_type for band_type in (Band, BenS1_Band, BenS2_10mBand, BenS2_20mBand, BenS2_60mBand)}
)
"""The five band classes by name. A patch has no others."""
