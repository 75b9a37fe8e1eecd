"""The process that runs fickling for ``opinions``: programs in, findings out, until the pipe is closed.

The only home of fickling. It reads hostile bytes with a library that was not written to withstand them, so it lives
in a process of its own with bounded memory, which may die or be killed at any time. It never runs the program that
it is asked about, and what it answers decides nothing.

Requests and answers are JSON or bytes behind their length (u32, little-endian). The first request is a JSON list of
the (module, name) pairs of honest patches and of the caller's classes, answered by ``{}``; each one after it is a
program, answered by ``{"severity": ..., "beyond": [...], "code": [...]}`` or ``{"error": ...}``.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MEMORY_BYTES = 2**30
_CPU_SECONDS = 300
"""More than is ever asked for; ends a process that hangs and that nobody waits for any more."""
_MAX_PICKLES = 4
_MAX_BEYOND = 5
_MAX_CODE = 6
_SHOWN_CHARACTERS = 300

Honest = frozenset[tuple[str, str]]


def analyse(program: bytes, honest: Honest) -> Mapping[str, Any]:
    """Ask fickling about a program, and leave out what it says of every honest patch.

    Args:
        program: A pickle, or several one behind the other, as of a value with trailing data.
        honest: The (module, name) pairs that honest patches name.

    Returns:
        ``severity``: fickling's gravest one of what is left, such as ``LIKELY_OVERTLY_MALICIOUS``, or None.
        ``beyond``: fickling's sentences that are left, the gravest first. ``code``: the Python that the program
        amounts to, as fickling writes it, where it imports or uses other names than honest ones.
    """
    from fickling.analysis import check_safety

    found: list[Any] = []
    code: list[str] = []
    names = {name for _, name in honest}
    for pickled in _pickles(program):
        found += [result for result in check_safety(pickled).results if not _is_known(result, honest, names)]
        code += _code(pickled, honest, _MAX_CODE - len(code))
    found.sort(key=lambda result: -result.severity.severity)
    return {
        "severity": found[0].severity.name if found else None,
        "beyond": [_lasting(str(result.message))[:_SHOWN_CHARACTERS] for result in found[:_MAX_BEYOND]],
        "code": [_lasting(line)[:_SHOWN_CHARACTERS] for line in code],
    }


def _lasting(text: str) -> str:
    """A text without the addresses that fickling puts into names and messages, so that it says the same next time."""
    return re.sub(r"\b(_malformed_\w+?)_\d+\b|\b0x[0-9a-f]{6,}\b", lambda found: found[1] or "0x...", text)


def _pickles(program: bytes) -> Iterator[Any]:
    """Read the pickles that stand one behind the other; what does not begin as one ends it."""
    from fickling.fickle import EmptyPickleError, Pickled

    stream = io.BytesIO(program)
    for count in range(_MAX_PICKLES):
        try:
            pickled = Pickled.load(stream, fail_on_decode_error=False)
        except EmptyPickleError:
            if count == 0:
                raise
            return
        yield pickled
        if stream.tell() >= len(program) or pickled.has_invalid_opcode:
            return


def _is_known(result: Any, honest: Honest, names: set[str]) -> bool:
    """Whether fickling says this of honest patches, too: it rates every import from outside the standard library."""
    trigger = str(result.trigger or "")
    if result.analysis_name == "NonStandardImports":
        module, found, name = trigger.removeprefix("from ").partition(" import ")
        return bool(found) and (module, name) in honest
    if result.analysis_name == "OvertlyBadEval" and "(" in trigger:
        # The name is that of an import, and of what else than an honest module it comes is a finding of its own.
        return trigger.partition("(")[0].removesuffix(".__new__") in names
    if result.analysis_name == "UnusedVariables":
        # A canonical value is the result of its one call, which fickling takes for unused.
        value = trigger.partition(": ")[2]
        return "(" in value and value.partition("(")[0].removesuffix(".__new__") in names
    return False


def _code(pickled: Any, honest: Honest, room: int) -> list[str]:
    """The statements that import other names than honest ones, and those that use them."""
    foreign: set[str] = set()
    found: list[str] = []
    for statement in pickled.ast.body:
        if len(found) >= room:
            break
        if isinstance(statement, ast.ImportFrom | ast.Import):
            module = getattr(statement, "module", None)
            imported = [alias.name for alias in statement.names if (module, alias.name) not in honest]
            foreign.update(imported)
            uses = bool(imported)
        else:
            uses = any(isinstance(node, ast.Name) and node.id in foreign for node in ast.walk(statement))
        if uses:
            found.append(ast.unparse(statement))
    return found


def _bound_resources() -> None:
    """Bound the memory of this process; the time of an answer is watched by who asks."""
    import resource

    limits = {"RLIMIT_AS": _MEMORY_BYTES, "RLIMIT_DATA": _MEMORY_BYTES, "RLIMIT_CPU": _CPU_SECONDS, "RLIMIT_CORE": 0}
    for name, limit in limits.items():
        with suppress(OSError, ValueError):  # macOS knows not all of them
            resource.setrlimit(getattr(resource, name), (limit, limit))


def _receive(requests: BinaryIO) -> bytes | None:
    head = requests.read(4)
    return requests.read(int.from_bytes(head, "little")) if len(head) == 4 else None


def _send(answers: BinaryIO, text: str) -> None:
    content = text.encode()
    answers.write(len(content).to_bytes(4, "little") + content)
    answers.flush()


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more.

    Args:
        requests: Where they come from.
        answers: Where the answers go.
    """
    pairs = _receive(requests)
    if pairs is None:
        return
    honest = frozenset((module, name) for module, name in json.loads(pairs))
    import fickling.analysis  # noqa: F401 (takes longer than an analysis, which is timed)

    _send(answers, json.dumps({}))
    while (program := _receive(requests)) is not None:
        try:
            answer = json.dumps(analyse(program, honest))
        except Exception as error:  # whatever fickling raises about hostile bytes; its text can hold addresses
            answer = json.dumps({"error": f"it cannot read the value ({type(error).__name__})"})
        _send(answers, answer)


def main() -> None:
    """Serve on stdin and stdout."""
    _bound_resources()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # fickling prints, too; that must not come between answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)
