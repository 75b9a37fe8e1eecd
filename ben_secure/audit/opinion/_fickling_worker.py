"""The process that runs fickling for ``opinions``. It answers requests until the pipe is closed.

Only this module imports fickling. fickling was not written to withstand untrusted bytes, so it runs in a separate
process with bounded memory, which may die or be killed at any time. It never runs the program under analysis, and its
answers decide nothing.

Requests and answers follow their length (u32, little-endian). The first request is a JSON list of the (module, name)
pairs of honest patches and of the caller's classes. Its answer is ``{}``. Each further request is a program. Its
answer is ``{"severity": ..., "beyond": [...], "code": [...]}`` or ``{"error": ...}``.
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
"""More than any audit needs; ends a process that hangs after its audit has gone."""
_MAX_PICKLES = 4
_MAX_BEYOND = 5
_MAX_CODE = 6
_SHOWN_CHARACTERS = 300

Honest = frozenset[tuple[str, str]]


def analyse(program: bytes, honest: Honest) -> Mapping[str, Any]:
    """Analyse a program with fickling, and leave out the results that every honest patch has.

    Args:
        program: A pickle, or several concatenated ones for a value with trailing data.
        honest: The (module, name) pairs that honest patches name.

    Returns:
        ``severity``: the gravest severity among the remaining results, such as ``LIKELY_OVERTLY_MALICIOUS``, or None.
        ``beyond``: their messages, the gravest first. ``code``: Python equivalent to the program, as fickling writes
        it; only the statements that import or use names that honest patches do not have.
    """
    from fickling.analysis import check_safety

    results: list[Any] = []
    code: list[str] = []
    names = {name for _, name in honest}
    for pickled in _pickles(program):
        results += [result for result in check_safety(pickled).results if not _is_expected(result, honest, names)]
        code += _code(pickled, honest, _MAX_CODE - len(code))
    results.sort(key=lambda result: -result.severity.severity)
    return {
        "severity": results[0].severity.name if results else None,
        "beyond": [_repeatable(str(result.message))[:_SHOWN_CHARACTERS] for result in results[:_MAX_BEYOND]],
        "code": [_repeatable(line)[:_SHOWN_CHARACTERS] for line in code],
    }


def _repeatable(text: str) -> str:
    """Remove memory addresses from fickling's names and messages, so that each run gives the same text."""
    return re.sub(r"\b(_malformed_\w+?)_\d+\b|\b0x[0-9a-f]{6,}\b", lambda match: match[1] or "0x...", text)


def _pickles(program: bytes) -> Iterator[Any]:
    """Read concatenated pickles, up to the first bytes that are not a pickle."""
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


def _is_expected(result: Any, honest: Honest, names: set[str]) -> bool:
    """Whether fickling reports this about honest patches, too: it reports every import outside the standard library."""
    trigger = str(result.trigger or "")
    if result.analysis_name == "NonStandardImports":
        module, separator, name = trigger.removeprefix("from ").partition(" import ")
        return bool(separator) and (module, name) in honest
    if result.analysis_name == "OvertlyBadEval" and "(" in trigger:
        # The trigger names no module. An import of this name from a foreign module is a separate result.
        return trigger.partition("(")[0].removesuffix(".__new__") in names
    if result.analysis_name == "UnusedVariables":
        # A canonical value is the result of its only call. fickling considers that result unused.
        value = trigger.partition(": ")[2]
        return "(" in value and value.partition("(")[0].removesuffix(".__new__") in names
    return False


def _code(pickled: Any, honest: Honest, room: int) -> list[str]:
    """Return the statements that import or use names that honest patches do not have."""
    foreign: set[str] = set()
    lines: list[str] = []
    for statement in pickled.ast.body:
        if len(lines) >= room:
            break
        if isinstance(statement, ast.ImportFrom | ast.Import):
            module = getattr(statement, "module", None)
            imported = [alias.name for alias in statement.names if (module, alias.name) not in honest]
            foreign.update(imported)
            uses = bool(imported)
        else:
            uses = any(isinstance(node, ast.Name) and node.id in foreign for node in ast.walk(statement))
        if uses:
            lines.append(ast.unparse(statement))
    return lines


def _bound_resources() -> None:
    """Bound the memory of this process. The asking process limits the time of an answer."""
    import resource

    limits = {"RLIMIT_AS": _MEMORY_BYTES, "RLIMIT_DATA": _MEMORY_BYTES, "RLIMIT_CPU": _CPU_SECONDS, "RLIMIT_CORE": 0}
    for name, limit in limits.items():
        with suppress(OSError, ValueError):  # macOS does not have all of them
            resource.setrlimit(getattr(resource, name), (limit, limit))


def _receive(requests: BinaryIO) -> bytes | None:
    head = requests.read(4)
    return requests.read(int.from_bytes(head, "little")) if len(head) == 4 else None


def _send(answers: BinaryIO, text: str) -> None:
    content = text.encode()
    answers.write(len(content).to_bytes(4, "little") + content)
    answers.flush()


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until the stream ends.

    Args:
        requests: Stream of requests.
        answers: Stream for the answers.
    """
    pairs = _receive(requests)
    if pairs is None:
        return
    honest = frozenset((module, name) for module, name in json.loads(pairs))
    import fickling.analysis  # noqa: F401 (slow, and must not count towards the time of an analysis)

    _send(answers, json.dumps({}))
    while (program := _receive(requests)) is not None:
        try:
            answer = json.dumps(analyse(program, honest))
        except Exception as error:  # fickling raises many classes on untrusted bytes; their texts can hold addresses
            answer = json.dumps({"error": f"it cannot read the value ({type(error).__name__})"})
        _send(answers, answer)


def main() -> None:
    """Serve on stdin and stdout."""
    _bound_resources()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # fickling prints to stdout, which must not mix with the answers.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)
