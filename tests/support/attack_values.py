"""The attacks in the results of a program: arrays, bands, patches, metadata, texts. A part of ``attacks.ATTACKS``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ben_secure.errors import Rule
from support.assembler import (
    BOOL,
    EITHER,
    FALSE,
    HONEST,
    NONE,
    OBJECT,
    REBUILD_ARRAY,
    REBUILD_PATCH,
    REBUILD_SCALAR,
    TEXT,
    TRUE,
    U2_STATE,
    array_blob,
    array_graph,
    attack,
    blob,
    call,
    canonical,
    canonical_parts,
    changed,
    changed_band,
    dct,
    dtype_graph,
    entry,
    lst,
    name,
    nested,
    new,
    number,
    part,
    program,
    real,
    text,
    tup,
    with_metadata,
)
from support.legacy_values import (
    GENERIC,
    INTERFACE,
    MERGED,
    PATCH_MODULES,
    S1,
    S2,
    Call,
    Maker,
    New,
    name_of,
    small_tree,
    tree,
    write,
)

# fmt: off

# label: (base of the accepted value, the change)
_ARRAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "object flags in a numeric dtype": ({}, {"dtype_state": (3, "<", None, None, None, -1, -1, 63)}),
    "one flag": ({}, {"dtype_state": (3, "<", None, None, None, -1, -1, 1)}),
    "object field hidden in the dtype state": (
        {},
        {
            "code": "V8",
            "dtype_state": (3, "|", None, ("f",), {"f": (dtype_graph("O8", OBJECT["dtype_state"]), 0)}, 8, 1, 27),
            "data": b"\x41" * 16,
        },
    ),
    "fields in a numeric dtype": ({}, {"dtype_state": (3, "<", None, ("f",), {"f": (dtype_graph(), 0)}, -1, -1, 0)}),
    "names without fields": ({}, {"dtype_state": (3, "<", None, ("f",), None, -1, -1, 0)}),
    "sub-array": ({}, {"dtype_state": (3, "<", (dtype_graph(), (2,)), None, None, -1, -1, 0)}),
    "sub-array of objects": (
        {},
        {"code": "V8", "dtype_state": (3, "|", (dtype_graph("O8", OBJECT["dtype_state"]), (1,)), None, None, 8, 8, 63)},
    ),
    "metadata in the dtype state": ({}, {"dtype_state": (*U2_STATE, {"x": 1})}),
    "item size in the dtype state": ({}, {"dtype_state": (3, "<", None, None, None, 2**62, -1, 0)}),
    "alignment in the dtype state": ({}, {"dtype_state": (3, "<", None, None, None, -1, 2**31, 0)}),
    "negative item size": ({}, {"dtype_state": (3, "<", None, None, None, -2, -1, 0)}),
    "dtype state version 4": ({}, {"dtype_state": (4, *U2_STATE[1:])}),
    "dtype state of seven": ({}, {"dtype_state": U2_STATE[:7]}), "dtype state of none": ({}, {"dtype_state": ()}),
    "dtype state is a dict": ({}, {"dtype_state": {"x": 1}}),
    "native byte order": ({}, {"dtype_state": (3, "=", *U2_STATE[2:])}),
    "unknown byte order": ({}, {"dtype_state": (3, "!", *U2_STATE[2:])}),
    "no byte order": ({}, {"dtype_state": (3, None, *U2_STATE[2:])}),
    "byte order of one byte for two": ({}, {"dtype_state": (3, "|", *U2_STATE[2:])}), "dtype O": ({}, {"code": "O"}),
    "dtype O8 with raw bytes": (OBJECT, {"data": b"\x41" * 16}), "dtype V": ({}, {"code": "V2"}),
    "dtype S": ({}, {"code": "S2"}), "dtype M8": ({}, {"code": "M8[s]", "data": bytes(16)}),
    "dtype m8": ({}, {"code": "m8", "data": bytes(16)}), "dtype long double": ({}, {"code": "f16", "data": bytes(32)}),
    "dtype of three bytes": ({}, {"code": "u3", "data": bytes(6)}), "dtype list in text": ({}, {"code": "u2,O"}),
    "dtype tuple in text": ({}, {"code": "(2,)u2"}), "dtype in words": ({}, {"code": "uint16"}),
    "no dtype": ({}, {"code": ""}), "dtype with a NUL": ({}, {"code": "u2\0"}),
    "str longer than said": (TEXT, {"code": "U2"}), "str of 2**29 characters": (TEXT, {"code": "U536870912"}),
    "negative str": (TEXT, {"code": "U-1"}),
    "str without flags": (TEXT, {"dtype_state": (3, "<", None, None, None, 4, 4, 0)}),
    "str with object flags": (TEXT, {"dtype_state": (3, "<", None, None, None, 4, 4, 63)}),
    "str without byte order": (TEXT, {"dtype_state": (3, "|", None, None, None, 4, 4, 8)}),
    "character beyond Unicode": (TEXT, {"data": b"a\0\0\0\0\0\x11\0"}),
    "character of all ones": (TEXT, {"data": b"\xff" * 8}),
    "character beyond Unicode, big-endian": (
        changed(TEXT, dtype_state=(3, ">", None, None, None, 4, 4, 8), data=b"\0\0\0a\0\0\0b"),
        {"data": b"\0\0\0a\0\x11\0\0"},
    ),
    "bool of 2": (BOOL, {"data": b"\0\2"}), "bool of 255": (BOOL, {"data": b"\xff\1"}),
    "a dtype name instead of a dtype": ({}, {"dtype": "<u2"}), "no dtype object": ({}, {"dtype": None}),
    "an array for a dtype": ({}, {"dtype": array_graph()}),
    "a class for a dtype": ({}, {"dtype": name_of(PATCH_MODULES[S1], S1)}),
    "an unbuilt dtype": ({}, {"dtype": Call(name_of("numpy", "dtype"), ("u2", False, True))}),
    "the function dtype": ({}, {"dtype": name_of("numpy", "dtype")}), "huge shape": ({}, {"shape": (2**40,)}),
    "shape that overflows to the right length": ({}, {"shape": (2**63 + 1, 2)}),
    "shape that overflows to zero": ({"shape": (0,), "data": b""}, {"shape": (2**32, 2**32), "data": b""}),
    "empty but huge": ({"shape": (0,), "data": b""}, {"shape": (0, 2**62), "data": b""}),
    "negative shape": ({}, {"shape": (-2,)}), "two negative lengths": ({}, {"shape": (-1, -2)}),
    "shape is a list": ({}, {"shape": [2]}), "shape is a number": ({}, {"shape": 2}),
    "shape of floats": ({}, {"shape": (2.0,)}),
    "shape of bools": ({"shape": (1,), "data": b"\1\0"}, {"shape": (True,), "data": b"\1\0"}),
    "shape of 17 dimensions": ({"shape": (2, *(1,) * 15)}, {"shape": (2, *(1,) * 16)}),
    "shape of 100 dimensions": ({}, {"shape": (2, *(1,) * 99)}), "shape is None": ({}, {"shape": None}),
    "too few bytes": ({}, {"data": b"\1\0\2"}), "too many bytes": ({}, {"data": b"\1\0\2\0\3"}),
    "no bytes": ({}, {"data": b""}), "text for data": ({}, {"data": "\1\0\2\0"}),
    "a list for data": ({}, {"data": [1, 2]}), "None for data": ({}, {"data": None}),
    "a number for data": ({}, {"data": 4}), "memory order is a number": ({}, {"fortran": 1}),
    "memory order is None": ({}, {"fortran": None}), "state version 2": ({}, {"version": 2}),
    "no state version": ({}, {"version": None}),
    "state of four": ({}, {"state": ((2,), dtype_graph(), False, b"\1\0\2\0")}),
    "state of six": ({}, {"state": (1, (2,), dtype_graph(), False, b"\1\0\2\0", None)}),
    "empty state": ({}, {"state": ()}), "state is a dict": ({}, {"state": {"shape": (2,)}}),
    "slot state": ({}, {"state": (None, {"shape": (2,)})}), "object array of numbers": (OBJECT, {"data": [1, 2]}),
    "object array of None": (OBJECT, {"data": ["a", None]}), "object array of bytes": (OBJECT, {"data": ["a", b"b"]}),
    "object array too long": (OBJECT, {"data": ["a", "b", "c"]}), "object array too short": (OBJECT, {"data": ["a"]}),
    "object array of lists": (OBJECT, {"data": [["a"], ["b"]]}),
    "object array in two dimensions": (OBJECT, {"shape": (1, 2)}),
    "object array without dimensions": (changed(OBJECT, shape=(1,), data=["a"]), {"shape": ()}),
    "object array of a tuple": (OBJECT, {"data": ("a", "b")}),
    "object array of classes": (OBJECT, {"data": ["a", name_of(PATCH_MODULES[S1], S1)]}),
    "object array of arrays": (OBJECT, {"data": ["a", array_graph()]}),
    "object array of a dict": (OBJECT, {"data": {"a": "b"}}), "object array of its own name": (OBJECT, {"data": "ab"}),
    "object array with a huge shape": (OBJECT, {"shape": (2**31,)}),
}


def _add_arrays() -> None:
    why = "numpy believes the state: it makes bytes into pointers, or shows memory that is not the array's"
    for label, (base, change) in _ARRAYS.items():
        accepted = with_metadata(part(array_graph(**base)))
        attack(
            "T2", f"array: {label}", why, with_metadata(part(array_graph(**changed(base, **change)))), Rule.ARRAY,
            accepted=accepted,
        )
    pixels = {"shape": (1, 2)}
    for label, (base, change) in _ARRAYS.items():
        if not base:  # the same as pixels of a band, where the shape is known beforehand
            change = {"shape": (1, 2), **change} if change.get("shape") != (2,) else change
            attack(
                "T2", f"band array: {label}", why, _band_of(array_graph(**changed(pixels, **change))), EITHER,
                accepted=_band_of(array_graph(**pixels)),
            )
    scalar = name_of("numpy._core.multiarray", "scalar")
    for label, arguments in {
        "object": (dtype_graph("O8", OBJECT["dtype_state"]), b"\x41" * 8),
        "object with an object": (dtype_graph("O8", OBJECT["dtype_state"]), "x"), "too short": (dtype_graph(), b"\1"),
        "too long": (dtype_graph(), b"\1\0\0"), "text": (dtype_graph(), "ab"), "no dtype": ("<u2", b"\1\0"),
        "hidden object": (
            dtype_graph("V8", _ARRAYS["object field hidden in the dtype state"][1]["dtype_state"]), b"\x41" * 8,
        ),
        "bool of 2": (dtype_graph("b1", BOOL["dtype_state"]), b"\2"),
        "beyond Unicode": (dtype_graph("U1", TEXT["dtype_state"]), b"\0\0\x11\0"),
    }.items():
        attack(
            "T2", f"scalar: {label}", why, with_metadata(part(Call(scalar, arguments))), Rule.ARRAY,
            accepted=with_metadata(part(Call(scalar, (dtype_graph(), b"\1\0")))),
        )
    buffer = name_of("numpy._core.numeric", "_frombuffer")
    honest = (bytearray(b"\1\0\2\0"), dtype_graph(), (2,), "C")
    for label, place, wrong in (
        ("order K", 3, "K"), ("no order", 3, None), ("order is a number", 3, 0), ("huge shape", 2, (2**40,)),
        ("negative shape", 2, (-2,)), ("list shape", 2, [2]), ("no data", 0, None), ("text", 0, "abcd"),
        ("too short", 0, bytearray(b"\1\0\2")), ("too long", 0, bytearray(6)), ("dtype in text", 1, "<u2"),
        ("object dtype", 1, dtype_graph("O8", OBJECT["dtype_state"])),
        ("unbuilt dtype", 1, Call(name_of("numpy", "dtype"), ("u2", False, True))),
    ):
        arguments = (*honest[:place], wrong, *honest[place + 1 :])
        attack(
            "T2", f"_frombuffer: {label}", why, with_metadata(part(Call(buffer, arguments))), Rule.ARRAY,
            accepted=with_metadata(part(Call(buffer, honest))),
        )
    good = (text("<u2"), tup(number(2)), blob(b"\1\0\2\0"))
    for label, place, wrong in (
        ("dtype O", 0, text("|O")), ("dtype V", 0, text("|V2")), ("dtype M8", 0, text("<M8[s]")),
        ("dtype S", 0, text("|S2")), ("no byte order", 0, text("u2")), ("native byte order", 0, text("=u2")),
        ("dtype in words", 0, text("uint16")), ("structured dtype", 0, text("<u2,<u2")),
        ("dtype is bytes", 0, blob(b"<u2")), ("dtype is a dtype", 0, part(dtype_graph())), ("dtype is None", 0, NONE),
        ("huge shape", 1, tup(number(2**40))), ("overflowing shape", 1, tup(number(2**63 + 1), number(2))),
        ("negative shape", 1, tup(number(-2))), ("list shape", 1, lst(number(2))), ("float shape", 1, tup(real(2.0))),
        ("bool shape", 1, tup(TRUE)), ("17 dimensions", 1, tup(number(2), *[number(1)] * 16)),
        ("too short", 2, blob(b"\1\0\2")), ("too long", 2, blob(bytes(5))), ("text data", 2, text("abcd")),
        ("list data", 2, lst(number(1), number(2))), ("None data", 2, NONE),
    ):
        attack(
            "T2", f"rebuild_array: {label}", why,
            with_metadata(call(REBUILD_ARRAY, *good[:place], wrong, *good[place + 1 :])), Rule.ARRAY,
            accepted=with_metadata(call(REBUILD_ARRAY, *good)),
        )
    strings = (text("|O"), tup(number(1)), lst(text("a")))
    for label, place, wrong in (
        ("a number", 2, lst(number(1))), ("bytes", 2, blob(b"\x41" * 8)), ("a tuple", 2, tup(text("a"))),
        ("two dimensions", 1, tup(number(1), number(1))), ("wrong length", 1, tup(number(2))),
        ("huge", 1, tup(number(2**40))), ("an array", 2, lst(HONEST)), ("a class", 2, lst(name("numpy", "ndarray"))),
    ):
        attack(
            "T2", f"rebuild_array of objects: {label}", why,
            with_metadata(call(REBUILD_ARRAY, *strings[:place], wrong, *strings[place + 1 :])), Rule.ARRAY,
            accepted=with_metadata(call(REBUILD_ARRAY, *strings)),
        )
    for label, dtype, data in (
        ("O", text("|O"), blob(bytes(8))), ("too long", text("<u2"), blob(bytes(3))), ("empty", text("<u2"), blob(b"")),
        ("text", text("<u2"), text("ab")), ("bool of 2", text("|b1"), blob(b"\2")), ("V", text("|V2"), blob(bytes(2))),
        ("U beyond Unicode", text("<U1"), blob(b"\0\0\x11\0")),
    ):
        attack(
            "T2", f"rebuild_scalar: {label}", why, with_metadata(call(REBUILD_SCALAR, dtype, data)), Rule.ARRAY,
        )


def _one_band(data: Any) -> New:
    maker = Maker()
    return maker.generic({"green": maker.band("Band", "green", 10, np.zeros((1, 2), "<u2"), data=data)}, {})


def _band_of(data: Any) -> bytes:
    return write(_one_band(data))


def _add_legacy() -> None:
    """Type confusion in values of the original package."""
    band = Maker().band("Band", "green", 10, np.zeros((2, 3), "<u2"))
    other = Maker().band("BenS1_Band", "VV", 10, np.zeros((120, 120), "|i1"))
    wrong_parts: dict[str, Any] = {
        "None": None, "a string": "band", "a number": 1, "bytes": b"band", "a list": [1], "a dict": {"name": "green"},
        "a tuple": (1,), "an array": array_graph(), "a dtype": dtype_graph(),
        "a band class": name_of(f"{INTERFACE}.band_interface", "Band"), "a patch class": name_of(PATCH_MODULES[S2], S2),
        "an unbuilt band": New(name_of(f"{INTERFACE}.band_interface", "BenS1_Band")), "a patch": small_tree(),
        "a function": name_of("numpy", "dtype"), "a band of another class": band,
    }
    why = "code that expects a band meets something else"

    def s1() -> New:
        return tree(S1, s1="|i1", metadata={"x": 1})

    def s2() -> New:
        return tree(S2, s2="|u1", metadata={"x": 1})

    def merged() -> New:
        return tree(MERGED, s1="|i1", s2="|u1", metadata={"x": 1})

    def case(
        label: str, make: Callable[[], New], change: Callable[[New], Any],
        rule: Rule | tuple[Rule, ...] = Rule.PATCH, why: str = why, words: str = "",
    ) -> None:
        def value() -> bytes:
            graph = make()
            changed = change(graph)
            return write(graph if changed is None else changed)

        attack("T3", label, why, value, rule, lambda: write(make()), words)

    for label, wrong in wrong_parts.items():
        case(
            f"S1 attribute is {label}", s1, lambda g, w=wrong: g.state.update(bandVV=w),
        )
        case(f"S1 list holds {label}", s1, lambda g, w=wrong: g.state["_bands"].__setitem__(0, w))
        case(f"generic list holds {label}", small_tree, lambda g, w=wrong: g.state["_bands"].append(w), Rule.PATCH)
        case(f"inner patch is {label}", merged, lambda g, w=wrong: g.state.update(s1_patch=w))
        if label != "a dict":
            case(
                f"band state is {label}", small_tree, lambda g, w=wrong: setattr(g.state["green"], "state", w),
                Rule.PATCH if label == "a tuple" else Rule.STRUCTURE,
            )
            case(
                f"patch state is {label}", small_tree, lambda g, w=wrong: setattr(g, "state", w),
                Rule.PATCH if label == "a tuple" else Rule.STRUCTURE,
            )
            case(
                f"fields of a band are {label}", small_tree, lambda g,
                w=wrong: g.state["green"].state.update(__dict__=w),
            )
            case(
                f"stored arguments are {label}", small_tree, lambda g, w=wrong: g.state.update(__stored_args__=w),
            )
        if label != "a list":
            case(f"list of bands is {label}", s1, lambda g, w=wrong: g.state.update(_bands=w))
    swap = lambda g, a, b: g.state.update({a: g.state[b], b: g.state[a]})  # noqa: E731
    case("VV and VH swapped", s1, lambda g: swap(g, "bandVV", "bandVH"))
    case("two 10 m bands swapped", s2, lambda g: swap(g, "band02", "band04"))
    case("two bands of different size swapped", s2, lambda g: swap(g, "band01", "band02"))
    case(
        "a band of Sentinel-1 in a Sentinel-2 patch", s2, lambda g: g.state.update(band02=other),
    )
    case("a band missing", s2, lambda g: g.state.__delitem__("band8A"))
    case("a band more", s2, lambda g: g.state.update(band10=g.state["band02"]), Rule.ARRAY)
    case("a band twice", s1, lambda g: g.state.update(bandVH=g.state["bandVV"]))
    case("a band missing from the list", s1, lambda g: g.state["_bands"].__delitem__(0))
    case(
        "a band twice in the list", s1, lambda g: g.state["_bands"].append(g.state["bandVV"]),
    )
    case(
        "a band twice, another missing in the list", s1, lambda g: g.state["_bands"].__setitem__(0, g.state["bandVV"]),
    )
    case(
        "the list holds an equal band that is another object", s1,
        lambda g: g.state["_bands"].__setitem__(1, tree(S1, s1="|i1").state["bandVV"]),
    )
    case("no list of bands", s1, lambda g: g.state.__delitem__("_bands"))
    case("two lists of bands", s1, lambda g: g.state.update(bands=g.state["_bands"]), Rule.ARRAY)
    case("generic without bands", small_tree, lambda g: g.state["_bands"].clear())
    case(
        "generic with a band twice in the list", small_tree, lambda g: g.state["_bands"].append(g.state["green"]),
    )
    case(
        "generic with two bands of one name", small_tree,
        lambda g: g.state["red"].state["__dict__"].update(name="green"),
    )
    case(
        "generic with a band that is not listed", small_tree, lambda g: g.state["_bands"].__delitem__(0),
    )
    case(
        "generic with one band as two attributes", small_tree, lambda g: g.state.update(blue=g.state["green"]),
        Rule.ARRAY,
    )
    case("generic with 65 bands", lambda: _many(64), lambda g: _many(65))
    for attribute in (
        "_green", "__class__", "__dict__", "__init__", "get_band_by_name", "bands", "dump", "loads", "to_dict",
        "_layout", "_pixels", "_views", "a b", "", "gr\x1been", "\ud800", "1st",
    ):
        case(
            f"band as attribute {attribute!a}", small_tree, lambda g,
            a=attribute: g.state.update({a: g.state.pop("green")}),
            why="an attribute of the patch is no longer what its class defines",
        )
    for label, key, wrong in (
        ("another name", "name", "B02"), ("a name that is a number", "name", 1), ("no name", "name", ""),
        ("a long name", "name", "x" * 300), ("a name with an escape", "name", "\x1b[31m"),
        ("a name that is bytes", "name", b"VV"), ("another resolution", "spatial_resolution", 20),
        ("a resolution in text", "spatial_resolution", "10"), ("a shape that is a list", "data_shape", [120, 120]),
        ("another shape", "data_shape", (60, 60)), ("no shape", "data_shape", None),
        ("a huge shape", "data_shape", (2**40, 2**40)), ("a negative shape", "data_shape", (-120, -120)),
        ("data that are bytes", "data", bytes(14400)), ("data that are None", "data", None),
        ("data that are a list", "data", [1]), ("data that are a scalar", "data", Maker().scalar(np.uint16(1))),
        ("data that are a band", "data", band),
        ("data of another shape", "data", array_graph(shape=(60, 60), data=bytes(7200))),
        (
            "data that are an unbuilt array", "data",
            Call(name_of("numpy.core.multiarray", "_reconstruct"), (name_of("numpy", "ndarray"), (0,), b"b")),
        ),
        ("data that are text", "data", Maker().array(np.zeros((120, 120), "<U1"))),
        ("data that are bools", "data", Maker().array(np.zeros((120, 120), "?"))),
        (
            "data that are objects", "data",
            array_graph(code="O8", dtype_state=OBJECT["dtype_state"], shape=(120, 120), data=["a"] * 14400),
        ),
    ):
        case(
            f"band with {label}", s1, lambda g, k=key, w=wrong: g.state["bandVV"].state["__dict__"].update({k: w}),
            EITHER,
        )
    for label, key, wrong in (
        ("a name that is a list", "name", ["green"]), ("a resolution of 0", "spatial_resolution", 0),
        ("a negative resolution", "spatial_resolution", -10),
        ("a resolution that is a bool", "spatial_resolution", True),
        ("a resolution that is a float", "spatial_resolution", 10.0), ("a shape of one", "data_shape", (6,)),
        ("a shape of bools", "data_shape", (True, True)), ("a shape of zero", "data_shape", (0, 3)),
        ("an enormous resolution", "spatial_resolution", 2**300),
    ):
        attack(
            "T3", f"generic band with {label}", why, changed_band(lambda fields, k=key, w=wrong: fields.update({k: w})),
            Rule.PATCH, accepted=write(small_tree()),
        )
    attack(
        "T3", "band field missing", why, changed_band(lambda fields: fields.pop("name")), Rule.PATCH,
        accepted=write(small_tree()),
    )
    attack(
        "T3", "band field more", why, changed_band(lambda fields: fields.update(x=1)), Rule.PATCH,
        accepted=write(small_tree()),
    )
    attack(
        "T3", "band field renamed", why, changed_band(lambda fields: fields.update(x=fields.pop("name"))), Rule.PATCH,
        accepted=write(small_tree()),
    )
    for generation, one in (("numpy1-pydantic1", "__fields_set__"), ("numpy2-pydantic2", "__pydantic_fields_set__")):
        make = lambda generation=generation: small_tree(generation)  # noqa: E731
        for label, change in {
            "attribute more": {"x": 1}, "class in the state": {"__class__": name_of(PATCH_MODULES[S2], S2)},
            "state of both": {one.replace("pydantic_", ""): {"name"}, "__pydantic_extra__": None},
        }.items():
            case(
                f"{generation}: {label}", make, lambda g, c=change: g.state["green"].state.update(c),
                why="pydantic would set the attributes of the state",
            )
        case(
            f"{generation}: no fields", make, lambda g: g.state["green"].state.__delitem__("__dict__"),
            why="pydantic would set the attributes of the state",
        )
        case(
            f"{generation}: no fields set", make, lambda g, o=one: g.state["green"].state.__delitem__(o),
            why="pydantic would set the attributes of the state",
        )
        case(
            f"{generation}: slot state", make,
            lambda g: setattr(g.state["green"], "state", (None, g.state["green"].state)),
            why="slot state is set attribute by attribute",
        )
    case("slot state on a patch", s1, lambda g: setattr(g, "state", (None, g.state)))
    case("dict and slot state on a patch", s1, lambda g: setattr(g, "state", ({"x": 1}, g.state)))
    case("patch state twice", s1, lambda g: New(g.cls, (g.state, g.state)))
    case("inner patches swapped", merged, lambda g: swap(g, "s1_patch", "s2_patch"))
    case("inner patch missing", merged, lambda g: g.state.__delitem__("s2_patch"))
    case("inner patch from another value", merged, lambda g: g.state.update(s1_patch=s1()))
    case(
        "inner patch without its bands in the outer list", merged,
        lambda g: g.state.update(s1_patch=tree(S1, s1="|i1", metadata={})),
    )
    case("inner patch with metadata", merged, lambda g: g.state["s1_patch"].state.update(x=1))
    case(
        "inner patch with stored metadata", merged,
        lambda g: g.state["s1_patch"].state.update(__stored_args__={"x": 1}),
    )
    case(
        "inner patch without stored metadata", merged,
        lambda g: g.state["s1_patch"].state.__delitem__("__stored_args__"),
    )
    case(
        "inner patch within itself", merged, lambda g: g.state["s1_patch"].state.update(x=g), Rule.STRUCTURE,
        words="changed after it was referred to",
    )
    case(
        "outer list of an S1 patch only", merged, lambda g: g.state.update(_bands=g.state["s1_patch"].state["_bands"]),
    )
    case(
        "patch in its own metadata", s1, lambda g: g.state.update(x=g), Rule.STRUCTURE,
        words="changed after it was referred to",
    )
    case(
        "patch in its own list of bands", s1, lambda g: g.state["_bands"].append(g), Rule.STRUCTURE,
        words="changed after it was referred to",
    )
    case(
        "band in its own state", s1, lambda g: g.state["bandVV"].state.update(x=g.state["bandVV"]), Rule.STRUCTURE,
        words="changed after it was referred to",
    )
    case(
        "list of bands in itself", s1, lambda g: g.state["_bands"].append(g.state["_bands"]), Rule.STRUCTURE,
        words="changed after it was referred to",
    )
    case("state in itself", s1, lambda g: g.state.update(x=g.state), Rule.STRUCTURE, words="after it was referred to")
    case(
        "stored arguments missing", s1, lambda g: g.state.__delitem__("__stored_args__"),
    )
    case("stored but no attribute", s1, lambda g: g.state.__delitem__("x"))
    case(
        "a Sentinel-2 patch that calls itself Sentinel-1", s2, lambda g: New(name_of(PATCH_MODULES[S1], S1), g.state),
    )
    case(
        "a whole patch in metadata", lambda: small_tree(metadata={"x": 1}), lambda g: g.state.update(x=small_tree()),
        Rule.ARRAY,
    )
    case(
        "a whole band in metadata", lambda: small_tree(metadata={"x": 1}), lambda g: g.state.update(x=band),
    )
    for wrong in (
        "__class__", "__dict__", "__init__", "__reduce__", "__getattr__", "dump", "loads", "bands", "get_band_by_name",
        "green", "_layout", "_pixels", "_views", "", "x" * 300,
    ):
        bad, good = small_tree(metadata={wrong: 1}), small_tree(metadata={"x": 1})
        attack(
            "T3", f"metadata called {wrong[:20]!a}", "the attribute of the patch is no longer what its class defines",
            write(bad), Rule.PATCH, accepted=write(good),
        )


def _many(count: int) -> New:
    maker, pixels = Maker(), np.zeros((1, 1), "|u1")
    return maker.generic({f"b{n}": maker.band("Band", f"b{n}", 10, pixels) for n in range(count)}, {})


def _add_canonical() -> None:
    """Wrong arguments of the one call of a canonical value."""
    why = "a patch whose parts do not fit reads outside of its pixels, or lies"
    wrong: dict[str, dict[str, bytes]] = {
        "version": {
            "0": number(0), "2": number(2), "True": TRUE, "1.0": real(1.0), "text": text("1"), "None": NONE,
            "huge": number(2**200), "negative": number(-1), "a tuple": tup(number(1)),
        },
        "kind": {
            "unknown": text("Patch"), "bytes": blob(GENERIC.encode()), "None": NONE, "a number": number(1),
            "a class": name(PATCH_MODULES[GENERIC], GENERIC), "a function": REBUILD_PATCH,
            "a tuple": tup(text(GENERIC)), "a band class": text("Band"), "look-alike": text("BigEarthNetPatc\u04bb"),
            "empty": text(""), "S2": text(S2), "an unbuilt patch": new(name(PATCH_MODULES[GENERIC], GENERIC)),
        },
        "layout": {
            "None": NONE, "text": text("|u1"), "no bands": b")", "a list": lst(entry()),
            "one band twice": tup(entry(), entry()), "65 bands": tup(*[entry(band=text(f"b{n}")) for n in range(65)]),
            "entry of six": tup(tup(*[NONE] * 6)), "a dict": b"}",
            "an entry that is a list": tup(
                lst(NONE, text("Band"), text("g"), number(10), number(1), number(2), text("|u1"))
            ),
            "a number": number(1), "bytes": blob(b"|u1"),
        },
        "pixels": {
            "None": NONE, "text": text("ab"), "one byte": array_blob(b"a"), "three bytes": array_blob(b"abc"),
            "none": array_blob(b""), "a list": lst(number(1), number(2)), "a number": number(2), "an array": HONEST,
            "a tuple": tup(number(1), number(2)),
        },
        "stored": {
            "None": NONE, "a list": b"]", "text": text("x"), "a set": b"\x8f", "a tuple": b")",
            "a class": name(PATCH_MODULES[S1], S1), "a scalar": HONEST,
        },
        "extras": {
            "a list": b"]", "text": text("x"), "a number": number(0), "False": FALSE, "a tuple": b")",
            "a class": name(PATCH_MODULES[S1], S1), "a scalar": HONEST,
        },
    }
    for argument, values in wrong.items():
        for label, value in values.items():
            attack(
                "T3", f"canonical {argument}: {label}", why, canonical(**{argument: value}), Rule.PATCH,
                accepted=canonical(),
            )
    entries: dict[str, dict[str, bytes]] = {
        "attribute": {
            "a number": number(1), "a dunder": text("__class__"), "private": text("_layout"), "a method": text("dump"),
            "a property": text("bands"), "no identifier": text("a b"), "empty": text(""), "long": text("a" * 300),
            "a surrogate": text("\ud800"),
        },
        "cls": {
            "unknown": text("Bond"), "a number": number(1), "None": NONE,
            "a class": name(f"{INTERFACE}.band_interface", "Band"), "of Sentinel-1": text("BenS1_Band"),
        },
        "band": {
            "a number": number(1), "None": NONE, "empty": text(""), "long": text("a" * 300),
            "an escape": text("\x1b[2J"), "bidi": text("a\u202eb"), "a line": text("a\nb"), "bytes": blob(b"g"),
        },
        "metres": {
            "0": number(0), "negative": number(-10), "huge": number(2**31), "enormous": number(2**300), "True": TRUE,
            "10.0": real(10.0), "text": text("10"), "None": NONE,
        },
        "rows": {
            "0": number(0), "negative": number(-1), "huge": number(2**62), "too many": number(16_385), "True": TRUE,
            "1.0": real(1.0), "overflowing": number(2**63 + 1), "None": NONE,
        },
        "columns": {"0": number(0), "negative": number(-2), "huge": number(2**62), "3": number(3), "text": text("2")},
        "dtype": {
            "O": text("|O"), "V": text("|V1"), "S": text("|S1"), "U": text("<U1"), "bool": text("|b1"),
            "M8": text("<M8[s]"), "no order": text("u1"), "native": text("=u2"), "None": NONE,
            "long": text("<u2" * 1000), "structured": text("<u2,<u2"), "long double": text("<f16"),
            "a dtype": part(dtype_graph()),
        },
    }
    for argument, values in entries.items():
        for label, value in values.items():
            attack(
                "T3", f"canonical entry {argument}: {label}", why, canonical(layout=tup(entry(**{argument: value}))),
                Rule.PATCH, accepted=canonical(),
            )
    gap = {"layout": tup(entry(), entry(band=text("h"), dtype=text("<f8"), columns=number(1)))}
    attack(
        "T3", "bytes hidden between bands", "one patch has many values, or a value carries more than its patch shows",
        canonical(**gap, pixels=array_blob(b"ab\0\0\0\1\0\0" + bytes(8))), Rule.PATCH,
        accepted=canonical(**gap, pixels=array_blob(b"ab" + bytes(14))),
    )
    standard = {"kind": text(S1), "pixels": array_blob(bytes(2 * 14400))}
    for label, layout in {
        "not the shortest spelling": text("|i1,|i1"), "no dtype": text(""), "three dtypes": text("|i1,|i1,|u1"),
        "unknown dtype": text("|O"), "a comma": text("|i1,"), "tuple": tup(entry()), "None": NONE,
        "bytes": blob(b"|i1"), "megabytes": text("|i1," * 10**5), "two sensors": text("<u2,<f4"),
    }.items():
        attack(
            "T3", f"canonical S1 layout: {label}", why, canonical(**standard, layout=layout), Rule.PATCH,
            accepted=canonical(**standard, layout=text("|i1")),
        )
    bad_names = (
        "__class__", "__dict__", "__setstate__", "dump", "bands", "g", "to_dict", "_layout", "_pixels", "_views",
        "_band", "__stored_args__", "", "x" * 257,
    )
    for wrong_name in bad_names:
        for where in ("stored", "extras"):
            attack(
                "T3", f"canonical {where} called {wrong_name[:20]!a}",
                "the attribute of the patch is no longer what its class defines",
                canonical(**{where: dct(text(wrong_name), number(1))}), Rule.PATCH,
                accepted=canonical(**{where: dct(text("x"), number(1))}),
            )
    for label, value in {
        "a bytearray": array_blob(b"x"), "a long bytearray": array_blob(bytes(1000)), "a patch": canonical_parts(),
        "a patch in a list": lst(canonical_parts()), "an unbuilt patch": new(name(PATCH_MODULES[S1], S1)),
        "a class": name(PATCH_MODULES[S1], S1), "a class in a tuple": tup(name(PATCH_MODULES[S1], S1)),
        "a class in a dict": dct(text("k"), name(PATCH_MODULES[S1], S1)), "a function": REBUILD_ARRAY,
        "an unbuilt band in a list": lst(new(name(f"{INTERFACE}.band_interface", "Band"))),
        "a band": part(Maker().band("Band", "g", 10, np.zeros((1, 1), "|u1"))), "a legacy patch": part(small_tree()),
        "a dtype": part(dtype_graph()), "ndarray": name("numpy", "ndarray"),
        "an unbuilt array": call(
            name("numpy.core.multiarray", "_reconstruct"), name("numpy", "ndarray"), tup(number(0)), blob(b"b"),
        ),
        "metadata nested too deep": nested(25, b"]", b"a"),
    }.items():
        for where in ("stored", "extras"):
            attack(
                "T3", f"canonical {where} holds {label}", "a stand-in or something half built gets out",
                canonical(**{where: dct(text("x"), value)}), EITHER,
                accepted=canonical(**{where: dct(text("x"), HONEST)}),
            )
    for label, value in {
        "None": NONE, "a number": number(1), "text": text("patch"), "bytes": blob(b"x"), "a list": b"]", "a dict": b"}",
        "a set": b"\x8f", "a tuple": tup(canonical_parts()), "a list of a patch": lst(canonical_parts()),
        "a scalar": HONEST, "an array": part(array_graph()), "a dtype": part(dtype_graph()),
        "a patch class": name(PATCH_MODULES[S1], S1), "a band class": name(f"{INTERFACE}.band_interface", "Band"),
        "a function": REBUILD_PATCH, "ndarray": name("numpy", "ndarray"),
        "an unbuilt patch": new(name(PATCH_MODULES[S1], S1)),
        "an unbuilt band": new(name(f"{INTERFACE}.band_interface", "Band")),
        "a band": part(Maker().band("Band", "g", 10, np.zeros((1, 1), "|u1"))),
        "an unbuilt dtype": call(name("numpy", "dtype"), text("u2"), FALSE, TRUE), "a bytearray": array_blob(b"x"),
        "long bytes": blob(bytes(1000)),
    }.items():
        attack(
            "T3", f"result is {label}", "the result is not a patch, or is half built", program(value),
            Rule.PATCH, accepted=canonical(),
        )
    attack(
        "T3", "S1 patch without a state", "the result is half built", program(new(name(PATCH_MODULES[S1], S1))),
        Rule.PATCH, accepted=canonical(),
    )


def _add_texts() -> None:
    """Hostile text that would reach a terminal, a log or a report."""
    why = "terminal escapes, line breaks and megabytes in a message fool who reads it"
    for label, evil in {
        "terminal escapes": "\x1b]0;owned\x07\x1b[2J\x1b[31m", "line breaks": "a\r\nERROR: all is well\n",
        "right-to-left": "\u202egnp.exe\u2066", "NUL": "a\0b", "a surrogate": "\udc1b[31m",
        "half a million characters": "A" * (2**19 + 1), "C1 controls": "\x9b31m", "markup": "[red]x[/red]<script>",
    }.items():
        for place, value, rule in (
            ("global", with_metadata(name(evil, evil)), Rule.LIMIT if len(evil) > 10**5 else Rule.FORBIDDEN_GLOBAL),
            ("kind", canonical(kind=text(evil)), Rule.PATCH), ("version", canonical(version=text(evil)), Rule.PATCH),
            ("dtype", canonical(layout=tup(entry(dtype=text(evil)))), Rule.PATCH),
            ("band class", canonical(layout=tup(entry(cls=text(evil)))), Rule.PATCH),
            ("array dtype", with_metadata(call(REBUILD_ARRAY, text(evil), tup(number(1)), blob(b"x"))), Rule.ARRAY),
            ("dtype code", with_metadata(part(array_graph(code=evil))), Rule.ARRAY),
            ("metadata of a wrong type", canonical(stored=dct(text(evil), array_blob(b"x"))), Rule.PATCH),
            ("nested key", with_metadata(dct(text(evil), array_blob(b"x"))), Rule.PATCH),
            (
                "band name", changed_band(lambda fields, evil=evil: fields.update(name=evil, data_shape=None)),
                Rule.PATCH,
            ),
            ("stored name", _stored_only(evil), Rule.PATCH),
        ):
            attack("T4", f"{label} as {place}", why, value, rule, accepted=canonical())


def _stored_only(key: str) -> bytes:
    graph = small_tree()
    graph.state["__stored_args__"][key] = 1
    return write(graph)


def add_values() -> None:
    """Add all cases of this module."""
    _add_arrays()
    _add_legacy()
    _add_canonical()
    _add_texts()
