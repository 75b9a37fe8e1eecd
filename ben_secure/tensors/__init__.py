"""Patches as safetensors values, the layout of rico-hdl and BigEarthNet v2: bytes in, a patch or a refusal out.

Part of the trusted core, beside ``pickles``: no files, no keys. The format is read here, within bounds and by one set
of rules, and never by the safetensors library, whichever is installed: a value has one verdict everywhere.
"""

from ben_secure.tensors.reading import SIGN, read
from ben_secure.tensors.writing import dumps

__all__ = ["SIGN", "dumps", "read"]
