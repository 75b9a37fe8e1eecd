"""Write one small file, a picture, a report or a state: whole or not at all, and never over what is there unasked.

For what can be made again; databases, keys and manifests have writers of their own with stricter rules. It never
follows a link that lies in the way of its own temporary file, and leaves none of those behind.
"""

from __future__ import annotations

import contextlib
import os

from ben_secure.errors import printable


def write_file(path: str | os.PathLike[str], content: bytes, *, overwrite: bool = False, mode: int = 0o644) -> None:
    """Write a file; whoever reads it meanwhile sees the old one or the new one.

    Args:
        path: The file; its directory must exist.
        content: All of it.
        overwrite: Whether a file of this name is replaced.
        mode: Permissions of the file.

    Raises:
        FileExistsError: There is something of this name, and ``overwrite`` was not asked for.
        OSError: It cannot be written; nothing is left.
    """
    import tempfile  # here, because every patch class comes past this module, and it loads a dozen others

    target = os.path.abspath(os.fspath(path))
    try:
        handle, staged = tempfile.mkstemp(prefix=f".{os.path.basename(target)[:100]}.", dir=os.path.dirname(target))
    except OSError as error:
        raise _about(error, path) from error
    try:
        with open(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(staged, target)
        else:
            os.link(staged, target)  # unlike a rename it never replaces what is there
    except FileExistsError:
        raise FileExistsError(
            f"{printable(os.fspath(path), 400)} exists, and nothing is overwritten unless you say so (--force, "
            "overwrite=True)"
        ) from None
    except OSError as error:
        raise _about(error, path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(staged)


def _about(error: OSError, path: str | os.PathLike[str]) -> OSError:
    """The same error about the file that was to be written, and not about one that nobody has asked for."""
    return OSError(error.errno, f"cannot be written: {error.strerror}", os.fspath(path))
