"""Tallies as JSON, for the answers of workers and for state files.

JSON is used instead of pickle, because a worker that judges untrusted values is not trusted, and files are not either.
Parsing is strict, and every text is escaped again. The law: a tally survives the round trip.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

from ben_secure.audit.findings import Finding, Tally
from ben_secure.audit.rules import Category
from ben_secure.errors import Rule, printable

_TEXT = 4000
_COUNTS = ("checked", "skipped", "refused", "value_bytes")
_LISTS = ("rules", "categories", "findings", "formats", "sizes", "clean_keys", "programs", "opinions")
_NUMBERS = ("offset", "position")
_TEXTS = ("opcode", "global_name", "opinion")

_Key = TypeVar("_Key")


def tally_to_json(tally: Tally) -> dict[str, object]:
    """Convert a tally into plain data."""
    return {
        **{name: getattr(tally, name) for name in _COUNTS},
        "rules": {str(rule): count for rule, count in tally.rules.items()},
        "categories": {str(category): count for category, count in tally.categories.items()},
        "findings": [_finding_to_json(finding) for finding in tally.findings],
        "formats": dict(tally.formats),
        "sizes": {str(bits): count for bits, count in tally.sizes.items()},
        "clean_keys": [lmdb_key.hex() for lmdb_key in tally.clean_keys],
        "programs": [
            [program.hex(), lmdb_key.hex(), position] for program, (lmdb_key, position) in tally.programs.items()
        ],
        "opinions": dict(tally.opinions),
        "undecided": tally.undecided,
    }


def tally_from_json(document: object) -> Tally:
    """Read a tally.

    Args:
        document: Decoded JSON (untrusted).

    Raises:
        ValueError: The document is not valid output of ``tally_to_json``.
    """
    members = members_of(document, {*_COUNTS, *_LISTS, "undecided"})
    checked, skipped, refused, value_bytes = (number_of(members[name]) for name in _COUNTS)
    return Tally(
        checked=checked,
        skipped=skipped,
        refused=refused,
        value_bytes=value_bytes,
        rules=_counter(members["rules"], Rule),
        categories=_counter(members["categories"], Category),
        findings=[_finding_from_json(finding) for finding in list_of(members["findings"])],
        formats=_counter(members["formats"], text_of),
        sizes=_counter(members["sizes"], int),
        clean_keys=[bytes_of(lmdb_key) for lmdb_key in list_of(members["clean_keys"])],
        programs=dict(map(_program, list_of(members["programs"]))),
        opinions=_counter(members["opinions"], text_of),
        undecided=_optional(members["undecided"], text_of),
    )


def _program(document: object) -> tuple[bytes, tuple[bytes, int]]:
    program, lmdb_key, position = list_of(document)
    return bytes_of(program), (bytes_of(lmdb_key), number_of(position))


def _finding_to_json(finding: Finding) -> dict[str, object]:
    return {
        "rule": str(finding.rule),
        "message": finding.message,
        "lmdb_key": None if finding.lmdb_key is None else finding.lmdb_key.hex(),
        "program": None if finding.program is None else finding.program.hex(),
        **{name: getattr(finding, name) for name in (*_NUMBERS, *_TEXTS)},
    }


def _finding_from_json(document: object) -> Finding:
    members = members_of(document, {"rule", "message", "lmdb_key", "program", *_NUMBERS, *_TEXTS})
    offset, position = (_optional(members[name], number_of) for name in _NUMBERS)
    opcode, global_name, opinion = (_optional(members[name], text_of) for name in _TEXTS)
    return Finding(
        rule=Rule(members["rule"]),
        message=text_of(members["message"]),
        lmdb_key=_optional(members["lmdb_key"], bytes_of),
        program=_optional(members["program"], bytes_of),
        offset=offset,
        position=position,
        opcode=opcode,
        global_name=global_name,
        opinion=opinion,
    )


def members_of(document: object, names: set[str]) -> Mapping[str, object]:
    """Return a JSON object, which must have exactly these members.

    Raises:
        ValueError: The document is not an object, or has other members.
    """
    if not isinstance(document, dict) or document.keys() != names:
        raise ValueError(f"expected an object with the members {', '.join(sorted(names))}")
    return document


def number_of(document: object) -> int:
    """Return a count or a position.

    Raises:
        ValueError: The document is not a non-negative whole number.
    """
    if type(document) is not int or document < 0:
        raise ValueError("expected a non-negative whole number")
    return document


def text_of(document: object) -> str:
    """Return a text, escaped.

    Raises:
        ValueError: The document is not a string.
    """
    if not isinstance(document, str):
        raise ValueError("expected a text")
    return printable(document, _TEXT)


def bytes_of(document: object) -> bytes:
    """Decode bytes from hexadecimal.

    Raises:
        ValueError: The document is not a string of hexadecimal digits.
    """
    if not isinstance(document, str):
        raise ValueError("expected bytes in hexadecimal")
    return bytes.fromhex(document)


def list_of(document: object) -> list[object]:
    if not isinstance(document, list):
        raise ValueError("expected a list")
    return document


def _counter(document: object, key_of: Callable[[str], _Key]) -> Counter[_Key]:
    if not isinstance(document, dict):
        raise ValueError("expected an object of counts")
    return Counter({key_of(name): number_of(count) for name, count in document.items()})


_Result = TypeVar("_Result")


def _optional(document: object, read: Callable[[object], _Result]) -> _Result | None:
    return None if document is None else read(document)
