"""Attacks in safetensors values, each with an honest file that hardly differs; part of ``attacks.ATTACKS``.

T16: a header that crashes the reader, exhausts its memory or time, or makes two readers see two patches.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from ben_secure.errors import Rule
from support.assembler import attack
from support.tensor_files import (
    MAP,
    S1_FILE,
    S1_NAMES,
    S2_NAMES,
    entry,
    file,
    noted,
    pattern,
    raw,
    sentinel,
    spell,
    table,
)

_DATA = pattern(120 * 120)
_S1 = sentinel(S1_NAMES)
_TWO = table({"a": [120, 120], "b": [120, 120]})
_NOTE = {"kind": "BigEarthNet_S1_Patch", "stored": {"x": 1}}


def _add(
    label: str,
    why: str,
    value: bytes | Callable[[], bytes],
    words: str,
    accepted: bytes | None = None,
    rule: Rule = Rule.TENSORS,
) -> None:
    attack("T16", f"safetensors: {label}", why, value, rule, S1_FILE if accepted is None else accepted, words)


def _map(**changes: Any) -> bytes:
    """The file of one map with members changed; None leaves one out."""
    said = {name: item for name, item in (MAP["Data"] | changes).items() if item is not None}
    return raw(spell({"Data": said}), _DATA)


def _json(text: str) -> bytes:
    """The file of one map with its shape spelled in JSON."""
    return raw(f'{{"Data":{{"dtype":"U8","shape":{text},"data_offsets":[0,14400]}}}}', _DATA)


def _add_lengths() -> None:
    whole = len(S1_FILE)
    for length in (len(S1_FILE) - 7, len(S1_FILE)):
        _add(f"header of {length} bytes", "reads beyond the value", struct.pack("<Q", length) + S1_FILE[8:], "follow")
    for length in (2**16 + 1, 2**31, 2**32 - 1):
        _add(
            f"header of {length} bytes",
            "allocates any announced length",
            struct.pack("<Q", length) + S1_FILE[8:],
            "at most 65536 are read",
            rule=Rule.LIMIT,
        )
    for length in (2**32, 2**63, 2**64 - 1):
        _add(
            f"header of {length} bytes",
            "overflows",
            struct.pack("<Q", length) + S1_FILE[8:],
            "not a safetensors file",
            rule=Rule.NOT_A_PICKLE,
        )
    _add("one byte of header", "indexes behind the end", raw("{", b"}"), "not JSON")
    _add(
        "no header",
        "is distinguished from other formats by its first byte",
        struct.pack("<Q", 0),
        "not a safetensors file",
        rule=Rule.NOT_A_PICKLE,
    )
    _add(
        "header of no bytes, '{' behind it", "the length decides what the header is", raw("", b"{}"), "begins with b''"
    )
    for end in (9, 20, whole - 28801, whole - 1):
        _add(f"cut to {end} bytes", "shows memory that is not the value's", S1_FILE[:end], "follow|take 28800 bytes")
    for more in (b"\0", b".", bytes(64), S1_FILE):
        _add(f"{len(more)} bytes more, {more[:1]!r}", "hides data behind the tensors", S1_FILE + more, "28800 bytes")
    _add("long header", "takes time and memory", lambda: raw('{"' + "a" * 70_000, b""), "65536", rule=Rule.LIMIT)


def _add_json() -> None:
    for label, header in {
        "no object": "{]",
        "number": "{1}",
        "trailing comma": '{"a":1,}',
        "comment": "{/**/}",
        "single quotes": "{'a':1}",
        "control character": '{"\x01":1}',
        "NUL behind": spell(MAP) + "\0",
        "second object": spell(MAP) + "{}",
        "bad escape": '{"\\x41":1}',
        "escape cut short": '{"\\u12":1}',
        "unterminated": '{"a',
        "many quotes": '{"' + '\\"' * 30_000,
        "many backslashes": '{"' + "\\" * 60_001,
    }.items():
        _add(label, "JSON parsers differ about it", raw(header, _DATA), "is not JSON", file(MAP))
    for text in ("NaN", "Infinity", "-Infinity"):
        _add(text, "is no JSON", _json(f"[{text},120]"), "is not JSON", file(MAP))
    for label, header in {"byte order mark": b"\xef\xbb\xbf", "a space": b" ", "a line break": b"\n"}.items():
        _add(
            f"{label} before the object",
            "other formats begin so",
            raw(header + spell(MAP).encode(), _DATA),
            "not a safetensors file",
            file(MAP),
            Rule.NOT_A_PICKLE,
        )
    for label, name in {"bad UTF-8": b"\xff", "overlong": b"\xc0\xaf", "surrogate": b"\xed\xa0\x80"}.items():
        _add(label, "decoders differ about it", raw(b'{"' + name + b'":1}', _DATA), "not UTF-8", file(MAP))
    _add("half a surrogate pair as name", "cannot be written", raw('{"\\ud800":1}', _DATA), "not Unicode", file(MAP))
    for label, depth in {"deep": 40, "deeper than the stack": 9_000}.items():
        _add(f"{label} arrays", "overflows the stack", _json("[" * depth + "]" * depth), "nested", file(MAP))
        _add(f"{label} objects", "overflows the stack", raw('{"a":' * depth + "1" + "}" * depth), "nested", file(MAP))
        _add(
            f"{label} arrays behind a quoted quote",
            "hides the brackets",
            raw('{"\\"":' + "[" * depth, _DATA),
            "nested",
            file(MAP),
        )
        _add(
            f"{label} arrays behind quoted backslashes",
            "hides the brackets",
            raw('{"\\\\":' + "[" * depth, _DATA),
            "nested",
            file(MAP),
        )


def _add_names() -> None:
    one = spell(MAP)[1:-1]
    _add(
        "name twice",
        "one reader keeps the first, another the last",
        raw(f"{{{one},{one}}}", _DATA),
        "occurs twice",
        file(MAP),
    )
    escaped = one.replace("Data", "D\\u0061ta")
    _add(
        "name twice, once escaped",
        "the same by another spelling",
        raw(f"{{{one},{escaped}}}", _DATA),
        "occurs twice",
        raw(f"{{{escaped}}}", _DATA),
    )
    for name in ("dtype", "shape", "data_offsets"):
        text = spell({name: MAP["Data"][name]})[1:-1]
        _add(
            f"{name} twice",
            "readers differ about it",
            raw(f"{{{one[:-1]},{text}}}}}", _DATA),
            "occurs twice",
            file(MAP),
        )
        _add(
            f"no {name}",
            "reads past the end",
            _map(**{name: None}),
            "with exactly the members dtype, shape and data_offsets",
            file(MAP),
        )
        _add(
            f"{name} is null",
            "is of another type",
            raw(spell({"Data": MAP["Data"] | {name: None}}), _DATA),
            "the dtype None|must be",
            file(MAP),
        )
    _add("another member", "is skipped by some", _map(more=1), "exactly the members", file(MAP))
    _add(
        "tensor as array",
        "is read by position by some",
        raw('{"Data":["U8",[120,120],[0,14400]]}', _DATA),
        "must be an object",
        file(MAP),
    )
    _add(
        "metadata twice",
        "one reader keeps the first, another the last",
        raw('{"__metadata__":{"a":"b"},"__metadata__":{},' + one + "}", _DATA),
        "occurs twice",
        file({"__metadata__": {"a": "b"}, **MAP}),
    )
    for label, said in {"null": None, "array": [], "text": "a", "a tensor": MAP["Data"]}.items():
        _add(
            f"metadata is {label}",
            "is of another type",
            file({"__metadata__": said, **MAP}, _DATA),
            "must be an object|must contain only strings",
            file({"__metadata__": {}, **MAP}),
        )
    for label, item in {"a number": 1, "null": None, "an object": {}, "an array": ["a"]}.items():
        _add(
            f"metadata holds {label}",
            "is of another type",
            file({"__metadata__": {"a": item}, **MAP}, _DATA),
            "must contain only strings",
            file({"__metadata__": {"a": "1"}, **MAP}),
        )
    _add(
        "metadata name twice",
        "one reader keeps the first",
        raw('{"__metadata__":{"a":"b","a":"c"},' + one + "}", _DATA),
        "occurs twice",
        file({"__metadata__": {"a": "b"}, **MAP}),
    )
    for label, name in {"escape": "\x1b[31m", "line break": "a\nb", "right to left": "\u202egnp", "empty": ""}.items():
        _add(
            f"{label} in a name",
            "takes over a terminal",
            file(table({name: [120, 120]})),
            "printable characters",
            file(MAP),
            Rule.PATCH,
        )
        _add(
            f"{label} in a name that is refused",
            "takes over a terminal",
            file(table({name: [7, 7]})),
            "does not have the name of a BigEarthNet band",
            file(MAP),
            Rule.PATCH,
        )
    for label, name in {"digits": "9" * 5000, "letters": "a" * 257}.items():
        _add(
            f"name of {len(name)} {label}",
            "numbers in names are read to sort them",
            file(table({name: [120, 120], "B02": [120, 120]})),
            "1 to 256 printable characters",
            file(table({name[:256]: [120, 120], "B02": [120, 120]})),
            Rule.PATCH,
        )
    for name in ("dump", "bands", "__class__", "__stored_args__", "bandVV"):
        _add(
            f"metadata called {name}",
            "shadows a method or a band",
            file({"__metadata__": {name: "x"}, **_S1}),
            "shadow",
            file({"__metadata__": {"x": "x"}, **_S1}),
            Rule.PATCH,
        )


def _add_numbers() -> None:
    for text in (
        "[-120,-120]",
        "[-1,-14400]",
        "[120,-0]",
        "[1e2,144]",
        "[120.0,120]",
        "[true,14400]",
        '["120",120]',
        "[120,120.5]",
        "[[120],120]",
        "{}",
        "14400",
        "[9" + "9" * 20 + ",1]",
        "[1" + "0" * 5000 + ",1]",
    ):
        _add(f"shape {text[:40]}", "is no length", _json(text), "natural number|integers|nested", file(MAP))
    for text in ("[]", "[14400]", "[1,120,120]", "[0,120]", "[120,0]", "[0,18446744073709551615]"):
        _add(f"shape {text}", "is no image", _json(text), "rows and columns", file(MAP))
    for text in (
        "[4294967296,4294967296]",
        "[18446744073709551615,18446744073709551615]",
        "[9223372036854775808,2]",
        "[120,121]",
        "[119,120]",
        "[1000000,1000000]",
    ):
        _add(f"shape {text}", "its product overflows, or is more than there is", _json(text), "takes", file(MAP))
    for offsets in ([1, 14401], [0, 14399], [0, 14401], [14400, 0], [14400, 14400], [2**64 - 14400, 2**64]):
        _add(
            f"offsets {offsets}", "reads beyond or beside", _map(data_offsets=offsets), "takes|leaves a gap", file(MAP)
        )
    for said in ([0], [], [0, 14400, 14400], {}, 0, ["0", "14400"], [0, None], [False, 14400]):
        _add(f"offsets {said}", "are of another type", _map(data_offsets=said), "two integers", file(MAP))
    _add(
        "negative offset",
        "reads before the value",
        raw(spell(MAP).replace("[0,14400]", "[-1,14399]"), _DATA),
        "natural number",
        file(MAP),
    )
    for dtype, words in {
        "O": "unknown",
        "V8": "unknown",
        "": "unknown",
        "u8": "unknown",
        "<u1": "unknown",
        "U128": "unknown",
        "C128": "unknown",
        "BOOL": "cannot have",
        "BF16": "cannot have",
        "F8_E4M3": "cannot have",
        "F4": "cannot have",
    }.items():
        _add(f"dtype {dtype}", "is none of pixels", _map(dtype=dtype), words, file(MAP))
    for said in (8, ["U8"], {"U8": None}):
        _add(f"dtype {said}", "is of another type", _map(dtype=said), "unknown", file(MAP))
    for label, second in {"on top": 0, "overlap": 14399, "hole": 14401}.items():
        members = {"a": entry([120, 120]), "b": entry([120, 120], second)}
        data = pattern(max(second, 0) + 14400)
        _add(
            f"tensors with {label}",
            "shows bytes twice, or never",
            file(members, data),
            "overlaps|leaves a gap",
            file(_TWO),
        )
    _add("hole in front", "hides data", file({"a": entry([120, 120], 8)}), "leaves a gap", file(MAP))
    _add("no tensor", "makes a patch of nothing", raw("{}"), "no tensor", file(MAP))
    _add(
        "no tensor but metadata", "makes a patch of nothing", file({"__metadata__": {"a": "b"}}), "no tensor", file(MAP)
    )
    _add(
        "many tensors",
        "takes time and memory",
        file(table({f"b{n}": [1, 1] for n in range(65)})),
        "at most 64 bands",
        file(table({f"b{n}": [1, 1] for n in range(64)})),
        Rule.LIMIT,
    )
    _add(
        "largest side",
        "is no patch",
        file(table({"a": [1, 20_000]})),
        "does not have the name of a BigEarthNet band",
        file(MAP),
        Rule.PATCH,
    )


def _add_patches() -> None:
    for names, label in ((S1_NAMES, "S1"), (S2_NAMES, "S2"), (S1_NAMES + S2_NAMES, "S1 and S2")):
        wrong = {names[-1]: [60, 120]}
        _add(
            f"{label} with a band misshapen",
            "passes for a patch",
            file(sentinel(names, **wrong)),
            "pixels, expected",
            file(sentinel(names)),
            Rule.PATCH,
        )
    _add(
        "one band of Sentinel-2 misshapen",
        "passes for a band",
        file(table({"B05": [120, 120]})),
        "expected 60 x 60",
        file(table({"B05": [60, 60]})),
        Rule.PATCH,
    )
    for shape in ([7, 7], [256, 256], [120, 60]):
        _add(
            f"unknown band of {shape}",
            "has no resolution",
            file(table({"Red": shape})),
            "does not have the name of a BigEarthNet band",
            file(MAP),
            Rule.PATCH,
        )


def _add_notes() -> None:
    accepted = noted(_NOTE)
    generic = {"kind": "BigEarthNetPatch", "stored": {}, "bands": [[None, "Band", "Data", 10]]}
    honest = noted(generic, MAP)
    for label, text in {
        "empty": "",
        "no JSON": "{",
        "NaN": '{"kind":"BigEarthNet_S1_Patch","stored":{"x":NaN}}',
        "array": "[]",
        "text": '"a"',
        "huge number": '{"kind":"BigEarthNet_S1_Patch","stored":{"x":1e999}}',
        "long integer": '{"kind":"BigEarthNet_S1_Patch","stored":{"x":1' + "0" * 5000 + "}}",
        "long float": '{"kind":"BigEarthNet_S1_Patch","stored":{"x":1.' + "0" * 5000 + "}}",
        "deep": '{"kind":"BigEarthNet_S1_Patch","stored":{"x":' + "[" * 9000 + "]" * 9000 + "}}",
        "name twice": '{"kind":"BigEarthNet_S1_Patch","stored":{"x":1,"x":2}}',
        "kind twice": '{"kind":"BigEarthNet_S1_Patch","kind":"BigEarthNet_S1_Patch","stored":{}}',
    }.items():
        _add(
            f"note: {label}",
            "readers differ about it, or it costs",
            noted(text),
            "JSON|number|characters|twice|nested",
            accepted,
        )
    for label, said in {
        "no kind": {"stored": {}},
        "no stored": {"kind": "BigEarthNet_S1_Patch"},
        "more": _NOTE | {"more": 1},
        "kind is a number": _NOTE | {"kind": 1},
        "kind is null": _NOTE | {"kind": None},
        "kind is one name in a list": _NOTE | {"kind": ["os"]},
        "stored is null": _NOTE | {"stored": None},
        "stored is an array": _NOTE | {"stored": []},
        "extras is null": _NOTE | {"extras": None},
        "bands is null": _NOTE | {"bands": None},
        "bands is an object": _NOTE | {"bands": {}},
        "a band is a text": _NOTE | {"bands": ["Band"]},
        "a band of three": _NOTE | {"bands": [[None, "Band", "VV"]]},
    }.items():
        _add(f"note: {label}", "is of another form", noted(said), "members|must be", accepted)
    for label, said in {
        "another kind": _NOTE | {"kind": "BigEarthNet_S2_Patch"},
        "both": _NOTE | {"kind": "BigEarthNet_S1_S2_Patch"},
        "no class": _NOTE | {"kind": "os.system"},
        "a class of somebody's": _NOTE | {"kind": ["os", "system"]},
        "bands of a fixed kind": _NOTE | {"bands": []},
        "no bands": {"kind": "BigEarthNetPatch", "stored": {}},
        "metadata that shadows": _NOTE | {"stored": {"dump": 1}},
        "extras that shadow": _NOTE | {"extras": {"bands": 1}},
        "integer of 65 bytes": _NOTE | {"stored": {"x": -(2**511)}},
        "metadata too deep": _NOTE | {"stored": {"x": json.loads("[" * 26 + "]" * 26)}},
    }.items():
        _add(f"note: {label}", "states a contradiction", noted(said), "not a valid patch", accepted, Rule.PATCH)
    for label, bands in {
        "none": [],
        "another name": [[None, "Band", "data", 10]],
        "twice": [[None, "Band", "Data", 10]] * 2,
        "name is a number": [[None, "Band", 1, 10]],
        "name is an array": [[None, "Band", ["Data"], 10]],
        "no class": [[None, "os.system", "Data", 10]],
        "of Sentinel-2": [[None, "BenS2_10mBand", "Data", 10]],
        "resolution 0": [[None, "Band", "Data", 0]],
        "resolution true": [[None, "Band", "Data", True]],
        "attribute shadows": [["dump", "Band", "Data", 10]],
        "attribute is private": [["_pixels", "Band", "Data", 10]],
        "attribute is a number": [[1, "Band", "Data", 10]],
        "resolution is a float": [[None, "Band", "Data", 10.0]],
    }.items():
        _add(
            f"note: bands: {label}",
            "makes bands that are not there",
            noted(generic | {"bands": bands}, MAP),
            "not a valid patch",
            honest,
            Rule.PATCH,
        )
    _add(
        "note: of another version",
        "means something else",
        file({"__metadata__": {"ben_secure.patch.v2": "{}"}, **_S1}),
        "is unknown",
        accepted,
        Rule.PATCH,
    )
    text = spell(_NOTE)
    _add(
        "note: beside something",
        "would be lost",
        file({"__metadata__": {"ben_secure.patch.v1": text, "x": "y"}, **_S1}),
        "must contain only",
        accepted,
    )
    first = spell({"__metadata__": {"ben_secure.patch.v1": text}})[:-1]
    _add(
        "note: metadata again behind it",
        "one reader keeps the first",
        raw(first + ',"__metadata__":{},' + spell(_S1)[1:], pattern(28800)),
        "occurs twice",
        accepted,
    )
    _add(
        "note: metadata again, escaped",
        "one reader keeps the first",
        raw(first + ',"\\u005f_metadata__":{"a":"b"},' + spell(_S1)[1:], pattern(28800)),
        "occurs twice",
        accepted,
    )


def add_tensors() -> None:
    """Add all of them."""
    for add in (_add_lengths, _add_json, _add_names, _add_numbers, _add_patches, _add_notes):
        add()
