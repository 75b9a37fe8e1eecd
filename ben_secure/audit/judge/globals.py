"""Name a global that a refused value would import, so that an attack is not reported as mere damage.

The machine stops at the first error and reports only that. This module decodes all opcodes, before and after the
error, with ``pickletools``, which executes none of them, and follows the strings and the memo. It can make a finding
graver but never milder, and it never looks at a value that loads.
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
"""Maximum number of opcodes examined in one value; an honest value has about 1,000."""
_SHOWN_CHARACTERS = 200
_STRINGS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_PUTS, _GETS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"}), frozenset({"GET", "BINGET", "LONG_BINGET"})


def with_global(finding: Finding, value: bytes, honest: Collection[tuple[str, str]] = ()) -> Finding:
    """Add the first foreign global of a refused value to the finding on it.

    Args:
        finding: Why the value was refused.
        value: The stored bytes (untrusted).
        honest: Pairs of module and name that the caller allows in addition to the allow-list.

    Returns:
        A finding that names the global. The same finding if it already names one or the value has no foreign global.
    """
    if finding.global_name is not None or value[4:9] == SIGN:
        return finding
    global_name = foreign_global(value, honest)
    if global_name is None:
        return finding
    # Drops the advice for a damaged value, "fetch it again": it is wrong for an attack.
    problem = finding.message.partition("; ")[0]
    message = f"{problem}; it asks for {global_name}, which no patch needs: do not load this value with pickle"
    return dataclasses.replace(finding, message=message, global_name=global_name)


def foreign_global(value: bytes, honest: Collection[tuple[str, str]] = ()) -> str | None:
    """Find the first global that no patch needs, in a pickle or in pickles appended to it.

    Args:
        value: The stored bytes (untrusted).
        honest: As for ``with_global``.

    Returns:
        ``module.name``, escaped and truncated. None if the first ``MAX_OPCODES`` opcodes contain no such global.
    """
    memo: dict[object, str | None] = {}
    strings: list[str | None] = [None, None]  # the two strings pushed last
    top: str | None = None  # the top of the stack, if it is a string
    for number, (name, argument, _, _) in enumerate(opcodes(value[: payload_end(value)])):
        if number >= MAX_OPCODES:
            return None
        if name in ("GLOBAL", "INST"):
            module, _, attribute = str(argument).partition(" ")
            # Without the first byte of a pickle, the value may be any text of two lines.
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
