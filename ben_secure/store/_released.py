"""Find the manifest of a signed release, to protect signed databases from changes.

A signed manifest lists the stored values. After a value is added or changed, readers refuse the release.
"""

from __future__ import annotations

import os

from ben_secure._system.exposure import steps_to
from ben_secure.errors import StoreError, printable
from ben_secure.pages.data_file import data_file_path


def refuse_if_released(path: str, instead: str) -> None:
    """Refuse to change a database that has a manifest beside it, under its own name or the name of a link to it.

    Args:
        path: Directory with ``data.mdb`` inside, or the data file, possibly through links.
        instead: The remedy, for the message.

    Raises:
        StoreError: There is a manifest.
    """
    from ben_secure.signing.manifest import manifest_path  # here, because it loads cryptography

    try:
        on_the_way = [step.path for step in steps_to(data_file_path(path))]
    except OSError:  # the code that opens it reports this
        return
    for name in (path, *reversed(on_the_way)):
        manifest = manifest_path(name)
        if os.path.lexists(manifest):
            raise StoreError(
                f"the database is signed: the manifest {printable(manifest, 400)} lists its values as they are, and "
                f"readers would refuse it once one is added or changed; {instead}",
                database=path,
            )
