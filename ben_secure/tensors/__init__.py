"""Patches as safetensors values, in the layout of rico-hdl and BigEarthNet v2.

Part of the trusted core, like ``pickles``: it uses no files and no keys. The format is read here, within bounds and by
one set of rules. The safetensors library never reads it, so the verdict does not depend on the installed version.
"""

from ben_secure.tensors.reading import SIGN, read
from ben_secure.tensors.writing import dumps

__all__ = ["SIGN", "dumps", "read"]
