"""Make databases from folders of GeoTIFFs: ``encode`` writes a database, ``read_patch`` reads one patch.

The folders are untrusted, like a database. Nothing outside them is read, and all of their content is checked.
"""

from ben_secure.encode.patch import read_patch
from ben_secure.encode.plan import Failures
from ben_secure.encode.run import Encoded, encode
from ben_secure.encode.tally import UnknownPixels

__all__ = ["Encoded", "Failures", "UnknownPixels", "encode", "read_patch"]
