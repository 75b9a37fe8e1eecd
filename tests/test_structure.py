"""A database as a whole: pages that contradict each other, foreign files, and who can write. Honest ones are quiet."""

import random
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
from contextlib import closing

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ben_secure import StoreError
from ben_secure._system.optional import has_lmdb_verify
from ben_secure.audit.structure import checks as structure
from ben_secure.audit.structure._verify_worker import unexplained
from ben_secure.audit.structure.checks import SecondOpinion, StructureCheck, structure_findings
from ben_secure.errors import Rule, printable
from ben_secure.pages.reader import PageReader
from support.databases import make_database, needs_lmdb_3
from support.owners import owned

BIG = 20_000  # bytes of a value that has pages of its own


@pytest.fixture
def database(tmp_path):
    """An honest database in a folder that only its owner can write to."""
    return private(make_database(tmp_path / "db", {b"%d" % n: bytes(BIG) for n in range(40)}))


def private(path):
    """Remove write permission for all except the owner, for any umask of the test run."""
    for place in (path, path / "data.mdb"):
        place.chmod(place.stat().st_mode & ~0o022)
    return path


def rules(path):
    """The rules of the findings."""
    return [finding.rule for finding in structure_findings(path)]


def patch_file(path, offset, form, *numbers):
    """Overwrite a few bytes of the data file."""
    with open(path / "data.mdb", "r+b") as file:
        file.seek(offset)
        file.write(struct.pack(form, *numbers))


