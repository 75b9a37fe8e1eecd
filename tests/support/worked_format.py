"""The page that shows a signed database byte by byte: ``python tests/support/worked_format.py`` writes it.

The bytes come from the code on the page itself, so the page always agrees with ben_secure. A test compares.
"""

import base64
import json
import os
import pathlib
import pickletools
import re
import tempfile

from ben_secure.signing.footer import FOOTER_BYTES
from ben_secure.signing.manifest import manifest_path

PAGE = pathlib.Path(__file__).parent.parent.parent / "docs" / "format-worked.md"

MAKE = """\
from datetime import datetime, timezone

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ben_secure import Band, BigEarthNetPatch, PatchReader, PatchWriter
from ben_secure.signing.keys import MacKey, SigningKey
from ben_secure.store.change.sign import sign_database

secret, seed = bytes(range(32)), bytes(range(32, 64))  # known to others: protects nothing
private = Ed25519PrivateKey.from_private_bytes(seed)
mac_key, publisher = MacKey(secret), SigningKey(private)

pixels = np.array([[1, 2], [3, 4]], np.uint16)
band = Band(name="B", spatial_resolution=600, data_shape=(2, 2), data=pixels)
patch = BigEarthNetPatch(bands=[band], labels=["Pastures"])

with PatchWriter("worked.lmdb", mac_key=mac_key, context="docs") as writer:
    writer["patch"] = patch
created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
release = {"name": "Worked", "version": "1.0", "created": created}
sign_database("worked.lmdb", [publisher], **release)
"""

TAG = """\
import hashlib
import hmac
import struct

def hkdf(secret, info, length):  # RFC 5869, without salt
    key = hmac.digest(bytes(32), secret, "sha256")
    return hmac.digest(key, info + b"\\x01", "sha256")[:length]

checks = {"mac_key": mac_key, "context": "docs", "verify_key": publisher.verify_key}
with PatchReader("worked.lmdb", **checks) as reader:
    assert reader["patch"] == patch
    value = reader.raw("patch")  # with its footer
payload, footer = value[:-64], value[-64:]
assert footer[32:40] == hkdf(secret, b"ben-secure/v1 key id", 8)

message = b"ben-secure/value/v1\\0" + footer[48:49] + footer[32:40]
for part in (b"docs", b"patch"):
    message += struct.pack("<I", len(part)) + part
message += struct.pack("<Q", len(payload)) + payload
tag_key = hkdf(secret, b"ben-secure/v1 value tag", 32)
assert footer[:32] == hmac.digest(tag_key, message, "sha256")
"""

SIGNATURE = """\
import base64
import json
from pathlib import Path

manifest = Path("worked.lmdb.manifest").read_bytes()
assert manifest[-32:] == hashlib.sha256(value).digest()

envelope = json.loads(Path("worked.lmdb.manifest.dsse.json").read_text())
kind, statement = envelope["payloadType"].encode(), base64.b64decode(envelope["payload"])
signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(statement), statement)
signature = base64.b64decode(envelope["signatures"][0]["sig"])
private.public_key().verify(signature, signed)  # raises an error if it is false
(subject,) = json.loads(statement)["subject"]
assert subject["digest"]["sha256"] == hashlib.sha256(manifest).hexdigest()
"""


TEMPLATE = """\
# One release in hexadecimal

This page shows a database with one tagged and signed patch, byte by byte. [Formats](format.md) has the rules and their
reasons. `tests/support/worked_format.py` writes this page from the code below, and a test compares the two. All numbers
are little-endian. Offsets are decimal, bytes hexadecimal.

```python
<<MAKE>>```

## The value

The payload is one pickle of <<bytes of the payload>> bytes. It makes one call,
`rebuild_patch(1, kind, layout, pixels, stored, extras)`. This patch has one band of 2 x 2 pixels, so that it fits on
the page, and the pickle is one frame. Pixels of 64 KiB or more are outside any frame.

<<payload>>

## The footer

64 bytes follow. A program that does not know tags stops at STOP and does not see them.

<<footer>>

The tag by hand, with Python's standard library alone:

```python
<<TAG>>```

## The manifest

`worked.lmdb.manifest` has <<bytes of the manifest>> bytes:

<<manifest>>

## The signature

The payload of `worked.lmdb.manifest.dsse.json` is this statement, here with spaces and line breaks that the signed
bytes do not have. [Its type has a page](manifest/v1.md).

<<statement>>

The signature, <<signature>>... in base64, is over `DSSEv1`, the payload type and the statement, each text after its
length. By hand, with the Ed25519 of `cryptography`:

```python
<<SIGNATURE>>```
"""


