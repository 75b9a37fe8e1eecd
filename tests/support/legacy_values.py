"""Pickles as bigearthnet_patch_interface writes them, opcode for opcode, without that package.

``tree`` makes the object graph that the original package would pickle, of inert parts (``Global``, ``Call``, ``New``);
a test may change any part of it; ``write`` pickles the graph. Nothing in the graph ever has to exist, so the same two
functions write honest values and hostile ones.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

INTERFACE = "bigearthnet_patch_interface"
PATCH_MODULES = {
    "BigEarthNetPatch": f"{INTERFACE}.patch_interface",
    "BigEarthNet_S1_Patch": f"{INTERFACE}.s1_interface",
    "BigEarthNet_S2_Patch": f"{INTERFACE}.s2_interface",
    "BigEarthNet_S1_S2_Patch": f"{INTERFACE}.merged_interface",
}
S1, S2, MERGED, GENERIC = "BigEarthNet_S1_Patch", "BigEarthNet_S2_Patch", "BigEarthNet_S1_S2_Patch", "BigEarthNetPatch"
SIDES = {10: 120, 20: 60, 60: 20}
# In the order of the original constructors, which is the order of the instance dict.
S1_BANDS = (("VH", 10), ("VV", 10))
S2_BANDS = (
    ("B01", 60), ("B02", 10), ("B03", 10), ("B04", 10), ("B05", 20), ("B06", 20),
    ("B07", 20), ("B08", 10), ("B8A", 20), ("B09", 60), ("B11", 20), ("B12", 20),
)  # fmt: skip
_UNSET = object()
# One object for each field name, shape and the b'b' of numpy, as in the original process: what is the
# same object is written once and fetched from the memo afterwards.
_SHAPES = {metres: (side, side) for metres, side in SIDES.items()}
_CODE = b"b"


@dataclass(eq=False)
class Global:
    """A name that STACK_GLOBAL asks for."""

    module: Any
    name: Any


@dataclass(eq=False)
class Call:
    """REDUCE, then BUILD if there is a state."""

    function: Any
    arguments: Any
    state: Any = _UNSET


@dataclass(eq=False)
class New:
    """NEWOBJ, then BUILD if there is a state."""

    cls: Any
    state: Any = _UNSET
    arguments: Any = ()


@cache
def name_of(module: str, name: str) -> Global:
    """The one Global for a name, so that the memo finds it again."""
    return Global(sys.intern(module), sys.intern(name))


class Writer(pickle._Pickler):  # type: ignore[name-defined, misc]
    """The pure-Python pickler, which writes the same opcodes as the C one, taught the three inert parts."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        kind = type(obj)
        if kind not in (Global, Call, New) or id(obj) in self.memo:
            return super().save(obj, save_persistent_id)
        self.framer.commit_frame()
        if kind is Global:
            self.save(obj.module)
            self.save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.save(obj.cls if kind is New else obj.function)
            self.save(obj.arguments)
            self.write(pickle.NEWOBJ if kind is New else pickle.REDUCE)
        self.memoize(obj)
        if kind is not Global and obj.state is not _UNSET:
            self.save(obj.state)
            self.write(pickle.BUILD)
        return None


def write(obj: Any, protocol: int = 4) -> bytes:
    """Pickle a graph."""
    stream = io.BytesIO()
    Writer(stream, protocol).dump(obj)
    return stream.getvalue()


@dataclass(frozen=True)
class Generation:
    """Which package wrote a value."""

    interface: str = "0.1.2"
    pydantic: int = 1
    numpy: int = 1

    @property
    def bands_attribute(self) -> str:
        """Name of the list of bands in the state of a patch."""
        return "bands" if self.interface == "0.1.0" else "_bands"

    @property
    def core(self) -> str:
        """numpy's core package."""
        return "numpy.core" if self.numpy == 1 else "numpy._core"


GENERATIONS = {
    "interface-0.1.0": Generation(interface="0.1.0"),
    "numpy1-pydantic1": Generation(),
    "numpy2-pydantic1": Generation(numpy=2),
    "numpy2-pydantic2": Generation(numpy=2, pydantic=2),
}
"""The generations found in archives, by the names of the folders with real data."""


