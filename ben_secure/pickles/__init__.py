"""The trusted core: bytes in, a patch or a refusal out; no files, no keys, nothing imported by name.

``opcodes`` checks the program without running it, ``unpickler`` runs it over inert stand-ins; either alone keeps
code from running.
"""

from ben_secure.pickles.unpickler import PatchUnpickler, load, loads

__all__ = ["PatchUnpickler", "load", "loads"]