def rows(start, part, meaning):
    """Lines of up to 8 bytes in hexadecimal, with their offset; the first one says what they mean."""
    for at in range(0, max(len(part), 1), 8):
        yield f"{start + at:4}  {part[at : at + 8].hex(' '):<23}  {'' if at else meaning}".rstrip()


def fields(content, *parts):
    """Lines for parts of known length, which must be the whole content."""
    start = 0
    for length, meaning in parts:
        yield from rows(start, content[start : start + length], meaning)
        start += length
    assert start == len(content)


def opcodes(payload):
    """Lines for each opcode of a pickle."""
    found = list(pickletools.genops(payload))
    for (opcode, argument, start), following in zip(found, [*found[1:], (None, None, len(payload))], strict=True):
        said = f"{len(argument)} bytes" if isinstance(argument, bytearray) else repr(argument)
        yield from rows(
            start, payload[start : following[2]], opcode.name if argument is None else f"{opcode.name} {said}"
        )


def shown(lines, kind="text"):
    """A block that is not run."""
    text = "\n".join(lines)
    return f"<!-- not run: bytes that the code above makes; a test compares them -->\n```{kind}\n{text}\n```"


def run():
    """The value, the manifest and the envelope that the code on the page makes."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.getcwd()
        os.chdir(folder)
        try:
            names: dict[str, object] = {}
            for source in (MAKE, TAG, SIGNATURE):
                exec(compile(source, "format-worked.md", "exec"), names)
            manifest = manifest_path("worked.lmdb")
            return (
                names["value"],
                pathlib.Path(manifest).read_bytes(),
                pathlib.Path(f"{manifest}.dsse.json").read_text(),
            )
        finally:
            os.chdir(before)


def page():
    """The page in Markdown."""
    value, manifest, envelope = run()
    payload, footer = value[:-FOOTER_BYTES], value[-FOOTER_BYTES:]
    document = json.loads(envelope)
    footer_fields = [(32, "tag: HMAC-SHA-256"), (8, "key id"), (8, f"payload length: {len(payload)}"),
                     (1, "suite 1: HS256"), (1, "version 1"), (6, "reserved"), (8, "magic")]  # fmt: skip
    manifest_fields = [(8, "magic"), (4, "version 1"), (4, "32 bytes a digest: SHA-256"), (8, "1 record"),
                       (8, "5 bytes of LMDB keys"), (8, "LMDB key 0 begins at 0"), (8, "and ends at 5"),
                       (5, "LMDB key 0: 'patch'"), (32, "SHA-256 of value 0, with its footer")]  # fmt: skip
    texts = {
        "MAKE": MAKE,
        "TAG": TAG,
        "SIGNATURE": SIGNATURE,
        "payload": shown(opcodes(payload)),
        "footer": shown(fields(footer, *footer_fields)),
        "manifest": shown(fields(manifest, *manifest_fields)),
        "statement": shown([json.dumps(json.loads(base64.b64decode(document["payload"])), indent=1)], "json"),
        "bytes of the payload": str(len(payload)),
        "bytes of the manifest": str(len(manifest)),
        "signature": document["signatures"][0]["sig"][:24],
    }
    return re.sub(r"<<(.*?)>>", lambda match: texts[match[1]], TEMPLATE)


if __name__ == "__main__":
    PAGE.write_text(page())