def overflow_page(path):
    """Number of the first page that begins a value of its own."""
    content = (path / "data.mdb").read_bytes()
    return next(
        n for n in range(2, len(content) // 4096) if content[n * 4096 : n * 4096 + 12] == struct.pack("<QHH", n, 0, 4)
    )


# Pages.


def test_an_honest_database_has_no_findings(database):
    """In a folder, as a file of its own, and while it is empty."""
    assert structure_findings(database) == []
    assert structure_findings(str(database / "data.mdb")) == []
    assert structure_findings(private(make_database(database.parent / "empty", {}))) == []


def test_every_state_of_the_list_of_free_pages_is_sound(tmp_path):
    """Lists with the first page that can be free, with the last page of the file, and of one page."""
    with lmdb.open(str(tmp_path / "db"), map_size=2**24) as env:
        for number in range(8):
            with env.begin(write=True) as transaction:
                transaction.put(b"a", b"%d" % number)
                assert transaction.delete(b"big") if number % 2 else transaction.put(b"big", bytes(9000))
            with PageReader(tmp_path / "db") as reader:
                assert reader.page_fault() is None


def test_real_databases_have_no_findings(real_data):
    """Databases that the original packages wrote are sound."""
    found = [structure_findings(path.parent) for path in real_data.rglob("data.mdb")]
    assert len(found) >= 13
    assert not [finding for findings in found for finding in findings if finding.rule is Rule.DAMAGED]


@pytest.mark.parametrize("writemap", [False, True])
def test_what_liblmdb_writes_has_no_findings(tmp_path, writemap):
    """Puts, replacements and deletions in any order, many in one transaction, have no findings."""
    chance = random.Random(3)
    with lmdb.open(str(tmp_path / "db"), map_size=2**30, sync=False, writemap=writemap) as env:
        for _ in range(6):
            with env.begin(write=True) as transaction:
                for _ in range(300):
                    name = b"%d" % chance.randrange(200)
                    if chance.random() < 0.2:
                        transaction.delete(name)
                    else:
                        transaction.put(name, bytes(chance.randrange(30_000)))
    assert structure_findings(private(tmp_path / "db")) == []


@pytest.mark.parametrize("values", [1, 400])
def test_values_made_smaller_in_the_transaction_that_wrote_them_are_honest(tmp_path, values):
    """LMDB keeps their pages, which looks like three faults to ``lmdb.verify``; also if there are many of them."""
    with lmdb.open(str(tmp_path / "db"), map_size=2**30, sync=False) as env, env.begin(write=True) as transaction:
        for size in (BIG, BIG // 2):
            for n in range(values):
                transaction.put(b"%d" % n, bytes(size))
    assert structure_findings(private(tmp_path / "db")) == []


SHRUNK = [
    "main DB: overflow page 3 header mp_pages 9 != OVPAGES(9000)=3",
    "freeDB DB: overflow page 30 header mp_pages 2 != OVPAGES(4000)=1",
    "main DB: walked 6 overflow pages, record says 12",
    "freeDB DB: walked 1 overflow pages, record says 2",
    "7 page(s) are neither reachable nor in the freeDB -- a leak (first: page 6)",
]


def test_shrunk_values_are_explained_only_if_the_sums_agree():
    """With one more unexplained page, all of them are reported."""
    assert unexplained(SHRUNK) == []
    for place, (old, new) in enumerate([("pages 9", "pages 8"), ("pages 2", "pages 3")]):
        changed = [*SHRUNK]
        changed[place] = changed[place].replace(old, new)
        assert unexplained(changed) == changed
    leak = [*SHRUNK[:4], SHRUNK[4].replace("7", "8", 1)]
    assert unexplained(leak) == leak
    assert unexplained([*SHRUNK, "page 9 is reachable more than once (via main DB)"]) == [
        "page 9 is reachable more than once (via main DB)"
    ]
    smaller = [SHRUNK[0].replace("pages 9", "pages 2")]
    assert unexplained(smaller) == smaller


def with_free_pages(path):
    """Make a database whose list of free pages has six of them, from 7 to 2 and in this order."""
    with lmdb.open(str(path), map_size=2**30, sync=False) as env:
        for n in range(2):
            with env.begin(write=True) as transaction:
                transaction.put(b"a", bytes(BIG))
                transaction.put(b"b%d" % n, bytes(BIG))
    return private(path)


META = 16  # in a meta page, after its header
FREE, MAIN, LAST, TXNID = META + 24, META + 72, META + 120, META + 128
FIELDS = {"flags": (4, "<H"), "depth": (6, "<H"), "branches": (8, "<Q"), "leaves": (16, "<Q"), "overflows": (24, "<Q")}


def newer_meta(path):
    """Offset of the newer meta page."""
    content = (path / "data.mdb").read_bytes()
    return 4096 * (struct.unpack_from("<Q", content, TXNID)[0] < struct.unpack_from("<Q", content, 4096 + TXNID)[0])


@pytest.mark.threat("T5")
@pytest.mark.parametrize("tree", [FREE, MAIN])
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("by", [1, -1])
def test_every_count_of_the_meta_page_is_checked(tmp_path, tree, field, by):
    """One more or one less of anything, and the database is damaged; as it was, it is not."""
    with lmdb.open(str(tmp_path / "db"), map_size=2**30, sync=False) as env:
        for n in range(3):
            with env.begin(write=True) as transaction:
                for name in range(200):
                    transaction.put(b"%060d" % name, bytes(BIG if name % 50 == n else 10))
    database = private(tmp_path / "db")
    assert structure_findings(database) == []
    offset, form = FIELDS[field]
    place = newer_meta(database) + tree + offset
    (number,) = struct.unpack_from(form, (database / "data.mdb").read_bytes(), place)
    if number + by < 0:
        pytest.skip("there are none")
    patch_file(database, place, form, number + by)
    assert not readable(database) or rules(database) == [Rule.DAMAGED]


@pytest.mark.threat("T5")
def test_a_page_that_nobody_owns_is_a_finding(database):
    """The database says that it has one page more."""
    place = newer_meta(database) + LAST
    (last,) = struct.unpack_from("<Q", (database / "data.mdb").read_bytes(), place)
    patch_file(database, place, "<Q", last + 1)
    [finding] = structure_findings(database)
    assert finding.rule is Rule.DAMAGED
    assert "1 of its pages have no owner, expected 0" in finding.message


@pytest.mark.threat("T5")
def test_a_page_that_is_used_twice_is_a_finding(tmp_path):
    """The free list names a page that holds a value: liblmdb would overwrite it."""
    database = with_free_pages(tmp_path / "db")
    assert structure_findings(database) == []
    content = (database / "data.mdb").read_bytes()
    freed = struct.pack("<5Q", *range(7, 2, -1))
    place = content.rindex(freed)
    patch_file(database, place, "<Q", 12)
    [finding] = structure_findings(database)
    assert finding.rule is Rule.DAMAGED
    assert "page 12 belongs to two records or pages of its trees, or is free" in finding.message


@pytest.mark.threat("T5")
@pytest.mark.parametrize(
    ("offset", "form", "number", "message"),
    [
        (6, "<H", 0, "has root 0x[0-9a-f]{1,3} and depth 0"),
        (6, "<H", 33, "has root 0x[0-9a-f]{1,3} and depth 33"),
        (40, "<Q", 2**64 - 1, "has root 0xf{16} and depth 1"),
    ],
    ids=["depth 0", "depth 33", "no root"],
)
def test_root_and_depth_of_the_tree_of_free_pages_agree(database, offset, form, number, message):
    """A tree has both or neither, and at most 32 levels; the honest database has no finding."""
    with lmdb.open(str(database), map_size=2**30, sync=False) as env, env.begin(write=True) as transaction:
        transaction.delete(b"1")
    assert structure_findings(database) == []
    patch_file(database, newer_meta(database) + FREE + offset, form, number)
    [finding] = structure_findings(database)
    assert finding.rule is Rule.DAMAGED
    assert re.search("tree of free pages " + message, finding.message)


@pytest.mark.threat("T5")
@pytest.mark.parametrize(
    ("place", "form", "number", "message"),
    [
        (-8, "<Q", 7, "a list of 6 free pages states the length 7"),
        (0, "<Q", 10**6, "a list of 6 free pages leaves the file"),
        (8, "<Q", 7, "a list of free pages does not descend"),
        (-16, "<Q", 2**40, "it has free pages of transaction 0000000000010000"),
        (-24, "<H", 55, "a list of free pages has 55 bytes"),
    ],
    ids=["count", "range", "order", "transaction", "length"],
)
def test_a_list_of_free_pages_that_lies_is_a_finding(tmp_path, place, form, number, message):
    """About its length, its pages or its transaction; unchanged it has no finding."""
    database = with_free_pages(tmp_path / "db")
    assert structure_findings(database) == []
    listed = (database / "data.mdb").read_bytes().rindex(struct.pack("<5Q", *range(7, 2, -1)))
    patch_file(database, listed + place, form, number)
    [finding] = structure_findings(database)
    assert finding.rule is Rule.DAMAGED
    assert message in finding.message


@pytest.mark.threat("T5")
@pytest.mark.parametrize("place", [0, 2**17 - 4, 2**17 - 3, 2**17 - 2, 139_998])
def test_a_long_list_of_free_pages_is_read_to_its_end(tmp_path, place):
    """A list of a megabyte, as after the values of half a gigabyte are replaced; exchange two numbers in any piece."""
    database = with_free_pages(tmp_path / "db")
    content, meta, free = (database / "data.mdb").read_bytes(), newer_meta(database), 140_000
    listed = content.rindex(struct.pack("<5Q", *range(7, 2, -1)))
    (last,) = struct.unpack_from("<Q", content, meta + LAST)
    numbers = [*range(last + free, last, -1), *struct.unpack_from("<6Q", content, listed)]
    pages = (16 + 8 + 8 * len(numbers) + 4095) // 4096
    run = last + free + 1
    patch_file(database, listed - 24, "<IH", 8 + 8 * len(numbers), 1)
    patch_file(database, listed - 8, "<Q", run)
    patch_file(database, meta + FREE + FIELDS["overflows"][0], "<Q", pages)
    patch_file(database, meta + LAST, "<Q", run + pages - 1)
    patch_file(database, run * 4096, "<QHHIQ", run, 0, 4, pages, len(numbers))
    with open(database / "data.mdb", "r+b") as file:
        file.truncate((run + pages) * 4096)
    patch_file(database, run * 4096 + 24, f"<{len(numbers)}Q", *numbers)
    assert structure_findings(database) == []
    patch_file(database, run * 4096 + 24 + 8 * place, "<2Q", *numbers[place : place + 2][::-1])
    [finding] = structure_findings(database)
    assert finding.rule is Rule.DAMAGED
    assert "a list of free pages does not descend" in finding.message


@pytest.mark.threat("T5")
@pytest.mark.parametrize("in_hole", [False, True], ids=["the end", "the free list"])
def test_holes_of_a_file_take_no_memory(tmp_path, in_hole):
    """A few kilobytes can be a file of a terabyte, with as many pages, or with a list of free pages of gigabytes."""
    database = with_free_pages(tmp_path / "db")
    assert structure_findings(database) == []
    content, last, length = (database / "data.mdb").read_bytes(), 2**28, 2**31
    patch_file(database, newer_meta(database) + LAST, "<Q", last)
    if in_hole:
        node = content.rindex(struct.pack("<5Q", *range(7, 2, -1))) - 24
        patch_file(database, node, "<IH", length, 1)
        patch_file(database, node + 16, "<Q", 2**27)
    with open(database / "data.mdb", "r+b") as file:
        file.truncate(4096 * (last + 1))
        file.seek(4096 * 2**27)
        file.write(struct.pack("<QHHIQ", 2**27, 0, 4, length // 4096 + 1, length // 8 - 1))
    tracemalloc.start()
    with PageReader(database) as reader:
        assert list(reader.keys()) == [b"a", b"b0", b"b1"]
    [finding] = structure_findings(database)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert finding.rule is Rule.DAMAGED
    assert ("leaves the file" if in_hole else "of its pages have no owner") in finding.message
    assert peak < 2**23


def test_a_deep_tree_of_free_pages_is_sound(tmp_path):
    """Hundreds of transactions, whose pages an old reader keeps from being used again."""
    with (
        lmdb.open(str(tmp_path / "db"), map_size=2**26, sync=False) as env,
        env.begin(write=True) as transaction,
    ):
        transaction.put(b"a", b"old")
    with lmdb.open(str(tmp_path / "db"), map_size=2**26, sync=False) as env:
        with env.begin():
            for number in range(400):
                with env.begin(write=True) as transaction:
                    transaction.put(b"a", b"%d" % number)
        private(tmp_path / "db")
        assert structure_findings(tmp_path / "db") == []


@pytest.mark.threat("T5")
def test_keys_that_a_lookup_would_not_find_are_a_finding(tmp_path):
    """A wrong separator hides the first key of a leaf from a lookup, and a walk over all keys would not notice."""
    database = private(make_database(tmp_path / "db", {b"%060d" % n: b"x" for n in range(200)}))
    assert structure_findings(database) == []
    content = (database / "data.mdb").read_bytes()
    pages = range(2, len(content) // 4096)
    branch = next(n for n in pages if content[n * 4096 + 10] == 1)
    (node,) = struct.unpack_from("<H", content, branch * 4096 + 18)
    place = branch * 4096 + node + 8
    patch_file(database, place, "60s", b"%060d" % (int(content[place : place + 60]) + 1))
    [finding] = structure_findings(database)
    assert "it has keys that its branch page does not lead to" in finding.message


@pytest.mark.threat("T5")
def test_a_sparse_file_with_a_huge_number_takes_little(database):
    """A file of 256 GB, nearly all of it a hole, that says it is full; and one that says so and is not."""
    patch_file(database, newer_meta(database) + LAST, "<Q", 2**26 - 1)
    [finding] = structure_findings(database)
    assert "and page 67108863 is in use" in finding.message
    with open(database / "data.mdb", "r+b") as file:
        file.truncate(2**26 * 4096)
    [finding] = structure_findings(database)
    assert "of its pages have no owner, expected 0" in finding.message


def readable(path):
    """Whether all values can be read; None if it is not a database any more."""
    try:
        with PageReader(path) as reader:
            try:
                for _ in reader.items():
                    pass
            except StoreError:
                return False
    except StoreError:
        return None
    return True


@pytest.mark.threat("T5")
@settings(max_examples=40)
@given(data=st.data())
def test_any_bytes_end_in_an_answer(tmp_path_factory, data):
    """A few bytes changed anywhere: findings or none, and nothing is raised."""
    folder = tmp_path_factory.mktemp("db")
    database = private(make_database(folder / "db", {b"%d" % n: bytes(5000 * (n % 2)) for n in range(20)}))
    content = bytearray((database / "data.mdb").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    (database / "data.mdb").write_bytes(content)
    found = rules(database)
    assert set(found) <= {Rule.DAMAGED}
    if not found and has_lmdb_verify() and readable(database):  # then the oracle finds no fault either
        import lmdb.verify

        said = unexplained(lmdb.verify.verify(str(database / "data.mdb"), subdir=False))
        # Only the pages that a value made smaller keeps, and what is no part of any record, is left to it.
        assert not [fault for fault in said if "header mp_pages" not in fault]


def test_what_cannot_be_read_has_no_findings_of_pages(tmp_path):
    """The reader reports the fault: a missing file, another format, or a folder without a database."""
    (tmp_path / "text").write_text("text" * 5000)
    (tmp_path / "text").chmod(0o600)
    for path in (tmp_path / "none", tmp_path / "text", tmp_path, "nul\0"):
        assert structure_findings(path) == []


def test_a_database_that_changes_all_the_time_is_undecided(database, monkeypatch):
    """No state of the database was checked, so the verdict is undecided; when it stops changing, the check works."""
    looked = []

    def busy(snapshot):
        if len(looked) < wanted:
            looked.append(make_database(database, {b"new%d" % (len(looked) % 50): b"x"}))

    monkeypatch.setattr("ben_secure.pages.reader.check_accounts", busy)
    wanted = 3
    assert structure_findings(database) == []
    assert len(looked) == 3
    monkeypatch.setattr("ben_secure.pages.reader._ATTEMPTS", 5)
    wanted = 99
    with pytest.raises(StoreError, match="a writer committed during each of 5 attempts"):
        structure_findings(database)


# The second opinion.


def second_opinion(path):
    """The result of ``lmdb.verify``, with any delay."""
    opinion = SecondOpinion(str(path))
    try:
        return opinion.finding(60)
    finally:
        opinion.close()


@needs_lmdb_3
def test_a_second_opinion_is_a_warning_at_most(database):
    """The header of a value's pages is read with the value: of it lmdb.verify alone speaks here; sound, it is quiet."""
    assert second_opinion(database) is None
    page = overflow_page(database)
    patch_file(database, page * 4096, "<Q", page + 1)
    assert structure_findings(database) == []
    finding = second_opinion(database)
    assert (finding.rule, finding.level, finding.lmdb_key) == (Rule.OPINION, "warning", None)
    assert finding.message.endswith(
        f"lmdb.verify reports faults: main DB: overflow page {page} stores mp_pgno {page + 1}"
    )


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "os._exit(1)", "print('no'); time.sleep(0)", "x"])
def test_no_second_opinion_is_none(database, monkeypatch, ending):
    """A killed, failing or nonsensical check gives no finding."""
    page = overflow_page(database)
    patch_file(database, page * 4096, "<Q", page + 1)
    popen = subprocess.Popen
    command = [sys.executable, "-c", f"import os, time; {ending}"]
    monkeypatch.setattr(structure.subprocess, "Popen", lambda _, **options: popen(command, **options))
    assert second_opinion(database) is None


def test_a_second_opinion_needs_a_process(database, monkeypatch, tmp_path):
    """Without a process there is no second opinion."""
    monkeypatch.setattr(structure.sys, "executable", str(tmp_path / "missing"))
    assert second_opinion(database) is None


@needs_lmdb_3
def test_a_check_in_the_background_says_the_same(database):
    """Of a sound database, of a damaged one, and of one on which the second opinion differs."""
    page = overflow_page(database)
    leaves = newer_meta(database) + MAIN + FIELDS["leaves"][0]
    for expected, change in (
        ([], (page * 4096, "<Q", page + 1)),
        ([Rule.OPINION], (leaves, "<Q", 77)),
        ([Rule.DAMAGED], (page * 4096, "<Q", page)),
    ):
        with PageReader(database) as pages, closing(StructureCheck(str(database), pages)) as check:
            time.sleep(1)  # as if values were judged
            assert [finding.rule for finding in check.findings()] == expected
        patch_file(database, *change)


@pytest.mark.threat("T11")
def test_the_pages_that_are_accounted_for_are_those_of_the_judged_file(database, tmp_path):
    """A sound file that is put in the place of a damaged one while values are judged does not speak for it."""
    sound = shutil.copytree(database, tmp_path / "sound")
    patch_file(database, newer_meta(database) + MAIN + FIELDS["leaves"][0], "<Q", 77)
    with PageReader(database) as pages:
        (sound / "data.mdb").rename(database / "data.mdb")
        assert structure_findings(database) == []
        with closing(StructureCheck(str(database), pages)) as check:
            assert [finding.rule for finding in check.findings()] == [Rule.DAMAGED]


@pytest.mark.threat("T5")
def test_a_second_opinion_is_not_waited_for(database, monkeypatch):
    """The check does not wait longer than for everything else; its process always ends with it."""
    popen, running = subprocess.Popen, []

    def sleeping(_, **options):
        running.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        return running[-1]

    monkeypatch.setattr(structure.subprocess, "Popen", sleeping)
    with PageReader(database) as pages, closing(StructureCheck(str(database), pages)) as check:
        assert check.findings() == []
        assert running[0].poll() is None
    assert running[0].returncode == -signal.SIGKILL


def test_the_check_imports_nothing_from_where_it_is_run(database, monkeypatch, tmp_path):
    """A module of the same name in the working directory is not imported."""
    canary = tmp_path / "canary"
    for name in ("lmdb", "json", "resource"):
        (tmp_path / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(structure.sys, "path", ["", *structure.sys.path])
    assert second_opinion(database) is None
    assert not canary.exists()


# Files beside it.


OWN = [
    "lock.mdb",
    "ben.manifest",
    "ben.manifest.dsse.json",
    ".data.mdb.ben-secure-writing",
    ".x.manifest.ben-secure-writing",
]


def test_files_that_do_not_belong_are_a_finding(database):
    """Those of LMDB and of ben-secure do; others are listed, escaped and not without end."""
    for name in OWN:
        (database / name).touch()
    assert structure_findings(database) == []
    for name in ("\x1b[31mred", *(f"{n}.py" for n in range(9))):
        (database / name).touch()
    [finding] = structure_findings(database)
    assert (finding.rule, finding.lmdb_key) == (Rule.FOREIGN_FILE, None)
    assert r": \x1b[31mred, 0.py, 1.py, 2.py, 3.py and 5 more; find out" in finding.message


@pytest.mark.parametrize("name", ["data.mdb2", "xdata.mdb", "a.manifest\n", "lock.mdb.py", "ben.manifest.json"])
def test_names_that_only_look_like_ours_are_foreign(database, name):
    """A name belongs here as a whole or not at all."""
    (database / name).touch()
    assert rules(database) == [Rule.FOREIGN_FILE]


def test_files_beside_a_database_that_is_a_file_are_not_looked_at(database):
    """The folder of such a file may contain anything."""
    (database / "other").touch()
    assert rules(database / "data.mdb") == []


# Write permissions.


@pytest.mark.threat("T11")
@pytest.mark.parametrize(("bits", "who"), [(0o020, "by group "), (0o002, "by everybody")])
@pytest.mark.parametrize("place", ["data.mdb", ".", ".."])
def test_write_permission_for_others_is_a_finding(database, place, bits, who):
    """On the file, its folder, or a folder above that allows an exchange; without permission there is no finding."""
    place = (database / place).resolve()
    mode = stat.S_IMODE(place.stat().st_mode)
    place.chmod(mode | bits)
    for path in (database, database / "data.mdb"):
        [finding] = structure_findings(path)
        assert (finding.rule, finding.lmdb_key) == (Rule.WRITABLE, None)
        assert f"can be written: {printable(str(place), 400)} {who}" in finding.message
        assert f"(mode {mode | bits:04o})" in finding.message
    place.chmod(mode)
    assert structure_findings(database) == []


@pytest.mark.threat("T11")
def test_a_sticky_folder_protects_the_file_in_it(database):
    """Nobody can exchange another user's files there, as in /tmp; a sticky bit on the file has no effect."""
    database.chmod(0o1777)
    assert structure_findings(database) == []
    database.chmod(0o777)
    assert rules(database) == [Rule.WRITABLE]
    database.chmod(0o1755)
    (database / "data.mdb").chmod(0o1666)
    assert rules(database) == [Rule.WRITABLE]


@pytest.mark.threat("T11")
def test_symbolic_links_are_followed(database, tmp_path):
    """The location of the file counts, and that of the link."""
    (tmp_path / "links").mkdir(mode=0o755)
    (tmp_path / "links" / "db").symlink_to(database)
    link = tmp_path / "links" / "db"
    assert structure_findings(link) == []
    (tmp_path / "links").chmod(0o777)
    [finding] = structure_findings(link)
    assert f"{printable(str(tmp_path / 'links'), 400)} by everybody" in finding.message
    (tmp_path / "links").chmod(0o755)
    database.chmod(0o777)
    [finding] = structure_findings(link)
    assert f"{printable(str(database), 400)} by everybody" in finding.message


@pytest.mark.threat("T4")
def test_paths_are_escaped(tmp_path):
    """Any user may have chosen the name of a folder."""
    database = private(make_database(tmp_path / "\x1b[31m", {b"a": b"x"}))
    database.chmod(0o777)
    [finding] = structure_findings(database)
    assert r"\x1b[31m by everybody" in finding.message
    assert "\x1b" not in finding.message


@pytest.mark.threat("T11")
@pytest.mark.parametrize(
    ("caller", "file", "folder", "odd"),
    [
        (1000, 1000, 1000, []),
        (1000, 0, 0, []),
        (1000, 0, 1000, []),
        (1000, 1001, 1000, ["data.mdb to user 1001"]),
        (1000, 1000, 1001, ["db to user 1001"]),
        (1000, 1001, 1001, ["data.mdb to user 1001", "db to user 1001"]),
        (0, 1000, 1000, []),
        (0, 0, 0, []),
        (0, 1000, 1001, ["db to user 1001"]),
    ],
)
def test_a_foreign_owner_is_a_finding(database, monkeypatch, caller, file, folder, odd):
    """The owner must be the caller or root; for root, the owner of the file."""
    owned(monkeypatch, caller, data=file, db=folder)
    findings = structure_findings(database)
    assert [finding.rule for finding in findings] == [Rule.OWNER] * bool(odd)
    assert all(place in findings[0].message for place in odd)
