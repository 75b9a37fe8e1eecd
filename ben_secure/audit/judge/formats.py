"""Name the program that wrote a value. Reports count these names. The verdict does not depend on them.

The name follows from the globals and dictionary keys that the machine saw, never from pixels or other bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ben_secure.pickles.records import is_record

if TYPE_CHECKING:
    from ben_secure.pickles.machine import State

REFUSED = "refused"
"""Format under which refused values are counted."""


def written_by(state: State | None) -> str:
    """Name the writer of a value that the loader has accepted.

    Args:
        state: Final state of the machine, or None for a safetensors file.

    Returns:
        ``canonical``, ``legacy: interface ..., numpy ..., pydantic ...`` or ``safetensors``.
    """
    if state is None:
        return "safetensors"
    root = state.levels[0][0]
    if is_record(root, "rebuild_patch"):
        return "canonical"
    interface, listed = ("0.1.2", "_bands") if "_bands" in root.state else ("0.1.0", "bands")
    numpy = 2 if any(module.startswith("numpy._core.") for module, _ in state.names) else 1
    pydantic = 2 if any("__pydantic_fields_set__" in band.state for band in root.state[listed]) else 1
    return f"legacy: interface {interface}, numpy {numpy}, pydantic {pydantic}"
