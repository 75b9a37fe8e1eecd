"""Name what a refused value would import, whatever it was refused for, so that no attack passes for damage.

The machine stops at the first thing that is wrong, and says that. This decodes the opcodes before and behind that
place with ``pickletools``, which executes none, and follows the strings and the memo as a pickle writer uses them. It
only ever makes a finding graver, and decides on no value that loads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from ben_secure.audit.findings import Finding
from ben_secure.audit.judge.programs import opcodes
from ben_secure.errors import printable
from ben_secure.pickles.names import TABLE
from ben_secure.signing.footer import payload_end
from ben_secure.tensors.reading import SIGN

MAX_OPCODES = 5_000
"""Opcodes of a value that are looked at; an honest one has about 1,000."""
_SHOWN_CHARACTERS = 200
_STRINGS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_PUTS, _GETS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"}), frozenset({"GET", "BINGET", "LONG_BINGET"})


def with_global(finding: Finding, value: bytes, honest: Collection[tuple[str, str]] = ()) -> Finding:
    """Add to the finding on a refused value the first global that it asks for and no patch needs.

    Args:
        finding: Why the value was refused.
        value: The stored bytes; hostile.
        honest: Pairs of module and name that the caller declares, beside the usual ones.

    Returns:
        The finding itself if it names a global already or the value asks for none; otherwise a finding that names it.
    """
    if finding.global_name is not None or value[4:9] == SIGN:
        return finding
    asked = foreign_global(value, honest)
    if asked is None:
        return finding
    what = finding.message.partition("; ")[0]
    # What a damaged value needs, "fetch it again", is no advice about an attack.
    message = f"{what}; it asks for {asked}, which no patch needs: do not load this value with pickle"
    return dataclasses.replace(finding, message=message, global_name=asked)


def foreign_global(value: bytes, honest: Collection[tuple[str, str]] = ()) -> str | None:
    """Find the first global in a pickle, or in those that follow it, that no patch needs.

    Args:
        value: The stored bytes; hostile.
        honest: As for ``with_global``.

    Returns:
        ``module.name``, escaped and cut; None if there is none in the first ``MAX_OPCODES`` opcodes.
    """
    memo: dict[object, str | None] = {}
    strings: list[str | None] = [None, None]  # the two that were pushed last
    top: str | None = None  # on top of the stack, if that is a string
    for number, (name, argument, _, _) in enumerate(opcodes(value[: payload_end(value)])):
        if number >= MAX_OPCODES:
            return None
        if name in ("GLOBAL", "INST"):
            module, _, attribute = str(argument).partition(" ")
            # Without a pickle's first byte it may be any text with two lines.
            if value[:1] != b"\x80" and not f"{module}.{attribute}".replace(".", "").isidentifier():
                return None
            strings = [module, attribute]
        elif name.startswith("EXT"):
            return f"extension {printable(argument)} of copyreg"
        elif name in _STRINGS or name in _GETS:
            top = str(argument) if name in _STRINGS else memo.get(argument)
            strings = [strings[1], top]
            continue
        elif name == "MEMOIZE" or name in _PUTS:
            memo[len(memo) if name == "MEMOIZE" else argument] = top
            continue
        top = None
        if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            module, attribute = strings[0] or "?", strings[1] or "?"
            if (module, attribute) not in TABLE and (module, attribute) not in honest:
                return printable(f"{module}.{attribute}", _SHOWN_CHARACTERS)
        elif name == "STOP":
            memo, strings = {}, [None, None]
    return None
