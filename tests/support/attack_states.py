"""The part of the corpus of ``attacks`` that no honest writer writes, although nothing reads it afterwards.

Each part of each generation's state is replaced by something that Python, numpy or pydantic would have taken; and
programs say a thing twice. Such a value would carry more than its patch shows, or mean two things to two readers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ben_secure.errors import Rule
from support.assembler import (
    EITHER,
    HONEST,
    MEMO,
    NONE,
    REBUILD_ARRAY,
    REBUILD_SCALAR,
    TEXT,
    TRUE,
    array_blob,
    array_graph,
    attack,
    blob,
    call,
    canonical,
    changed,
    dct,
    dtype_graph,
    get,
    lst,
    members,
    name,
    new,
    number,
    part,
    real,
    text,
    tup,
    with_metadata,
)
from support.legacy_values import (
    GENERATIONS,
    INTERFACE,
    PATCH_MODULES,
    S1,
    S2,
    Call,
    New,
    name_of,
    small_tree,
    tree,
    write,
)

# fmt: off

_WHY = "a part of the value that no honest writer makes, and that the patch does not show"
_CLASS = name_of(PATCH_MODULES[S1], S1)
FIELDS = ("name", "spatial_resolution", "data_shape", "data")
BANDS = {
    "Band": (None, "green"), "BenS1_Band": (S1, "bandVV"), "BenS2_10mBand": (S2, "band02"),
    "BenS2_20mBand": (S2, "band8A"), "BenS2_60mBand": (S2, "band09"),
}
"""For each class of bands: a patch class that has it (None: its own bands), and the attribute there."""


def value_with(
    band_class: str, generation: str, change: Callable[[dict[str, Any]], object], protocol: int = 4
) -> bytes:
    """A legacy value of this generation with a band of this class, after a change of the state of that band."""
    kind, attribute = BANDS[band_class]
    graph: New = small_tree(generation) if kind is None else tree(kind, generation, {}, s1="|i1", s2="|u1")
    change(graph.state[attribute].state)
    return write(graph, protocol)


def set_of_fields(generation: str) -> str:
    """The key of the set of fields that a constructor was given."""
    return "__fields_set__" if GENERATIONS[generation].pydantic == 1 else "__pydantic_fields_set__"


def _add_pydantic() -> None:
    """State that pydantic keeps in addition to the fields, for each band class and each generation."""
    wrong_sets: dict[str, Any] = {
        "a text": "name", "an int": 4, "a dict": dict.fromkeys(FIELDS), "a class": _CLASS, "None": None,
        "a list": list(FIELDS), "a tuple": FIELDS, "bytes": b"name", "False": False, "a float": 0.5, "empty": set(),
        "an unknown field": {*FIELDS, "x"}, "a number in it": {*FIELDS, 1}, "None in it": {*FIELDS, None},
        "bytes in it": {*FIELDS, b"name"}, "a long bytes object in it": {*FIELDS, b"x" * 600},
        "a name less": {*FIELDS} - {"name"}, "no data": {*FIELDS} - {"data"}, "a part of a name": {*FIELDS, "nam"},
        "a name in another case": {"Name", *FIELDS[1:]},
    }
    wrong_private: dict[str, Any] = {
        "a text": "x", "an empty text": "", "an int": 0, "a class": _CLASS, "a list": [], "a tuple": (), "False": False,
        "a dict that is not empty": {"x": 1}, "a set": {"x"}, "a call": array_graph(),
    }
    for generation, made in GENERATIONS.items():
        of_set = set_of_fields(generation)
        private: dict[str, dict[str, Any]] = {"__private_attribute_values__": {**wrong_private, "None": None}}
        if made.pydantic == 2:
            wrong = {**wrong_private, "an empty dict": {}}
            private = {"__pydantic_extra__": wrong, "__pydantic_private__": wrong}
        for band_class in BANDS:
            cases = [(of_set, label, item) for label, item in wrong_sets.items()]
            if band_class == "Band":  # has no defaults
                cases += [(of_set, f"{{name, data}} and {field}", {"name", "data", field}) for field in FIELDS[1:3]]
                cases += [(of_set, "{name, data}", {"name", "data"})]
            cases += [(key, label, item) for key, wrong in private.items() for label, item in wrong.items()]
            if band_class.startswith("BenS2"):  # treated as BenS1_Band is; large values
                cases = [case for case in cases if case[1] in ("a text", "an unknown field", "a name less", "no data")]
            for key, label, item in cases:
                attack(
                    "T3", f"{generation} {band_class}: {key} is or has {label}", _WHY,
                    lambda c=band_class, g=generation, k=key, i=item: value_with(c, g, lambda s: s.update({k: i})),
                    Rule.PATCH, lambda c=band_class, g=generation: value_with(c, g, lambda state: None),
                )
        for label, field, item in (
            ("data_shape of floats", "data_shape", (2.0, 3.0)), ("data_shape of a float", "data_shape", (2, 3.0)),
            ("data_shape of bools", "data_shape", (True, True)), ("data_shape in a list", "data_shape", [2, 3]),
            ("data_shape of three", "data_shape", (2, 3, 1)), ("data_shape of None", "data_shape", (2, None)),
            ("spatial_resolution of a float", "spatial_resolution", 10.0),
            ("spatial_resolution of a bool", "spatial_resolution", True),
            ("spatial_resolution of None", "spatial_resolution", None),
            ("name of bytes", "name", b"green"), ("name of a list", "name", ["green"]),
        ):
            attack(
                "T3", f"{generation}: {label}", _WHY,
                lambda g=generation, f=field, i=item: value_with("Band", g, lambda s: s["__dict__"].update({f: i})),
                Rule.PATCH, lambda g=generation: value_with("Band", g, lambda state: None),
            )


def _in_band(generation: str, protocol: int = 5, **more: Any) -> bytes:
    """The small patch with one array rewritten; its shape is (2, 3), of ``<u2``."""
    def change(state: dict[str, Any]) -> None:
        data = state["__dict__"]["data"]
        new_state = dict(zip(("version", "shape", "dtype", "fortran", "data"), data.state, strict=True)) | more
        arguments = (data.arguments[0], new_state.pop("given", data.arguments[1]), data.arguments[2])
        state["__dict__"]["data"] = Call(data.function, arguments, tuple(new_state.values()))

    return value_with("Band", generation, change, protocol)


def _add_arrays() -> None:
    """State of an array in numpy, as the pixels of a band of each generation and as metadata."""
    for label, more, rule in (
        ("shape of floats", {"shape": (2.0, 3.0)}, EITHER), ("shape of bools", {"shape": (True, True)}, EITHER),
        ("shape with a float", {"shape": (2, 3.0)}, EITHER), ("state version True", {"version": True}, Rule.ARRAY),
        ("state version 1.0", {"version": 1.0}, Rule.ARRAY), ("memory order 0", {"fortran": 0}, Rule.ARRAY),
        ("data in a bytearray", {"data": bytearray(range(12))}, Rule.ARRAY),
        ("_reconstruct of shape (0.0,)", {"given": (0.0,)}, Rule.CALL_SHAPE),
        ("_reconstruct of shape (False,)", {"given": (False,)}, Rule.CALL_SHAPE),
        ("_reconstruct of shape [0]", {"given": [0]}, Rule.CALL_SHAPE),
    ):
        for generation in GENERATIONS:
            attack(
                "T3", f"{generation} band array: {label}", _WHY, lambda g=generation, m=more: _in_band(g, **m), rule,
                lambda g=generation: _in_band(g),
            )
        if label != "_reconstruct of shape [0]":
            shape = {"shape": (2, 3), "data": bytes(range(12))}
            graph = array_graph(**changed(shape, **{k: v for k, v in more.items() if k != "given"}))
            if "given" in more:
                graph = Call(graph.function, (graph.arguments[0], more["given"], graph.arguments[2]), graph.state)
            attack(
                "T3", f"metadata array: {label}", _WHY, with_metadata(part(graph)),
                Rule.ARRAY if rule is EITHER else rule, with_metadata(part(array_graph(**shape))),
            )
    for size in (5, 6, 7, 3, -4):
        attack(
            "T3", f"dtype U1 of {size} bytes", _WHY,
            with_metadata(part(array_graph(**changed(TEXT, dtype_state=(3, "<", None, None, None, size, 4, 8))))),
            Rule.ARRAY, with_metadata(part(array_graph(**TEXT))),
        )
    scalar = name_of("numpy._core.multiarray", "scalar")
    u1 = {"code": "u1", "dtype_state": (3, "|", None, None, None, -1, -1, 0)}
    for size in (2, 600):  # a few bytes, and a block
        content = bytes(size)
        attack(
            "T3", f"{size} bytes of an array in a bytearray", _WHY,
            with_metadata(part(array_graph(**u1, shape=(size,), data=bytearray(content)))), Rule.ARRAY,
            with_metadata(part(array_graph(**u1, shape=(size,), data=content))),
        )
        arguments = text("|u1"), tup(number(size))
        attack(
            "T3", f"{size} bytes of rebuild_array in a bytearray", _WHY,
            with_metadata(call(REBUILD_ARRAY, *arguments, array_blob(content))), Rule.ARRAY,
            with_metadata(call(REBUILD_ARRAY, *arguments, blob(content))),
        )
        count = size // 4 or 1
        words = bytes(4 * count)
        attack(
            "T3", f"{4 * count} bytes of rebuild_scalar in a bytearray", _WHY,
            with_metadata(call(REBUILD_SCALAR, text(f"<U{count}"), array_blob(words))), Rule.ARRAY,
            with_metadata(call(REBUILD_SCALAR, text(f"<U{count}"), blob(words))),
        )
        dtype = dtype_graph(f"U{count}", (3, "<", None, None, None, 4 * count, 4, 8))
        attack(
            "T3", f"{4 * count} bytes of scalar in a bytearray", _WHY,
            with_metadata(part(Call(scalar, (dtype, bytearray(words))))), Rule.ARRAY,
            with_metadata(part(Call(scalar, (dtype, words)))),
        )
    for generation in GENERATIONS:
        attack(
            "T3", f"{generation} band array: 600 bytes of data in a bytearray", _WHY,
            lambda g=generation: _block_band(g, bytearray(600)), Rule.ARRAY,
            lambda g=generation: _block_band(g, bytes(600)),
        )


def _block_band(generation: str, data: Any) -> bytes:
    graph = small_tree(generation)
    fields = graph.state["green"].state["__dict__"]
    _, _, dtype, fortran, _ = fields["data"].state
    fields["data_shape"] = (15, 20)
    fields["data"].state = (1, (15, 20), dtype, fortran, data)
    return write(graph, 5)


def _add_twice() -> None:
    """Duplicates: a reader that keeps the first and one that keeps the last see two different patches."""
    why = "the first or the last of them: two readers see two patches"
    key, other = text("k") + NONE, text("l") + NONE
    for label, twice, once in (
        ("in one SETITEMS", b"}(" + key + key + b"u", b"}(" + key + other + b"u"),
        ("in two SETITEMS", b"}(" + key + b"u(" + key + b"u", b"}(" + key + b"u(" + other + b"u"),
        ("in two SETITEM", b"}" + key + b"s" + key + b"s", b"}" + key + b"s" + other + b"s"),
        ("in SETITEMS and SETITEM", b"}(" + key + b"u" + key + b"s", b"}(" + key + b"u" + other + b"s"),
        (
            "fetched from the memo", b"}(" + text("k") + MEMO + NONE + get(0) + NONE + b"u",
            b"}(" + text("k") + MEMO + get(0) + text("l") + get(0) + b"u",
        ),
    ):
        attack(
            "T3", f"a dict key twice {label}", why, with_metadata(twice), Rule.STRUCTURE, with_metadata(once),
            "key occurs twice",
        )
    one, word = number(1), text("x")
    for label, twice, once in (
        ("a text", members(word, word), members(word, text("y"))),
        ("a number", members(one, one), members(one, number(2))),
        ("1 and True", members(one, TRUE), members(one, NONE)),
        ("1 and 1.0", members(one, real(1.0)), members(one, real(1.5))),
        ("0.0 and -0.0", members(real(0.0), real(-0.0)), members(real(0.0), real(-1.0))),
        ("None", members(NONE, NONE), members(NONE, word)),
        ("bytes", members(blob(b"x"), blob(b"x")), members(blob(b"x"), blob(b"y"))),
        ("in two ADDITEMS", b"\x8f(" + word + b"\x90(" + word + b"\x90", b"\x8f(" + word + b"\x90(" + one + b"\x90"),
        (
            "a block from the memo", members(blob(b"x" * 600) + MEMO, get(0)),
            lst(members(blob(b"x" * 600) + MEMO), get(0)),
        ),
    ):
        attack(
            "T3", f"a set member twice: {label}", why, with_metadata(twice), Rule.STRUCTURE, with_metadata(once),
            "member occurs twice",
        )
    attack(
        "T3", "a set member twice: two blocks that are equal", why,
        with_metadata(members(blob(b"x" * 600), blob(b"x" * 600))), Rule.ARRAY,
        with_metadata(members(blob(b"x" * 600), blob(b"y" * 600))),
    )
    attack(
        "T3", "stored metadata twice", why, canonical(stored=dct(text("x"), number(1), text("x"), number(2))),
        Rule.STRUCTURE, canonical(stored=dct(text("x"), number(1), text("y"), number(2))), "twice",
    )
    for label, item in {
        "list": b"]", "dict": b"}", "set": b"\x8f", "filled list": lst(NONE), "filled dict": dct(text("k"), NONE),
        "call": HONEST,
    }.items():
        for how, twice, once in (
            ("at once", MEMO + MEMO, MEMO), ("from the memo", MEMO + get(0) + MEMO + b"\x86", MEMO + get(0) + b"\x86"),
        ):
            attack(
                "T3", f"a {label} stored in the memo twice {how}", "two names for one thing; no pickler gives a second",
                with_metadata(item + twice), Rule.STRUCTURE, with_metadata(item + once), "memo twice",
            )
    for band_class in BANDS:
        cls = name(f"{INTERFACE}.band_interface", band_class)
        attack(
            "T3", f"a {band_class} stored in the memo twice", "two names for one thing; no pickler gives a second",
            with_metadata(new(cls) + MEMO + MEMO), Rule.STRUCTURE, words="memo twice",
        )


def add_states() -> None:
    """Add all cases of this module."""
    _add_pydantic()
    _add_arrays()
    _add_twice()
