"""Make code written for ``bigearthnet_patch_interface`` use the classes of this package, with one line.

    import ben_secure.compat
    ben_secure.compat.install()  # before anything imports bigearthnet_patch_interface

Afterwards, importing that package or its modules gives ours, whether the original is installed or not. So
``BigEarthNet_S1_S2_Patch.loads(value)`` in training code is the restricted loader, which never executes a value. The
classes write canonical values.

Code that calls ``pickle.loads`` itself is not protected: a hostile value runs before any class of ours is used. Change
such code to ``ben_secure.loads``. After ``install``, ``pickle.loads`` of an honest value of the original package raises
an ``UnsafePickleError``, because it would fill half-built objects. Canonical values can still be read with
``pickle.loads``, because they name one checked function. A spawned process must call ``install`` again, in its main
module or in the code that it runs.

Differences: a wrong argument raises ``ValueError`` or ``TypeError``, not pydantic's ``ValidationError``. The private
names of the original and its example GeoTIFFs are missing. This module imports no name from a value, and writes nothing
to disk.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TypeVar

import numpy as np

from ben_secure import patches

ORIGINAL = "bigearthnet_patch_interface"
"""The package that is replaced."""

VERSION = "0.1.2"
"""Version of the original with this interface. The interface of 0.1.0 is a part of it."""

_BANDS = ("Band", "BenS2_10mBand", "BenS2_20mBand", "BenS2_60mBand", "BenS1_Band")
_S1 = ("BigEarthNet_S1_Patch", "random_ben_S1_band")
_S2 = (
    "BigEarthNet_S2_Patch", "S2_DN_TO_REFLECTANCE", "random_ben_S2_band", "s2_to_float", "s2_to_float32",
    "s2_to_float64",
)  # fmt: skip
_PATCH = ("BigEarthNetPatch",)
_MERGED = ("BigEarthNet_S1_S2_Patch",)

# For each module its __all__ (None: none, so a star import gives every name), and the other names that it imports.
_MODULES: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...]]] = {
    "band_interface": (_BANDS, ()),
    "patch_interface": (_PATCH, _BANDS),
    "s1_interface": (_S1, _BANDS + _PATCH),
    "s2_interface": (_S2, _BANDS + _PATCH),
    "merged_interface": (None, _MERGED + _BANDS + _PATCH + ("BigEarthNet_S1_Patch", "BigEarthNet_S2_Patch")),
}

_lock = threading.RLock()
_holds: set[Installation] = set()
_modules: dict[str, ModuleType] = {}


class Installation:
    """The result of ``install()``. As a context manager it lasts until the end of the block."""

    def __enter__(self) -> Installation:
        return self

    def __exit__(self, *exc: object) -> None:
        with _lock:
            if self in _holds:
                _holds.discard(self)
                if not _holds:
                    uninstall()


def install() -> Installation:
    """Replace ``bigearthnet_patch_interface`` and its modules by ours from now on.

    A second call changes nothing. Call this before threads import: modules that were imported earlier keep their names.

    Returns:
        A context manager. Its block ends the effect of this call, unless another call is still in effect. It may be
        ignored.

    Raises:
        RuntimeError: The original was already imported, so code may hold its unsafe classes. Nothing is changed.
    """
    with _lock:
        if not _holds:
            _refuse_original()
            if not _modules:
                _modules.update(_made())
            sys.meta_path.insert(0, _finder)
            sys.modules.update(_modules)
        installation = Installation()
        _holds.add(installation)
        return installation


def uninstall() -> None:
    """Undo all calls of ``install``. Code that has imported our classes keeps them.

    This has no effect if ``install`` was not called.
    """
    with _lock:
        _holds.clear()
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
        for name, module in _modules.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def installed() -> bool:
    """Whether the original's name leads to our modules now."""
    return bool(_holds)


def _refuse_original() -> None:
    foreign = [
        name
        for name, module in list(sys.modules.items())
        if (name == ORIGINAL or name.startswith(ORIGINAL + ".")) and module is not _modules.get(name)
    ]
    if foreign:
        raise RuntimeError(
            f"{', '.join(sorted(foreign))} of the original package was already imported, and its classes load pickles "
            f"without any check; call ben_secure.compat.install() before any import of {ORIGINAL}, at the top of the "
            "program"
        )


class _Importer(MetaPathFinder, Loader):
    """Finds our modules before the original's, even if one is reloaded or was removed from ``sys.modules``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in _modules:
            return _spec(fullname)
        if fullname.startswith(ORIGINAL + "."):  # never mix ours with the original's
            raise ModuleNotFoundError(f"No module named {fullname!r}; {ORIGINAL} is ben_secure.compat", name=fullname)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _modules[spec.name]

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the modules are complete when they are made."""


_finder = _Importer()


def _spec(name: str) -> ModuleSpec:
    return ModuleSpec(name, _finder, origin="ben_secure.compat", is_package=name == ORIGINAL)


def _module(name: str, attributes: dict[str, object]) -> ModuleType:
    module = ModuleType(name, f"Stands in for {name}, by ben_secure.compat.")
    module.__spec__ = spec = _spec(name)
    module.__loader__ = _finder
    module.__package__ = name if spec.submodule_search_locations is not None else ORIGINAL
    if spec.submodule_search_locations is not None:
        module.__path__ = []
    vars(module).update(attributes)
    return module


def _made() -> dict[str, ModuleType]:
    """Make the package and its modules."""
    modules = {}
    for short, (public, imported) in _MODULES.items():
        attributes: dict[str, object] = {name: getattr(patches, name) for name in (*(public or ()), *imported)}
        attributes["np"] = np
        if public is not None:
            attributes["__all__"] = [*public]
        if short == "patch_interface":
            attributes["TPatch"] = TypeVar("TPatch", bound=patches.BigEarthNetPatch)
            attributes["TBand"] = TypeVar("TBand", bound=patches.Band)
            attributes["Bands"] = Sequence[patches.Band]
        modules[short] = _module(f"{ORIGINAL}.{short}", attributes)
    package = _module(ORIGINAL, {"__version__": VERSION, **modules})
    return {ORIGINAL: package, **{module.__name__: module for module in modules.values()}}
