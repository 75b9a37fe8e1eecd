"""Every known attack on the unpickler, opcode by opcode, each with an honest value that hardly differs.

``ATTACKS`` is the whole corpus. This module has the attacks in the program: names, calls, BUILD, lengths, frames, the
stack and the memo, bombs. ``attack_values`` has those in the results of a program, ``attack_states`` values that no
honest writer makes, and ``attack_tensors`` attacks in safetensors values. Threat ids are the rows of threat_model.md:
T1 code execution, T2 crash, memory and time, T3 confused or half-built objects, T4 hostile text, T16 hostile
safetensors headers. Payloads that run code try to create the file ``canary`` in the working directory; tests provide
``evil.py``, ``evil.npy`` and ``spare`` there, and register the extension codes.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
from collections.abc import Callable

import numpy as np

from ben_secure.errors import Rule
from ben_secure.pickles.names import TABLE, Use
from support.assembler import (
    ATTACKS,
    FALSE,
    HONEST,
    MEMO,
    NONE,
    REBUILD_PATCH,
    REBUILD_SCALAR,
    STOP,
    TRUE,
    array_blob,
    array_graph,
    attack,
    blob,
    build,
    call,
    canonical,
    canonical_parts,
    changed_band,
    dct,
    entry,
    frame,
    get,
    lst,
    members,
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
from support.attack_states import add_states
from support.attack_tensors import add_tensors
from support.attack_values import add_values
from support.legacy_values import INTERFACE, PATCH_MODULES, S1, Call, Maker, name_of, small_tree, write

__all__ = ["ATTACKS", "FRAMES_ARE_DROPPED"]

# fmt: off

TOUCH = "touch canary"
CODE = "open('canary', 'w').close()"
EXPRESSION = "open('canary', 'w').close() or 1"


def _drops_frames() -> bool:
    """Whether this Python's C unpickler drops the rest of a frame when an operand does not fit into it.

    Older releases do, reading from a file, and go on at a place that a reader of all bytes takes for data. Here they
    come to 1 in the place of 2.
    """
    value = b"\x80\x04" + frame(b"\x8c\x08AAAA") + b"BBBB" + b"0" + b"C\x04_K\x01." + b"0K\x02."
    with contextlib.suppress(Exception):
        return bool(pickle.load(io.BytesIO(value)) == 1)
    return False


FRAMES_ARE_DROPPED = _drops_frames()

_touch, _code, _expression = text(TOUCH), text(CODE), text(EXPRESSION)
_os = call(name("importlib", "import_module"), text("os"))
_inner = program(call(name("posix", "system"), _touch))


# T1: calls. Each of these runs under the stock unpickler, as tests/test_hostile.py checks.
_CALLS: dict[str, bytes] = {
    "os.system": call(name("os", "system"), _touch), "posix.system": call(name("posix", "system"), _touch),
    "os.mkdir": call(name("os", "mkdir"), text("canary")), "posix.mkdir": call(name("posix", "mkdir"), text("canary")),
    "os.symlink": call(name("os", "symlink"), text("evil.py"), text("canary")),
    "os.rename": call(name("os", "rename"), text("spare"), text("canary")),
    "os.spawnlp": call(name("os", "spawnlp"), number(0), text("touch"), text("touch"), text("canary")),
    "builtins.eval": call(name("builtins", "eval"), _expression),
    "builtins.exec": call(name("builtins", "exec"), _code),
    "builtins.open": call(name("builtins", "open"), text("canary"), text("w")),
    "builtins.__import__": call(name("builtins", "__import__"), text("evil")),
    "io.open": call(name("io", "open"), text("canary"), text("w")),
    "_io.FileIO": call(name("_io", "FileIO"), text("canary"), text("w")),
    "subprocess.check_call": call(name("subprocess", "check_call"), lst(text("touch"), text("canary"))),
    "subprocess.getoutput": call(name("subprocess", "getoutput"), _touch),
    "subprocess.run": call(name("subprocess", "run"), lst(text("touch"), text("canary"))),
    "importlib.import_module": call(name("importlib", "import_module"), text("evil")),
    "importlib of os, getattr, call": call(call(name("builtins", "getattr"), _os, text("system")), _touch),
    "operator.methodcaller": call(call(name("operator", "methodcaller"), text("system"), _touch), _os),
    "operator.attrgetter": call(call(call(name("operator", "attrgetter"), text("system")), _os), _touch),
    "operator.itemgetter of vars": call(
        call(call(name("operator", "itemgetter"), text("system")), call(name("builtins", "vars"), _os)), _touch,
    ),
    "functools.partial": call(call(name("functools", "partial"), name("posix", "system"), _touch)),
    "functools.reduce": call(
        call(name("functools", "reduce"), name("builtins", "getattr"), lst(_os, text("system"))), _touch,
    ),
    "map through list": call(
        name("builtins", "list"), call(name("builtins", "map"), name("posix", "system"), lst(_touch)),
    ),
    "runpy.run_path": call(name("runpy", "run_path"), text("evil.py")),
    "runpy.run_module": call(name("runpy", "run_module"), text("evil")),
    "pickle.loads": call(name("pickle", "loads"), blob(_inner)),
    "_pickle.loads": call(name("_pickle", "loads"), blob(_inner)),
    "pickle._loads": call(name("pickle", "_loads"), blob(_inner)),
    "pkgutil.resolve_name": call(call(name("pkgutil", "resolve_name"), text("os:system")), _touch),
    "pydoc.locate": call(call(name("pydoc", "locate"), text("os.system")), _touch),
    "compile and FunctionType": call(
        call(name("types", "FunctionType"), call(name("builtins", "compile"), _code, text(""), text("exec")), b"}")
    ),
    "timeit.repeat": call(
        name("timeit", "repeat"), _code, text("pass"), name("time", "perf_counter"), number(1), number(1),
    ),
    "code.InteractiveInterpreter": call(
        call(name("builtins", "getattr"), call(name("code", "InteractiveInterpreter")), text("runsource")), _code,
    ),
    "cProfile.runctx": call(name("cProfile", "runctx"), _code, b"}", b"}", text("profile.out")),
    "logging.config dictConfig factory": call(
        name("logging.config", "dictConfig"),
        dct(
            text("version"), number(1), text("incremental"), FALSE, text("formatters"),
            dct(text("f"), dct(text("()"), text("os.mkdir"), text("path"), text("canary"))),
        ),
    ),
    "shutil.copy": call(name("shutil", "copy"), text("evil.py"), text("canary")),
    "_pyio.open": call(name("_pyio", "open"), text("canary"), text("w")),
    "sqlite3.connect": call(name("sqlite3", "connect"), text("canary")),
    "numpy.load with pickles": call(name("numpy", "load"), text("evil.npy"), NONE, TRUE),
    "numpy open_memmap": call(
        name("numpy.lib.format", "open_memmap"), text("canary"), text("w+"), text("u1"), tup(number(1)),
    ),
    "numpy.memmap": call(name("numpy", "memmap"), text("canary"), text("u1"), text("w+"), number(0), tup(number(1))),
    "numpy.testing runstring": call(name("numpy.testing._private.utils", "runstring"), _code, b"}"),
    "numpy.f2py myeval": call(name("numpy.f2py.crackfortran", "myeval"), _expression),
    "numpy.ctypeslib ctypes": call(
        call(name("builtins", "getattr"), call(name("ctypes", "CDLL"), NONE), text("system")), blob(TOUCH.encode()),
    ),
    "our own package's pickle": call(name("ben_secure.pickles.unpickler", "pickle.loads"), blob(_inner)),
    "our own package's io": call(name("ben_secure.patches.patch", "io.open"), text("canary"), text("w")),
    "an import of a module at hand": call(name("support.legacy_values", "io.open"), text("canary"), text("w")),
}


def _add_calls() -> None:
    for label, payload in _CALLS.items():
        why = "a call in the metadata runs while the value is loaded"
        attack(
            "T1", f"call {label} in metadata", why, with_metadata(payload), Rule.FORBIDDEN_GLOBAL,
            runs=True,
        )
    for label in ("os.system", "builtins.eval", "pickle.loads", "importlib of os, getattr, call"):
        attack(
            "T1", f"call {label} alone", "the value is nothing but a call", program(_CALLS[label]),
            Rule.FORBIDDEN_GLOBAL, accepted=canonical(), runs=True,
        )
        attack(
            "T1", f"call {label} and throw the result away", "a whole patch comes out, after the call",
            program(_CALLS[label] + b"0" + canonical_parts()), Rule.FORBIDDEN_GLOBAL, accepted=canonical(),
            runs=True,
        )
    for module, attribute, argument in (("os", "system", TOUCH), ("builtins", "eval", EXPRESSION)):
        payload = Call(name_of(module, attribute), (argument,))
        attack(
            "T1", f"call {module}.{attribute} in a legacy patch", "the same in values of the original package",
            write(small_tree(metadata={"x": payload})), Rule.FORBIDDEN_GLOBAL,
            accepted=write(small_tree(metadata={"x": Maker().scalar(np.uint16(1))})),
        )


def _line(string: str) -> bytes:
    return string.encode() + b"\n"


def _add_names() -> None:
    """Every way to name a global."""
    why = "the name reaches find_class by another opcode"
    system = b"c" + _line("posix") + _line("system")
    for label, payload in {
        "GLOBAL": system + tup(_touch) + b"R",
        "GLOBAL with a dot": b"c" + _line("os") + _line("path.os.system") + tup(_touch) + b"R",
        "INST": b"(" + _touch + b"i" + _line("posix") + _line("system"),
        "GLOBAL and OBJ": b"(" + system + _touch + b"o", "STACK_GLOBAL and OBJ": b"(" + HONEST + b"o",
    }.items():
        runs = not label.startswith("STACK")
        attack("T1", f"name by {label}", why, with_metadata(payload), Rule.FORBIDDEN_OPCODE, runs=runs)
    attack(
        "T1", "name an honest global by GLOBAL", "the text form has its own rules for line ends and renames",
        with_metadata(call(b"c" + _line("ben_secure.metadata") + _line("rebuild_scalar"), text("<u2"), blob(b"\1\0"))),
        Rule.FORBIDDEN_OPCODE,
    )
    for opcode, width, code in (("EXT1", 1, 0xF0), ("EXT2", 2, 0xF0F0), ("EXT4", 4, 0x70F0F0F0)):
        op = {1: b"\x82", 2: b"\x83", 4: b"\x84"}[width]
        attack(
            "T1", f"name by {opcode}", "a code that the application registered stands for a name",
            with_metadata(op + code.to_bytes(width, "little") + tup(_touch) + b"R"), Rule.FORBIDDEN_OPCODE,
            runs=True, extension=("posix", "system", code),
        )
    fetched = text("system") + MEMO + text("posix") + MEMO + b"00" + get(1) + get(0) + b"\x93"
    kept = tup(text("system") + MEMO, text("posix") + MEMO, get(1) + get(0) + b"\x93" + tup(_touch) + b"R")
    honest = tup(
        text("rebuild_scalar") + MEMO, text("ben_secure.metadata") + MEMO,
        get(1) + get(0) + b"\x93" + tup(text("<u2"), blob(b"\1\0")) + b"R",
    )
    attack(
        "T1", "name put together from the memo", "the last two strings before STACK_GLOBAL are not the name",
        with_metadata(kept), Rule.FORBIDDEN_GLOBAL, accepted=with_metadata(honest), runs=True,
    )
    attack(
        "T1", "name from the memo after POP", "POP hides where the strings came from",
        with_metadata(fetched + tup(_touch) + b"R"), Rule.FORBIDDEN_OPCODE, accepted=with_metadata(honest),
        runs=True,
    )
    swapped = tup(text("posix") + MEMO, text("numpy") + b"q\0", get(0) + text("dtype") + b"\x93")
    attack(
        "T1", "memo entry overwritten", "a reader that keeps the first entry sees another name", with_metadata(swapped),
        Rule.FORBIDDEN_OPCODE, accepted=with_metadata(honest),
    )
    duplicated = text("posix") + b"2" + b"0" + text("system") + b"\x93" + tup(_touch) + b"R"
    attack(
        "T1", "name by DUP", "an object on the stack that no string opcode wrote", with_metadata(duplicated),
        Rule.FORBIDDEN_OPCODE, runs=True,
    )
    for module, attribute in (
        ("os", "path.os.system"), ("numpy", "dtype.__class__"), ("numpy", "f2py"), ("numpy", "ndarray.__reduce__"),
        ("numpy.core", "multiarray._reconstruct"), ("numpy", "core.multiarray._reconstruct"), ("", "numpy.dtype"),
        ("numpy.", "dtype"), ("numpy", "dtype."), ("numpy", ".dtype"), ("numpy..", "dtype"),
        ("ben_secure.patches", "rebuild_patch.__globals__"), ("ben_secure.patches", "rebuild_patch.__call__"),
        ("ben_secure.patches", "rebuild"), ("ben_secure.patches.parts", "rebuild_patch"), ("ben_secure", "loads"),
        ("ben_secure.patches", "BigEarthNetPatch"), ("ben_secure.patches", "BigEarthNetPatch._assemble"),
        (f"{INTERFACE}.patch_interface", "BigEarthNetPatch.load"),
        (f"{INTERFACE}.patch_interface", "BigEarthNet_S1_Patch"), (INTERFACE, "BigEarthNetPatch"),
        (f"{INTERFACE}.band_interface", "BaseModel"), ("ben_secure.pickles.unpickler", "PatchUnpickler"),
        ("ben_secure.pickles.legacy", "Legacy"), ("ben_secure.pickles.machine", "run"),
        ("\uff4eumpy", "dtype"), ("numpy", "\u0501type"),
        ("num\u0440y", "dtype"), ("NumPy", "dtype"), ("numpy\u200b", "dtype"), ("numpy", "dtype\u200d"),
        ("numpy\0", "dtype"), ("numpy", "dtype\n"), (" numpy", "dtype"), ("numpy", "dtype "), ("numpy\u202e", "dtype"),
        ("numpy\uff0ecore\uff0emultiarray", "_reconstruct"), ("numpy", "\ufb01nfo"), ("\udc80numpy", "dtype"),
        ("__builtin__", "set"), ("copy_reg", "_reconstructor"), ("cPickle", "loads"), ("copyreg", "_reconstructor"),
        ("copyreg", "__newobj__"), ("_codecs", "encode"), ("builtins", "bytearray"), ("builtins", "object"),
        ("builtins", "set"), ("collections", "OrderedDict"), ("datetime", "date"), ("pathlib", "PosixPath"),
        ("numpy", "matrix"), ("numpy.ma.core", "_mareconstruct"), ("numpy", "recarray"), ("numpy", "void"),
        ("numpy.dtypes", "UInt16DType"), ("numpy.random._pickle", "__randomstate_ctor"), ("numpy", "ufunc"),
        ("numpy._core.multiarray", "fromfile"), ("numpy._core.multiarray", "frombuffer"),
        ("numpy._core._internal", "_unpickle_void"), ("pandas.core.frame", "DataFrame"),
        ("torch._utils", "_rebuild_tensor_v2"), ("__main__", "rebuild_patch"),
    ):
        attack(
            "T1", f"name {module!a}.{attribute!a}", "only the exact pairs of the allow-list are names",
            with_metadata(call(name(module, attribute), text("<u2"), blob(b"\1\0"))), Rule.FORBIDDEN_GLOBAL,
        )
    for label, payload in {
        "bytes for the module": blob(b"posix") + text("system") + b"\x93",
        "bytes for the name": text("posix") + blob(b"system") + b"\x93",
        "a list for the name": text("numpy") + lst(text("dtype")) + b"\x93",
        "a class for the module": name("numpy", "dtype") + text("dtype") + b"\x93",
        "a number for the name": text("numpy") + number(1) + b"\x93",
    }.items():
        attack(
            "T1", f"name with {label}", "an object with its own __eq__ or __hash__ could pass for a string",
            with_metadata(call(payload, _touch)), Rule.FORBIDDEN_GLOBAL,
        )
    for label, payload in {"PERSID": b"P" + _line("0"), "BINPERSID": text("0") + b"Q"}.items():
        attack(
            "T1", f"persistent id by {label}", "persistent_load is code of the application", with_metadata(payload),
            Rule.FORBIDDEN_OPCODE,
        )
    for protocol in (0, 1, 2, 3):
        value = b"" if protocol < 2 else b"\x80" + bytes([protocol])
        value += b"c" + _line("__builtin__") + _line("eval") + b"(V" + _line(EXPRESSION) + b"tR."
        rule = Rule.NOT_A_PICKLE if protocol < 2 else Rule.STRUCTURE
        attack(
            "T1", f"protocol {protocol} renames __builtin__", "old protocols have other opcodes and rename modules",
            value, rule, accepted=canonical(), runs=protocol < 3,
        )


def _add_build() -> None:
    """BUILD writes attributes: on the wrong target that changes the process."""
    cls = name(PATCH_MODULES[S1], S1)
    plant = dct(text("loads"), number(1))
    why = "BUILD on a class or function plants attributes on it, process-wide"
    for label, target in {
        "a patch class": cls, "a band class": name(f"{INTERFACE}.band_interface", "Band"), "a function": REBUILD_PATCH,
        "the ndarray name": name("numpy", "ndarray"), "the dtype name": name("numpy", "dtype"), "a string": text("x"),
        "a list": b"]", "a dict": b"}", "a set": b"\x8f", "a tuple": b")", "a number": number(1), "None": NONE,
        "bytes": blob(b"x"), "a bytearray": array_blob(b"x"), "the result of a call": HONEST,
    }.items():
        for kind, state in {"dict": plant, "slot": tup(NONE, plant), "both": tup(plant, plant)}.items():
            attack(
                "T1", f"BUILD with {kind} state on {label}", why, with_metadata(build(target, state)), Rule.STRUCTURE,
            )
    honest_dtype = part(Maker().dtype("<u2"))
    scalar = name("numpy.core.multiarray", "scalar")
    accepted = with_metadata(call(scalar, honest_dtype, blob(b"\1\0")))
    for label, state in {
        "a list": lst(text("x")), "a string": text("x"), "None": NONE, "a number": number(3), "a class": cls,
    }.items():
        attack(
            "T3", f"BUILD of a dtype with {label} for state", "__setstate__ gets an unexpected state",
            with_metadata(
                call(scalar, build(call(name("numpy", "dtype"), text("u2"), FALSE, TRUE), state), blob(b"\1\0"))
            ),
            Rule.STRUCTURE, accepted=accepted,
        )
    state = tup(number(3), text("<"), NONE, NONE, NONE, number(-1), number(-1), number(0))
    attack(
        "T3", "BUILD of a dtype twice", "the second state comes after the first was checked",
        with_metadata(call(scalar, build(honest_dtype, state), blob(b"\1\0"))), Rule.STRUCTURE, accepted=accepted,
    )
    fetched = call(name("numpy", "dtype"), text("u2"), FALSE, TRUE) + MEMO
    attack(
        "T3", "BUILD of a dtype that was used before",
        "an object that is reached through the memo changes after it was checked",
        with_metadata(tup(fetched, build(get(0), state))), Rule.STRUCTURE, accepted, "changed after it was referred to",
    )
    for target, opcode in (("a list", "APPEND"), ("a dict", "SETITEM"), ("a set", "ADDITEMS")):
        fill = {
            "APPEND": number(1) + b"a", "SETITEM": text("k") + number(1) + b"s", "ADDITEMS": b"(" + number(1) + b"\x90",
        }
        empty = {"APPEND": b"]", "SETITEM": b"}", "ADDITEMS": b"\x8f"}[opcode]
        for label, wrong in {
            "a class": cls, "a function": REBUILD_PATCH, "a string": text("x"), "a tuple": b")", "an object": HONEST,
            "bytes": blob(b"x"), "a bytearray": array_blob(b"x"), "an unbuilt object": new(cls),
        }.items():
            attack(
                "T1", f"{opcode} on {label}", "calls append, extend, add or __setitem__ of whatever is on the stack",
                with_metadata(wrong + fill[opcode]), Rule.STRUCTURE,
                accepted=with_metadata(empty + fill[opcode]),
            )
        attack(
            "T3", f"{opcode} on {target} from the memo", "a checked container grows afterwards",
            with_metadata(tup(empty + MEMO, get(0) + fill[opcode])), Rule.STRUCTURE,
            accepted=with_metadata(tup(empty + MEMO + fill[opcode], get(0))), words="changed after it was referred to",
        )
    for target, value in {
        "a list": b"]" + MEMO + get(0) + b"a", "a dict": b"}" + MEMO + text("k") + get(0) + b"s",
    }.items():
        attack(
            "T2", f"{target} put into itself", "a walk over the metadata never ends", with_metadata(value),
            Rule.STRUCTURE, with_metadata(value.replace(get(0), NONE)), "changed after it was referred to",
        )


def _add_call_shapes() -> None:
    """Every admitted global, called otherwise than honest payloads do."""
    why = "numpy's real functions obey hostile arguments: allocate, cast, read memory"
    for (module, attribute), row in TABLE.items():
        use, target = row.use, name(module, attribute)
        short = f"{module}.{attribute}"
        if use in (Use.CLASS, Use.NAME):
            attack("T1", f"{short} called", why, with_metadata(call(target)), Rule.CALL_SHAPE)
        if use is not Use.CLASS:
            attack("T1", f"{short} instantiated", why, with_metadata(new(target)), Rule.CALL_SHAPE)
            attack(
                "T1", f"{short} instantiated by NEWOBJ_EX", why, with_metadata(target + b")}\x92"),
                Rule.FORBIDDEN_OPCODE,
            )
        else:
            attack(
                "T1", f"{short} with arguments", why, with_metadata(new(target, tup(number(1)))), Rule.CALL_SHAPE,
            )
            attack(
                "T3", f"{short} never built", "an object without its state", with_metadata(new(target)), Rule.ARRAY,
            )
            attack(
                "T3", f"{short} itself in metadata", "the class is the value", with_metadata(target), Rule.PATCH,
            )
        if use in (Use.BUILDER, Use.CALL):
            for label, arguments in {"no arguments": (), "seven arguments": (number(1),) * 7}.items():
                attack("T3", f"{short} with {label}", why, with_metadata(call(target, *arguments)), Rule.CALL_SHAPE)
            for label, arguments in {"a list": b"]", "None": NONE, "a dict": b"}", "a string": text("ab")}.items():
                attack(
                    "T1", f"{short} with {label} for arguments", why, with_metadata(target + arguments + b"R"),
                    Rule.CALL_SHAPE,
                )
        if use in (Use.BUILDER, Use.NAME):
            attack(
                "T3", f"{short} itself in metadata", "a function is the value", with_metadata(target), Rule.ARRAY,
            )
    for label, target in {
        "a string": text("system"), "a tuple": b")", "bytes": blob(b"x"), "a call's result": HONEST,
        "an instance": new(name(PATCH_MODULES[S1], S1)),
    }.items():
        attack(
            "T1", f"{label} called", "REDUCE calls an object on the stack", with_metadata(target + b")R"),
            Rule.CALL_SHAPE,
        )
        attack(
            "T1", f"{label} instantiated", "NEWOBJ calls cls.__new__", with_metadata(target + b")\x81"),
            Rule.CALL_SHAPE,
        )
    nd, b = name("numpy", "ndarray"), blob(b"b")
    for core in ("numpy.core", "numpy._core"):
        reconstruct = name(f"{core}.multiarray", "_reconstruct")
        state = part(Maker().array(np.zeros(1, "|u1")).state)
        accepted = with_metadata(build(call(reconstruct, nd, tup(number(0)), b), state))
        for label, arguments in {
            "another class": (name("numpy", "dtype"), tup(number(0)), b), "a huge shape": (nd, tup(number(2**40)), b),
            "shape (1,)": (nd, tup(number(1)), b), "a negative shape": (nd, tup(number(-1)), b),
            "no shape": (nd, b")", b), "a patch class": (name(PATCH_MODULES[S1], S1), tup(number(0)), b),
            "an object code": (nd, tup(number(0)), blob(b"O")), "a string code": (nd, tup(number(0)), text("b")),
            "a list shape": (nd, lst(number(0)), b), "itself": (reconstruct, tup(number(0)), b),
            "a string for the class": (text("numpy.ndarray"), tup(number(0)), b),
        }.items():
            attack(
                "T2", f"{core} _reconstruct with {label}", why,
                with_metadata(build(call(reconstruct, *arguments), state)), Rule.CALL_SHAPE, accepted=accepted,
            )
        attack(
            "T3", f"{core} array without state", "an array that is not fully built shows heap memory",
            with_metadata(call(reconstruct, nd, tup(number(0)), b)), Rule.ARRAY, accepted=accepted,
        )
    dtype, scalar = name("numpy", "dtype"), name("numpy.core.multiarray", "scalar")
    state = part(Maker().dtype("<u2").state)
    accepted = with_metadata(call(scalar, build(call(dtype, text("u2"), FALSE, TRUE), state), blob(b"\1\0")))
    for label, arguments in {
        "align": (text("u2"), TRUE, TRUE), "no copy": (text("u2"), FALSE, FALSE),
        "number for align": (text("u2"), number(0), number(1)),
        "a list of fields": (lst(tup(text("f"), text("O"))), FALSE, TRUE), "bytes": (blob(b"u2"), FALSE, TRUE),
        "a class": (nd, FALSE, TRUE),
        "a dict": (dct(text("names"), lst(text("f")), text("formats"), lst(text("O"))), FALSE, TRUE),
        "None": (NONE, FALSE, TRUE), "a dtype": (dtype, FALSE, TRUE),
    }.items():
        attack(
            "T2", f"dtype of {label}", why,
            with_metadata(call(scalar, build(call(dtype, *arguments), state), blob(b"\1\0"))), Rule.CALL_SHAPE,
            accepted=accepted,
        )
    attack(
        "T3", "dtype without state", "a dtype of which nothing was checked",
        with_metadata(call(scalar, call(dtype, text("u2"), FALSE, TRUE), blob(b"\1\0"))), Rule.ARRAY,
        accepted=accepted,
    )


def _add_framing() -> None:
    """Lengths, frames and ends that make a reader lose its position."""
    rest = canonical_parts() + STOP
    whole = canonical()
    accepted = b"\x80\x04" + frame(rest)
    # Such a C unpickler continues 8 bytes after the frame, inside a bytes object of a linear reader.
    evil = call(name("posix", "system"), _touch) + STOP
    inside = b"C" + bytes([1 + len(evil)]) + b"_" + evil
    attack(
        "T1", "frame that ends inside an operand", "the program that runs is not the program that was read",
        b"\x80\x04" + frame(b"\x8c\x08AAAA") + b"BBBB" + b"0" + inside + b"0" + rest, Rule.STRUCTURE,
        accepted=accepted, runs=FRAMES_ARE_DROPPED, words="crosses the end",
    )
    for label, value, rule, words in (
        ("frame that ends inside an opcode's text", b"\x80\x04" + frame(rest, length=5), Rule.STRUCTURE, "crosses"),
        (
            "frame that ends between opcode and operand", b"\x80\x04" + frame(number(1) + b"0" + rest, length=1),
            Rule.STRUCTURE, "crosses",
        ),
        ("frame in a frame", b"\x80\x04" + frame(frame(rest)), Rule.STRUCTURE, "inside a frame"),
        ("empty frame", b"\x80\x04" + frame() + rest, Rule.STRUCTURE, "empty frame"),
        ("frame one byte beyond the end", b"\x80\x04" + frame(rest, length=len(rest) + 1), Rule.MALFORMED, "announced"),
        ("frame of 2**63 bytes", b"\x80\x04" + frame(rest, length=2**63), Rule.MALFORMED, "announced"),
        ("frame of 2**64 - 1 bytes", b"\x80\x04" + frame(rest, length=2**64 - 1), Rule.MALFORMED, "announced"),
        ("frame that goes on after STOP", b"\x80\x04" + frame(rest + b"."), Rule.STRUCTURE, "last frame"),
        ("frame cut short", b"\x80\x04" + frame(rest)[:8], Rule.MALFORMED, "cut short|announced"),
    ):
        attack(
            "T1", label, "a reader that keeps no account of frames sees another program", value, rule, accepted, words,
        )
    for label, payload in {
        "string of 255 bytes": b"\x8c\xff", "string of 2**32 - 1 bytes": b"X\xff\xff\xff\xff",
        "string of 2**31 bytes": b"X\0\0\0\x80", "bytes of 255 bytes": b"C\xff",
        "bytes of 2**32 - 1 bytes": b"B\xff\xff\xff\xff", "bytes of 2**31 bytes": b"B\0\0\0\x80",
        "bytearray of 2**63 bytes": b"\x96" + struct.pack("<Q", 2**63),
        "bytearray of 2**64 - 1 bytes": b"\x96" + b"\xff" * 8,
        "bytearray of 2**40 bytes": b"\x96" + struct.pack("<Q", 2**40), "integer of 255 bytes": b"\x8a\xff",
    }.items():
        attack(
            "T2", f"{label} where there are fewer", "announced lengths are allocated", with_metadata(payload),
            Rule.MALFORMED,
        )
    attack(
        "T2", "bytes that end where STOP should be", "the end of the pickle is read as data", whole[:-1],
        Rule.MALFORMED, accepted=whole,
    )
    for label, tail in {
        "a byte": b"\0", "another STOP": b".", "a second pickle": whole,
        "a second, hostile pickle": program(_CALLS["os.system"]), "text": b"hello",
    }.items():
        attack(
            "T3", f"{label} after the end", "more bytes follow the checked or signed ones", whole + tail,
            Rule.TRAILING_DATA, accepted=whole,
        )
    for label, value, rule in (
        ("nothing", b"", Rule.NOT_A_PICKLE), ("one byte", b"\x80", Rule.MALFORMED),
        ("PROTO alone", b"\x80\x04", Rule.MALFORMED),
        ("STOP alone", b".", Rule.NOT_A_PICKLE),
        ("PROTO and STOP", b"\x80\x04.", Rule.MALFORMED),
        ("no PROTO", whole[2:], Rule.NOT_A_PICKLE),
        ("protocol 6", b"\x80\x06" + rest, Rule.STRUCTURE),
        ("protocol 255", b"\x80\xff" + rest, Rule.STRUCTURE),
        ("PROTO twice", b"\x80\x04\x80\x04" + rest, Rule.STRUCTURE),
        ("text", b"hello", Rule.NOT_A_PICKLE),
        ("a zip file", b"PK\x03\x04", Rule.NOT_A_PICKLE),
        ("an NPY file", b"\x93NUMPY\x01\0", Rule.NOT_A_PICKLE),
    ):
        attack("T3", f"value is {label}", "not expected by a reader", value, rule, accepted=whole)


def _add_stack_and_memo() -> None:
    why = "an index or a stack that is not there reads memory, or ends in an error that is not ours"
    for label, payload, rule in (
        ("BINGET of an empty memo", get(0), Rule.MALFORMED),
        ("LONG_BINGET of 2**32 - 1", b"j\xff\xff\xff\xff", Rule.MALFORMED),
        ("BINGET one too far", text("a") + MEMO + get(1), Rule.MALFORMED),
        ("LONG_BINPUT of 2**32 - 1", NONE + b"r\xff\xff\xff\xff", Rule.FORBIDDEN_OPCODE),
        ("BINPUT", NONE + b"q\xff", Rule.FORBIDDEN_OPCODE),
        ("PUT", NONE + b"p99\n", Rule.FORBIDDEN_OPCODE), ("GET", b"g0\n", Rule.FORBIDDEN_OPCODE),
        ("POP", NONE + b"0", Rule.FORBIDDEN_OPCODE),
        ("POP_MARK", NONE + b"(1", Rule.FORBIDDEN_OPCODE),
        ("DUP", NONE + b"2", Rule.FORBIDDEN_OPCODE),
        ("MEMOIZE under a mark", text("a") + b"(" + MEMO + NONE + b"t\x86", Rule.MALFORMED),
        ("TUPLE2 through a mark", NONE + b"(" + NONE + b"\x86", Rule.MALFORMED),
        ("TUPLE without a mark", b"t" * 9, Rule.MALFORMED),
        ("APPENDS on the target of the mark", b"e", Rule.STRUCTURE),
        ("APPEND through a mark", b"](" + NONE + b"a", Rule.STRUCTURE),
        ("SETITEMS with half an entry", b"}(" + text("k") + b"u", Rule.MALFORMED),
        ("BUILD through a mark", b"(" + b"}b", Rule.STRUCTURE),
        ("STACK_GLOBAL through a mark", text("numpy") + b"(" + text("dtype") + b"\x93", Rule.MALFORMED),
        ("a mark too many", b"(" + NONE, Rule.MALFORMED),
        ("NEXT_BUFFER", b"\x97", Rule.FORBIDDEN_OPCODE),
        ("READONLY_BUFFER", blob(b"x") + b"\x98", Rule.FORBIDDEN_OPCODE),
        ("FROZENSET", b"(\x91", Rule.FORBIDDEN_OPCODE),
        ("BINUNICODE8 of 2**63", b"\x8d" + struct.pack("<Q", 2**63), Rule.FORBIDDEN_OPCODE),
        ("BINBYTES8 of 2**63", b"\x8e" + struct.pack("<Q", 2**63), Rule.FORBIDDEN_OPCODE),
        ("LONG4 of minus one byte", b"\x8b\xff\xff\xff\xff", Rule.FORBIDDEN_OPCODE),
        ("INT as text", b"I" + b"9" * 5000 + b"\n", Rule.FORBIDDEN_OPCODE),
        ("LONG as text", b"L" + b"9" * 5000 + b"L\n", Rule.FORBIDDEN_OPCODE),
        ("FLOAT as text", b"F1e999\n", Rule.FORBIDDEN_OPCODE),
        ("STRING", b"S'x'\n", Rule.FORBIDDEN_OPCODE), ("UNICODE", b"Vx\n", Rule.FORBIDDEN_OPCODE),
        ("DICT", b"(d", Rule.FORBIDDEN_OPCODE), ("LIST", b"(l", Rule.FORBIDDEN_OPCODE),
        ("text that is not UTF-8", text(b"\xff\xfe"), Rule.MALFORMED),
        ("an unknown opcode", b"\xff", Rule.FORBIDDEN_OPCODE),
    ):
        attack("T2", label, why, with_metadata(payload), rule)
    attack(
        "T3", "two objects at STOP", "which of them was checked?", program(canonical_parts() * 2), Rule.MALFORMED,
        accepted=canonical(),
    )
    attack(
        "T3", "a mark at STOP", "the same", program(b"(" + canonical_parts()), Rule.MALFORMED,
        accepted=canonical(),
    )


def _laughs(levels: int, make: Callable[..., bytes], width: int = 10) -> bytes:
    """Each level holds the level before ``width`` times."""
    parts = [make(*[get(level)] * width) + MEMO for level in range(levels)]
    return tup(text("ha") + MEMO, *parts)


def _keyed(*parts: bytes) -> bytes:
    return dct(*(piece for place, value in enumerate(parts) for piece in (text(str(place)), value)))


def _add_bombs() -> None:
    deep = "walking, hashing, printing or freeing it overflows the C stack"
    for label, opener, closer in (
        ("TUPLE1", b"", b"\x85"), ("lists", b"]", b"a"), ("dicts", b"}\x8c\1k", b"s"), ("TUPLE", b"(", b"t"),
    ):
        for count in (40, 12_000):
            attack(
                "T2", f"{count} nested {label}", deep, with_metadata(nested(count, opener, closer)), Rule.LIMIT,
                accepted=with_metadata(nested(15, opener, closer)), words="depth",
            )
    attack(
        "T2", "deep tuple as a dict key", deep, with_metadata(dct(nested(20, b"", b"\x85"), NONE)), Rule.STRUCTURE,
        accepted=with_metadata(dct(text("k"), nested(15, b"", b"\x85"))),
    )
    attack(
        "T2", "very deep tuple as a dict key", deep, with_metadata(dct(nested(100_000, b"", b"\x85"), NONE)),
        Rule.LIMIT, accepted=with_metadata(dct(text("k"), NONE)),
    )
    attack(
        "T2", "deep tuple in a set", deep, with_metadata(members(nested(20, b"", b"\x85"))), Rule.STRUCTURE,
        accepted=with_metadata(members(NONE)),
    )
    attack(
        "T2", "deep call arguments", deep, with_metadata(call(REBUILD_SCALAR, nested(60, b"", b"\x85"), NONE)),
        Rule.ARRAY,
    )
    for label, key in {
        "a number": number(1), "None": NONE, "bytes": blob(b"k"), "a tuple": b")", "a list": b"]", "an object": HONEST,
        "a class": name(PATCH_MODULES[S1], S1), "a float": real(float("nan")),
    }.items():
        attack(
            "T3", f"{label} as a dict key",
            "__hash__ and __eq__ of an object run; attributes have names that are strings",
            with_metadata(dct(key, NONE)), Rule.STRUCTURE, accepted=with_metadata(dct(text("k"), NONE)),
        )
    for label, member in {
        "a list": b"]", "a dict": b"}", "a tuple": b")", "a class": name(PATCH_MODULES[S1], S1), "an object": HONEST,
        "a bytearray": array_blob(b"x"), "a set": b"\x8f",
    }.items():
        attack(
            "T3", f"{label} in a set", "__hash__ and __eq__ of an object run", with_metadata(members(member)),
            Rule.STRUCTURE, accepted=with_metadata(members(blob(b"x"))),
        )
    laugh = "few opcodes, but 10**20 objects for a walk or a printout"
    for label, make in {"lists": lst, "tuples": tup, "dicts": _keyed}.items():
        attack(
            "T2", f"billion laughs through {label}", laugh, with_metadata(_laughs(20, make)), Rule.LIMIT,
            accepted=with_metadata(_laughs(3, make)), words="written out",
        )
        attack(
            "T2", f"doubled 25 times through {label}", laugh, with_metadata(_laughs(25, make, 2)), Rule.LIMIT,
            accepted=with_metadata(_laughs(9, make, 2)), words="written out",
        )
    attack("T2", "200,000 opcodes", "time", program(NONE * 200_000), Rule.LIMIT, canonical(), "opcodes")
    attack(
        "T2", "a million memo entries", "memory", lambda: with_metadata(lst((NONE + MEMO) * 10**6)), Rule.LIMIT,
        accepted=with_metadata(lst((NONE + MEMO) * 9000)), words="memo|opcodes",
    )
    attack(
        "T2", "a million empty sets", "memory: one byte makes an object of 216",
        lambda: with_metadata(lst(b"\x8f" * 10**6)), Rule.LIMIT, with_metadata(lst(b"\x8f" * 9000)),
        "opcodes",
    )
    wide = "A" * 250 + "\U0001f6f0"
    attack(
        "T2", "ten megabytes of wide text", "a string takes four bytes a character if one of them is wide",
        lambda: with_metadata(text(wide * 40_000)), Rule.LIMIT, with_metadata(text(wide * 100)),
        "bytes of text",
    )
    attack(
        "T2", "ten megabytes of short wide texts", "the same in portions",
        lambda: with_metadata(lst(*[text(wide)] * 40_000)) + b".", Rule.TRAILING_DATA,
        accepted=with_metadata(lst(*[text(wide)] * 100)),
    )
    colliding = [number((2**61 - 1) * n) for n in range(1, 1026)]
    attack(
        "T2", "integers with one hash in a set", "a set of n of them takes n**2 comparisons",
        with_metadata(members(*colliding)), Rule.LIMIT,
        accepted=with_metadata(members(*colliding[:100])), words="numbers in sets",
    )
    attack(
        "T2", "integers with one hash in two sets", "the same, in portions",
        with_metadata(lst(members(*colliding[:600]), members(*colliding[:600]))), Rule.LIMIT,
        accepted=with_metadata(members(*colliding[:600])), words="numbers in sets",
    )
    attack(
        "T2", "integer of 65 bytes", "printing an integer takes time quadratic in its length",
        with_metadata(b"\x8a\x41" + b"\1" * 65), Rule.LIMIT,
        accepted=with_metadata(b"\x8a\x40" + b"\1" * 64), words="bytes of an integer",
    )
    # A reader that remembers where it stood copies stack and memo.
    memo = NONE + MEMO * 20_000
    attack(
        "T2", "a full memo and thousands of lists", "the memory kept for each list grows with the memo",
        program(memo, (b"](" + NONE * 14 + b"e") * 1600), Rule.MALFORMED, accepted=canonical(),
    )
    attack(
        "T2", "a full memo and 25,000 blocks", "the memory kept for each block grows with the memo",
        lambda: program(memo, blob(bytes(512)) * 25_000), Rule.MALFORMED, accepted=canonical(),
    )
    attack(
        "T2", "a full stack of marks and thousands of lists", "the same with marks",
        program(b"(" * 20_000, (b"](" + NONE * 14 + b"e") * 1600), Rule.MALFORMED, accepted=canonical(),
    )
    shared = lst(text("A" * 100_000) + MEMO, *[get(0)] * 3000)
    for label, value in {
        "version": canonical(version=shared), "kind": canonical(kind=shared), "layout": canonical(layout=shared),
        "pixels": canonical(pixels=shared), "stored metadata": canonical(stored=shared),
        "extras": canonical(extras=shared), "band name": canonical(layout=tup(entry(band=shared))),
        "band rows": canonical(layout=tup(entry(rows=shared))),
    }.items():
        attack(
            "T2", f"300 MB of shared text as {label}", "the error message writes it out before it is cut", value,
            Rule.PATCH, accepted=canonical(),
        )
    big = ["A" * 100_000] * 3000
    for label, change in {
        "band name": lambda fields: fields.update(name=big),
        "resolution": lambda fields: fields.update(spatial_resolution=big),
        "shape": lambda fields: fields.update(data_shape=big),
        "shape as a tuple": lambda fields: fields.update(data_shape=tuple(big)),
    }.items():
        attack(
            "T2", f"300 MB of shared text as {label} of a legacy band",
            "the error message writes it out before it is cut", changed_band(change), Rule.PATCH,
            accepted=write(small_tree()),
        )
    for label, more in {
        "array state": {"state": (1, big, None, False, b"")}, "array version": {"version": big},
        "array shape": {"shape": tuple(big)}, "dtype state": {"dtype_state": tuple(big[:8])},
        "dtype order": {"dtype_state": (3, big, None, None, None, -1, -1, 0)}, "memory order": {"fortran": big},
        "data": {"data": big}, "dtype code": {"code": "u2" + "A" * 10**6},
    }.items():
        attack(
            "T2", f"300 MB of shared text as {label}", "the error message writes it out before it is cut",
            with_metadata(part(array_graph(**more))), Rule.ARRAY, accepted=with_metadata(part(array_graph())),
        )


_add_calls()
_add_names()
_add_build()
_add_call_shapes()
_add_framing()
_add_stack_and_memo()
_add_bombs()
add_values()
add_states()
add_tensors()
