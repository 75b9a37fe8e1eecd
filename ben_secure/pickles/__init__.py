"""The trusted core: bytes in, a patch or a refusal out. No files, no keys, nothing imported by name.

``machine`` decides and executes, ``canonical`` and ``legacy`` build, ``templates`` remembers. See docs/core.md.
"""

from ben_secure.pickles.unpickler import PatchUnpickler

__all__ = ["PatchUnpickler"]
