"""Libraries that only some functions need. Each is imported when it is used, never before.

A message names the library itself, not an extra of this package. That is right for an installation from a checkout,
too.
"""

from __future__ import annotations

from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec

from ben_secure.errors import MissingExtraError, printable

_MODULES = {"pillow": "PIL"}  # libraries whose module has another name


def require(use: str, *libraries: str, otherwise: str = "") -> None:
    """Import optional libraries, before any work begins.

    Args:
        use: The feature that needs them, as the subject of the message.
        libraries: Their names for pip.
        otherwise: The alternative without them, as the end of the message.

    Raises:
        MissingExtraError: A library is not installed, or cannot be imported.
    """
    missing = [library for library in libraries if not _is_installed(use, library)]
    if missing:
        names, them = " and ".join(missing), "which is" if len(missing) == 1 else "which are"
        text = f"{use} needs {names}, {them} not installed: pip install {' '.join(missing)}"
        raise MissingExtraError(text + (f"; {otherwise}" if otherwise else ""))


def _is_installed(use: str, library: str) -> bool:
    module = _MODULES.get(library, library)
    try:
        import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == module:
            return False
        broken = f"{use} needs {library}, which is installed but cannot be imported: {printable(str(error), 400)}"
        raise MissingExtraError(broken) from error
    return True


def has_lmdb_verify() -> bool:
    """Whether the package lmdb has version 3 or newer, without importing it.

    Version 3 introduced ``lmdb.verify``, which checks a data file without liblmdb, and a second file format.
    """
    spec = find_spec("lmdb")
    return spec is not None and PathFinder.find_spec("lmdb.verify", spec.submodule_search_locations) is not None
