"""Identify the data file, and the state of it, that was judged, so that a report can be matched to it on any machine.

The file is read through the reader that the audit has opened, never by its path. So the facts describe the bytes that
were judged.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import AbstractContextManager, suppress

from ben_secure.audit.findings import FileFacts
from ben_secure.errors import BenSecureError, StoreError
from ben_secure.pages.reader import PageReader

_IDENTITY_BYTES = 16
_SAMPLES, _SAMPLE_BYTES = 64, 2**14  # the first sample has a meta page, or both if pages have 4 kB
_BLOCK_BYTES = 2**20


def file_facts(pages: PageReader) -> FileFacts:
    """Describe the data file as it is now.

    Args:
        pages: The database.

    Returns:
        The facts, without the digest of the whole file.

    Raises:
        StoreError: The file cannot be read.
    """
    facts = pages.facts
    content = hashlib.sha256(facts.file_bytes.to_bytes(8, "little"))
    for number in range(_SAMPLES):
        content.update(pages.file_content(number * facts.file_bytes // _SAMPLES, _SAMPLE_BYTES))
    return FileFacts(
        file_bytes=facts.file_bytes,
        transaction=facts.txnid,
        identity=content.digest()[:_IDENTITY_BYTES].hex(),
    )


class FileDigest(AbstractContextManager["FileDigest"]):
    """Computes SHA-256 of the whole data file in a thread while the ``with`` block judges the values.

    Attributes:
        sha256: The digest in hexadecimal, once the block has ended. None if the file could not be read, if it changed
            during the block, or if the user interrupted.
    """

    def __init__(self, pages: PageReader) -> None:
        self.sha256: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._compute, args=(pages,), name="ben-secure-digest", daemon=True)
        self._thread.start()

    def _compute(self, pages: PageReader) -> None:
        digest = hashlib.sha256()
        with suppress(StoreError):
            before = pages.status
            for offset in range(0, before.st_size, _BLOCK_BYTES):
                if self._ended.is_set():
                    return
                digest.update(pages.file_content(offset, _BLOCK_BYTES))
            now = pages.status
            if (now.st_size, now.st_ctime_ns) == (before.st_size, before.st_ctime_ns):
                self.sha256 = digest.hexdigest()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and not issubclass(kind, BenSecureError):
            self._ended.set()
        self._thread.join()
