"""Frozen resource limits, each with its reason.

A limit bounds the time or memory that a hostile value can cost the reader; honest values stay far below. No value means
"unlimited", and the data cannot change a limit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on the cost of one value. Every limit is a positive int and inclusive.

    An honest S1+S2 patch of the original package has 277 kB, 1,035 opcodes, 253 memo entries and depth 6.

    Attributes:
        max_value_bytes: Bytes of one stored value. 16 MiB holds an S1+S2 patch of complex128 bands nine times over.
        max_header_bytes: Bytes of the header of a safetensors value, metadata included. The header of an S2 patch has
            824 bytes, with labels about 2,000. JSON takes up to fifty times its bytes in memory during parsing.
        max_opcodes: Opcodes of one pickle. This bounds the time of the check (about 0.1 us per opcode).
        max_memo: Memo entries. The unpickler allocates its memo up to the largest index.
        max_depth: Nesting of containers in the metadata, including the two around it. Deeper tuples overflow the C
            stack in ``hash`` and ``repr``.
        max_nodes: Objects in the metadata. A shared object counts each time that it occurs, and so does each text in an
            array. A "billion laughs" pickle has few opcodes and many nodes.
        max_text_bytes: Bytes of all strings longer than 255 bytes. A string can take four times its bytes in memory.
        max_int_bytes: Bytes of one integer. Printing an integer takes time quadratic in its length.
        max_bands: Bands of one patch.
        max_side: Pixels along one side of a band.
        max_array_dims: Dimensions of one metadata array (numpy 1 stops at 32).
        max_name_characters: Characters of one metadata or global name.
    """

    max_value_bytes: int = 16 * 2**20
    max_header_bytes: int = 64 * 2**10
    max_opcodes: int = 50_000
    max_memo: int = 50_000
    max_depth: int = 32
    max_nodes: int = 50_000
    max_text_bytes: int = 2**20
    max_int_bytes: int = 64
    max_bands: int = 64
    max_side: int = 16_384
    max_array_dims: int = 16
    max_name_characters: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{field.name} must be a positive int, not {value!r}; limits cannot be switched off")


DEFAULT_LIMITS = Limits()
"""The limits that every reader uses unless the caller passes others."""
