"""Values written by the original package load here with the same content as there.

Each generation is installed from PyPI into a virtual environment of its own; it writes values and describes its own
reading of them, which must equal the description of ours.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ben_secure
from ben_secure.pages.reader import PageReader
from ben_secure.signing.keys import MacKey
from ben_secure.signing.tags import append_tag
from support.originals import GENERATIONS, SCRIPT, ask, install

pytestmark = pytest.mark.slow

sys.modules["archive_patches"] = sys.modules[__name__]


class OwnPatch(ben_secure.BigEarthNetPatch):
    """The caller's own class, under the name that the values give it."""

    __module__ = "archive_patches"


def describe(patch: ben_secure.BigEarthNetPatch) -> dict[str, object]:
    """The description of ``original/script.py``, made of one of our patches."""
    names = {"__name__": "description", "__file__": str(SCRIPT)}
    source = SCRIPT.read_text()
    exec(compile(source[source.index("def plain") : source.index('if __name__ == "__main__"')], SCRIPT, "exec"), names)
    names.update(np=np, hashlib=hashlib, re=re)
    return json.loads(json.dumps(names["describe"](patch)))  # type: ignore[operator]


def expect(described: dict[str, object]) -> dict[str, object]:
    """The expected content of a loaded value: 0.1.0 does not sort the bands of a merged patch, 0.1.2 and ours do."""
    if described["order"][:2] == ["VH", "VV"] and len(described["order"]) == 14:
        described["order"] = described["order"][2:] + described["order"][:2]
        lines = described["repr"].split("\n")
        described["repr"] = "\n".join([lines[0], *lines[3:15], *lines[1:3], *lines[15:]])
    return described


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Interpreters with each generation of the original package."""
    folder = tmp_path_factory.mktemp("originals")
    try:
        with ThreadPoolExecutor() as pool:
            made = pool.map(lambda item: install(folder / item[0], item[1]), GENERATIONS.items())
            return dict(zip(GENERATIONS, made, strict=True))
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the original package cannot be installed here: {error.stderr[-300:]}")


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_value_loads_as_the_original_loads_it(originals, generation, tmp_path):
    """Class, bands, dtypes, pixels, stacked arrays, metadata with its types, attributes and repr are the original's."""
    ask(originals[generation], "make", str(tmp_path))
    values = sorted(tmp_path.iterdir())
    theirs = json.loads(ask(originals[generation], "describe", text="\n".join(map(str, values))))
    assert len(values) == len(theirs) >= 16
    for value, expected in zip(values, map(expect, theirs), strict=True):
        patch = ben_secure.loads(value.read_bytes(), classes=[OwnPatch])
        assert describe(patch) == expected, value.name
        again = ben_secure.loads(patch.dumps(), classes=[OwnPatch])
        assert describe(again) == expected, f"canonical form of {value.name}"
        assert again == patch


@pytest.mark.parametrize("generation", GENERATIONS)
def test_an_undeclared_subclass_is_refused(originals, generation, tmp_path):
    """The caller's own class is accepted only if the caller declares it; the test above declares it."""
    ask(originals[generation], "make", str(tmp_path))
    for value in tmp_path.glob("own.*"):
        with pytest.raises(ben_secure.UnsafePickleError, match=r"archive_patches\.OwnPatch"):
            ben_secure.loads(value.read_bytes())


@pytest.mark.parametrize("generation", GENERATIONS)
def test_real_archives_load_as_the_original_loads_them(originals, generation, real_data, tmp_path):
    """The same for every value of the real databases, if they are at hand."""
    checked = 0
    for database in sorted((real_data / "legacy" / generation).glob("*.lmdb")):
        with PageReader(database) as pages:
            items = list(pages.items())
        for place, (_, value) in enumerate(items):
            (tmp_path / f"{place:03}").write_bytes(value)
        paths = "\n".join(str(tmp_path / f"{place:03}") for place in range(len(items)))
        theirs = json.loads(ask(originals[generation], "describe", text=paths))
        for (_, value), expected in zip(items, map(expect, theirs), strict=True):
            assert describe(ben_secure.loads(value)) == expected
            checked += 1
    assert checked == 18


@pytest.mark.threat("T9")
@pytest.mark.parametrize("generation", GENERATIONS)
def test_the_original_reads_tagged_values_unchanged(originals, generation, tmp_path):
    """Its ``loads`` is ``pickle.loads``, which stops at the STOP: each is described exactly as the untagged one."""
    (tmp_path / "bare").mkdir()
    (tmp_path / "tagged").mkdir()
    ask(originals[generation], "make", str(tmp_path / "bare"))
    for bare in (tmp_path / "bare").iterdir():
        tagged = append_tag(MacKey(bytes(32)), b"context", bare.name.encode(), bare.read_bytes())
        (tmp_path / "tagged" / bare.name).write_bytes(tagged)
    described = {
        kind: ask(originals[generation], "describe", text="\n".join(map(str, sorted((tmp_path / kind).iterdir()))))
        for kind in ("bare", "tagged")
    }
    assert described["bare"] == described["tagged"]
    assert len(json.loads(described["tagged"])) >= 16