class Maker:
    """Makes the parts of one graph; a dtype or class is one object throughout, as in a process."""

    def __init__(self, generation: Generation = GENERATIONS["numpy1-pydantic1"]) -> None:
        self.generation = generation
        self.dtypes: dict[str, Call] = {}

    def dtype(self, dtype: Any) -> Call:
        """The result of ``dtype.__reduce__`` for a numeric, str or object dtype."""
        dtype = np.dtype(dtype)
        if dtype.str not in self.dtypes:
            order = "|" if dtype.itemsize == 1 or dtype.kind == "O" else dtype.str[0]
            code = dtype.str[1:] if dtype.kind != "O" else "O8"
            size, alignment, flags = -1, -1, 0
            if dtype.kind == "U":
                size, alignment, flags = dtype.itemsize, 4, 8
            elif dtype.kind == "O":
                flags = 63
            self.dtypes[dtype.str] = Call(
                name_of("numpy", "dtype"),
                (code, False, True),
                (3, order, None, None, None, size, alignment, flags),
            )
        return self.dtypes[dtype.str]

    def array(self, array: np.ndarray[Any, Any]) -> Call:
        """The result of ``ndarray.__reduce__``."""
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        data = array.tolist() if array.dtype.kind == "O" else array.tobytes("F" if fortran else "C")
        return Call(
            name_of(f"{self.generation.core}.multiarray", "_reconstruct"),
            # A new tuple each time, as numpy makes it: one object would be fetched from the memo.
            (name_of("numpy", "ndarray"), tuple(range(1)), _CODE),
            (1, tuple(array.shape), self.dtype(array.dtype), fortran, data),
        )

    def array_5(self, array: np.ndarray[Any, Any]) -> Call:
        """The result of ``ndarray.__reduce_ex__(5)``, in-band."""
        fortran = array.flags.f_contiguous and not array.flags.c_contiguous
        return Call(
            name_of(f"{self.generation.core}.numeric", "_frombuffer"),
            (
                bytearray(array.tobytes("F" if fortran else "C")),
                self.dtype(array.dtype),
                tuple(array.shape),
                "F" if fortran else "C",
            ),
        )

    def scalar(self, scalar: np.generic) -> Call:
        """The result of ``generic.__reduce__``."""
        function = name_of(f"{self.generation.core}.multiarray", "scalar")
        return Call(function, (self.dtype(scalar.dtype), scalar.__reduce__()[1][1]))

    def band(self, cls: str, name: str, metres: int, pixels: np.ndarray[Any, Any], data: Any = None) -> New:
        """A band: NEWOBJ and the state that pydantic writes."""
        shape = _SHAPES.get(metres)
        shape = shape if shape == pixels.shape else pixels.shape
        fields = {
            "name": name,
            "spatial_resolution": metres,
            "data_shape": shape,
            "data": self.array(pixels) if data is None else data,
        }
        # Those that a constructor was given; the classes of BigEarthNet have defaults for the others.
        given = set(fields) if cls == "Band" else {"name", "data"}
        state: dict[str, Any]
        if self.generation.pydantic == 1:
            state = {
                "__dict__": fields,
                "__fields_set__": given,
                "__private_attribute_values__": {},
            }
        else:
            state = {
                "__dict__": fields,
                "__pydantic_extra__": None,
                "__pydantic_fields_set__": given,
                "__pydantic_private__": None,
            }
        return New(name_of(f"{INTERFACE}.band_interface", cls), state)

    def patch(self, kind: str, state: dict[str, Any]) -> New:
        """A patch with a given state."""
        return New(name_of(PATCH_MODULES[kind], kind), state)

    def standard(self, kind: str, pixels: Mapping[str, np.ndarray[Any, Any]], metadata: dict[str, Any]) -> New:
        """An S1, S2 or S1+S2 patch."""
        if kind == MERGED:
            inner = {
                "s1_patch": self.standard(S1, pixels, {}),
                "s2_patch": self.standard(S2, pixels, {}),
            }
            bands = [band for patch in inner.values() for band in patch.state[self.generation.bands_attribute]]
            return self.patch(kind, {**inner, **self._rest(bands, metadata)})
        attributes = {}
        for name, metres in S1_BANDS if kind == S1 else S2_BANDS:
            cls = "BenS1_Band" if kind == S1 else f"BenS2_{metres}mBand"
            attributes["band" + name.removeprefix("B")] = self.band(cls, name, metres, pixels[name])
        return self.patch(kind, {**attributes, **self._rest(list(attributes.values()), metadata)})

    def generic(self, bands: Mapping[str, New], metadata: dict[str, Any]) -> New:
        """A patch of the base class, or of a class derived from it, with bands as attributes."""
        return self.patch(GENERIC, {**bands, **self._rest(list(bands.values()), metadata)})

    def _rest(self, bands: list[New], metadata: dict[str, Any]) -> dict[str, Any]:
        # dict(metadata): the attributes and the stored arguments share the values, not the dict.
        return {self.generation.bands_attribute: bands, **metadata, "__stored_args__": dict(metadata)}


def pixels_of(seed: int = 0, s1: str = "<f4", s2: str = "<u2") -> dict[str, np.ndarray[Any, Any]]:
    """Random pixels for all fourteen bands."""
    rng = np.random.default_rng(seed)
    found = {name: rng.integers(0, 100, (SIDES[m], SIDES[m])).astype(s2) for name, m in S2_BANDS}
    return found | {name: rng.integers(-60, 1, (SIDES[m], SIDES[m])).astype(s1) for name, m in S1_BANDS}


def labels() -> dict[str, Any]:
    """The metadata that bigearthnet-encoder writes."""
    return {
        "labels": ["Non-irrigated arable land", "Pastures"],
        "new_labels": ["Arable land", "Pastures"],
    }


def tree(kind: str, generation: str = "numpy1-pydantic1", metadata: dict[str, Any] | None = None, **dtypes: str) -> New:
    """The graph of an honest patch; every part may be changed before it is written."""
    maker = Maker(GENERATIONS[generation])
    return maker.standard(kind, pixels_of(**dtypes), labels() if metadata is None else metadata)


def small_tree(generation: str = "numpy1-pydantic1", metadata: dict[str, Any] | None = None) -> New:
    """The graph of a patch with two tiny bands, about 900 bytes."""
    maker = Maker(GENERATIONS[generation])
    bands = {
        "green": maker.band("Band", "green", 10, np.arange(6, dtype="<u2").reshape(2, 3)),
        "red": maker.band("Band", "red", 20, np.arange(4, dtype="<f4").reshape(2, 2)),
    }
    return maker.generic(bands, labels() if metadata is None else metadata)
