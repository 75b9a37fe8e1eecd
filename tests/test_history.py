"""Bypasses that were published of other scanners and restricted loaders: each does not work here.

The table "Published bypasses" of threat_model.md names a test for each row; the payloads are in ``PAYLOADS`` by its id.
"""

import pathlib
import re
import struct
import subprocess
import sys

import pytest

import ben_secure
from ben_secure.errors import PatchFormatError, Rule, UnsafePickleError
from support.assembler import MEMO, NONE, REBUILD_PATCH, call, canonical, dct, name, program, text, tup

ROOT = pathlib.Path(__file__).parent.parent
CANARY = b"open('canary', 'w').close()"

# Callables by which scanners with a list of dangerous names were passed.
GADGETS = [
    "asyncio.unix_events._UnixSubprocessTransport._start",
    "builtins.__import__",
    "builtins.getattr",
    "cProfile.run",
    "code.InteractiveInterpreter.runcode",
    "ctypes.CDLL",
    "distutils.file_util.write_file",
    "doctest.debug_script",
    "ensurepip._run_pip",
    "functools.partial",
    "idlelib.run.Executive.runcode",
    "importlib.import_module",
    "lib2to3.pgen2.grammar.Grammar.loads",
    "logging.config.listen",
    "marshal.loads",
    "numpy.f2py.crackfortran.getlincoef",
    "numpy.testing._private.utils.runstring",
    "operator.attrgetter",
    "operator.methodcaller",
    "pdb.run",
    "pip.main",
    "pkgutil.resolve_name",
    "profile.run",
    "pty.spawn",
    "pydoc.locate",
    "runpy.run_path",
    "shutil.copy",
    "signal.signal",
    "socketserver.TCPServer",
    "ssl.get_server_certificate",
    "timeit.timeit",
    "torch.utils.bottleneck.__main__.run_cprofile",
    "trace.Trace.run",
    "types.FunctionType",
    "uuid._get_command_stdout",
    "venv.create",
]

EXEC = name("builtins", "exec")
RUN = call(EXEC, text(CANARY.decode()))

#: Payload, and the rule that refuses it, by the row of the table and a word.
PAYLOADS: dict[str, tuple[bytes, Rule]] = {
    # The scanner counts memo entries, the pickle numbers them itself: names are not the last two strings.
    "F1 memo": (
        program(
            text("builtins") + b"q\x07" + b"0" + text("exec") + b"q\x05" + b"0" + text("numpy") + text("dtype") + b"00",
            b"h\x07h\x05\x93" + tup(text(CANARY.decode())) + b"R",
        ),
        Rule.FORBIDDEN_OPCODE,
    ),
    "F1 last strings": (
        program(
            b"(" + text("builtins") + MEMO + text("exec") + MEMO + text("numpy") + text("dtype"),
            b"h\x00h\x01\x93" + tup(text(CANARY.decode())) + b"Rt",
        ),
        Rule.FORBIDDEN_GLOBAL,
    ),
    # A name with dots walks through attributes: an admitted module, and from there anywhere.
    "F3 dots": (
        program(call(name("ben_secure.patches", "rebuild_patch.__globals__.get"), text("x"))),
        Rule.FORBIDDEN_GLOBAL,
    ),
    "F3 prefix": (program(call(name("ben_secure.patches.x", "rebuild_patch"), NONE)), Rule.FORBIDDEN_GLOBAL),
    # The result of the call is thrown away, or given a state, and the scanner's picture of the program lacks it.
    "F4 popped": (program(RUN, b"0", NONE), Rule.FORBIDDEN_GLOBAL),
    "F4 built": (program(RUN, dct(text("a"), NONE), b"b"), Rule.FORBIDDEN_GLOBAL),
    # The call comes first; the rest is broken, so that a scanner that parses to the end reports an error instead.
    "F5 broken end": (b"\x80\x04" + RUN + b"\xff\xff\xff", Rule.FORBIDDEN_GLOBAL),
    "F5 no end": (b"\x80\x04" + RUN, Rule.FORBIDDEN_GLOBAL),
    # Opcodes that only some parsers take.
    "F6 old global": (b"\x80\x04cbuiltins\nexec\n" + tup(text(CANARY.decode())) + b"R.", Rule.FORBIDDEN_OPCODE),
    "F6 instance": (b"\x80\x04(V" + CANARY + b"\nibuiltins\nexec\n.", Rule.FORBIDDEN_OPCODE),
    # Items are set on an object that is not a dict; a length differs from the storage's.
    "F8 items of a call": (program(call(REBUILD_PATCH), b"(", text("a"), NONE, b"u"), Rule.CALL_SHAPE),
    # Lengths and indices that the C unpickler took memory for, and numbers that its two parsers read differently.
    "F10 memo index": (program(NONE, b"r" + struct.pack("<I", 2**28 - 1)), Rule.FORBIDDEN_OPCODE),
    "F10 8-byte length": (program(b"\x8e" + struct.pack("<Q", 2**40)), Rule.FORBIDDEN_OPCODE),
    "F10 array length": (program(b"\x96" + struct.pack("<Q", 2**40)), Rule.MALFORMED),
    "F10 signed length": (program(b"T" + struct.pack("<I", 2**31)), Rule.FORBIDDEN_OPCODE),
    "F10 decimal index": (b"\x80\x04K\x01p99999999999999999999\n.", Rule.FORBIDDEN_OPCODE),
}
LIVE = [case for case in PAYLOADS if case.startswith(("F1", "F4", "F5", "F6")) and "F10" not in case]


def table() -> dict[str, str]:
    """Rows of "Published bypasses" by id."""
    lines = (ROOT / "threat_model.md").read_text("utf-8").splitlines()
    return {match[1]: line for line in lines if (match := re.match(r"\| (F\d+) \|", line))}


@pytest.mark.threat("T1")
@pytest.mark.parametrize("case", PAYLOADS)
def test_a_published_bypass_is_refused(case, tmp_path, monkeypatch):
    """It is refused by the rule that names it, alone and as metadata of a patch, and nothing runs."""
    monkeypatch.chdir(tmp_path)
    payload, rule = PAYLOADS[case]
    with pytest.raises((UnsafePickleError, PatchFormatError)) as refusal:
        ben_secure.loads(payload)
    assert refusal.value.rule is rule
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", LIVE)
def test_it_is_alive(case, tmp_path):
    """The same bytes create the canary under plain pickle, so the refusal above is of an attack."""
    script = "import pickle, sys\ntry: pickle.loads(sys.stdin.buffer.read())\nexcept Exception: pass"
    subprocess.run([sys.executable, "-c", script], input=PAYLOADS[case][0], cwd=tmp_path, check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]


@pytest.mark.threat("T1")
@pytest.mark.parametrize("gadget", GADGETS)
def test_no_list_of_dangerous_names_is_needed(gadget):
    """A callable by which lists of dangerous names were passed is refused by its name, split at any dot."""
    parts = gadget.split(".")
    for cut in range(1, len(parts)):
        module, attribute = ".".join(parts[:cut]), ".".join(parts[cut:])
        with pytest.raises(UnsafePickleError) as refusal:
            ben_secure.loads(program(call(name(module, attribute), NONE)))
        assert refusal.value.rule is Rule.FORBIDDEN_GLOBAL


def test_an_honest_value_loads():
    """The value from which the attacks differ is read."""
    assert ben_secure.loads(canonical())


@pytest.mark.parametrize("row", table())
def test_a_row_names_tests_that_exist(row):
    """Each row names tests of this or another file, and a row of the table of threats."""
    cells = [cell.strip() for cell in table()[row].strip("|").split("|")]
    assert re.fullmatch(r"T\d+(, T\d+)*", cells[3])
    named = re.findall(r"`(test_\w+)::(test_\w+)`", cells[4])
    assert named
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / f"{file}.py").read_text("utf-8")


def test_every_payload_has_its_row():
    """Every payload has a row in the table."""
    assert {case.split()[0] for case in PAYLOADS} <= set(table())
