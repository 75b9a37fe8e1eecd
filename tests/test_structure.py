"""A database as a whole: pages that contradict each other, foreign files, and who can write. Honest ones are quiet."""

import os
import random
import signal
import stat
import struct
import subprocess
import sys
import time

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ben_secure import StoreError
from ben_secure.audit.structure import checks as structure
from ben_secure.audit.structure._verify_worker import unexplained
from ben_secure.audit.structure.checks import StructureCheck, structure_findings
from ben_secure.errors import Rule, printable
from support.databases import make_database, needs_lmdb_3
from support.owners import owned

BIG = 20_000  # bytes of a value that has pages of its own


@pytest.fixture
def database(tmp_path):
    """An honest database in a folder that nobody else can write."""
    return private(make_database(tmp_path / "db", {b"%d" % n: bytes(BIG) for n in range(40)}))


def private(path):
    """Take write permission from all but the owner, whatever the umask of the test run."""
    for place in (path, path / "data.mdb"):
        place.chmod(place.stat().st_mode & ~0o022)
    return path


def rules(path):
    """The rules of what is found."""
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


def test_real_databases_have_no_findings(real_data):
    """Archives that the original packages wrote are sound."""
    found = [structure_findings(path.parent) for path in real_data.rglob("data.mdb")]
    assert len(found) >= 13
    assert not [finding for findings in found for finding in findings if finding.rule is Rule.DAMAGED]


@pytest.mark.parametrize("writemap", [False, True])
def test_what_liblmdb_writes_has_no_findings(tmp_path, writemap):
    """Puts, replacements and deletions in any order, many of them in one transaction."""
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
    """One page more that nobody can explain, and all of it is reported."""
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


@needs_lmdb_3
@pytest.mark.threat("T5")
def test_pages_that_contradict_each_other_are_a_finding(database):
    """An overflow page with another number; the rest of the file is as it was."""
    page = overflow_page(database)
    patch_file(database, page * 4096, "<Q", page + 1)
    [finding] = structure_findings(database)
    assert (finding.rule, finding.lmdb_key) == (Rule.DAMAGED, None)
    assert finding.message == f"lmdb.verify finds 1 fault: main DB: overflow page {page} stores mp_pgno {page + 1}"


@needs_lmdb_3
@pytest.mark.threat("T5")
def test_a_page_that_is_used_twice_is_a_finding(tmp_path):
    """The free list names a page that holds a value: liblmdb would overwrite it."""
    with lmdb.open(str(tmp_path / "db"), map_size=2**30, sync=False) as env:
        for n in range(2):
            with env.begin(write=True) as transaction:
                transaction.put(b"a", bytes(BIG))
                transaction.put(b"b%d" % n, bytes(BIG))
    private(tmp_path / "db")
    assert structure_findings(tmp_path / "db") == []
    content = (tmp_path / "db" / "data.mdb").read_bytes()
    freed = struct.pack("<5Q", *range(7, 2, -1))
    place = content.rindex(freed)
    patch_file(tmp_path / "db", place, "<Q", 12)
    [finding] = structure_findings(tmp_path / "db")
    assert finding.rule is Rule.DAMAGED
    assert "reachable and in the freeDB" in finding.message


@needs_lmdb_3
@pytest.mark.threat("T5")
def test_a_file_made_to_keep_the_check_busy_is_a_finding(tmp_path, monkeypatch):
    """Forty nodes that all name one run of a million pages, in a sparse file: stopped, and said so."""
    names = [b"%060d" % n for n in range(100)]  # in three leaves; the first of them is honest
    database = private(make_database(tmp_path / "db", dict.fromkeys(names, bytes(BIG))))
    content = (database / "data.mdb").read_bytes()
    pages, page = 2**20, overflow_page(database)
    os.truncate(database / "data.mdb", (pages + 16) * 4096)
    size = (pages - 16) * 4096
    for name in names[60:]:
        node = content.rindex(name) - 8
        patch_file(database, node, "<HH", size & 0xFFFF, size >> 16)
        patch_file(database, node + 8 + len(name), "<Q", page)
    for meta in (0, 4096):
        patch_file(database, meta + 16 + 120, "<Q", pages + 8)
    monkeypatch.setattr(structure, "_CPU_SECONDS", 1)
    monkeypatch.setattr(structure, "_CPU_SECONDS_A_PAGE", 0)
    monkeypatch.setattr(structure, "_CPU_SECONDS_A_RECORD", 0)
    [finding] = structure_findings(database)
    assert finding.rule is Rule.DAMAGED
    assert "did not end within 1 s of processor time" in finding.message


@needs_lmdb_3
@pytest.mark.threat("T5")
def test_a_check_that_takes_too_much_memory_is_a_finding(database, monkeypatch):
    """A sparse file of 256 GB on a process that may have 128 MB."""
    with open(database / "data.mdb", "r+b") as file:
        file.truncate(2**26 * 4096)
    patch_file(database, 4096 + 16 + 120, "<Q", 2**26 - 1)
    monkeypatch.setattr(structure, "_MEMORY_BYTES", 2**27)
    monkeypatch.setattr(structure, "_MEMORY_BYTES_A_PAGE", 0)
    [finding] = structure_findings(database)
    assert finding.rule is Rule.DAMAGED
    assert "and 128 MB; no file of this size" in finding.message
    monkeypatch.setattr(structure, "_less_allowed", lambda *_: True)  # an honest file may need more than that
    with pytest.raises(StoreError, match=r"cannot check the pages: .* ended with 1: .*MemoryError"):
        structure_findings(database)


@pytest.mark.threat("T5")
def test_without_lmdb_verify_the_pages_are_checked_all_the_same(database, monkeypatch):
    """Releases of lmdb before 3 do not have it; a page of two records is a finding then, too."""
    monkeypatch.setattr(structure, "has_lmdb_verify", lambda: False)
    monkeypatch.setattr(structure.sys, "executable", "no process is started")
    assert structure_findings(database) == []
    page, honest = overflow_page(database), (database / "data.mdb").read_bytes()
    for place, number, message in (
        (honest.rindex(b"39") + 2, page, f"page {page} belongs to two records"),
        (page * 4096, page + 1, f"page {page} "),
    ):
        patch_file(database, place, "<Q", number)
        [finding] = structure_findings(database)
        assert (finding.rule, finding.lmdb_key) == (Rule.DAMAGED, None)
        assert message in finding.message
        (database / "data.mdb").write_bytes(honest)


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
    assert set(rules(database)) <= {Rule.DAMAGED}


def test_what_cannot_be_read_has_no_findings_of_pages(tmp_path):
    """The reader says what is wrong with it; a missing file, another format, a folder without a database."""
    (tmp_path / "text").write_text("text" * 5000)
    (tmp_path / "text").chmod(0o600)
    for path in (tmp_path / "none", tmp_path / "text", tmp_path, "nul\0"):
        assert structure_findings(path) == []


@needs_lmdb_3
def test_a_database_that_changes_all_the_time_is_undecided(database, monkeypatch):
    """What was checked was no state of the database, so nothing is said of it; if it stops, all is well."""
    verify, times = structure._verify, []

    def busy(path, facts, started):
        message = verify(path, facts, started)
        if len(times) < wanted:
            times.append(make_database(path, {b"new%d" % len(times): b"x"}))
        return message

    monkeypatch.setattr(structure, "_verify", busy)
    wanted = 1
    assert structure_findings(database) == []
    wanted = 99
    with pytest.raises(StoreError, match="was changed while its pages were checked"):
        structure_findings(database)


@needs_lmdb_3
def test_a_process_that_cannot_start_is_undecided(database, monkeypatch, tmp_path):
    """It is not taken for a sound database."""
    monkeypatch.setattr(structure.sys, "executable", str(tmp_path / "missing"))
    with pytest.raises(StoreError, match="cannot start a process to check the pages"):
        structure_findings(database)


def test_limits_of_the_user_stay(database):
    """Where less memory or time is allowed than the check may take, it is content with that."""
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_CPU, (5, 5)); "
    code += "from ben_secure.audit.structure.checks import structure_findings; print(structure_findings(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(database)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@needs_lmdb_3
@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), 9)", "os._exit(1)"])
def test_a_check_that_ends_for_another_reason_is_undecided(database, monkeypatch, ending):
    """Somebody has killed it, or it cannot run; that says nothing about the database."""
    popen = subprocess.Popen
    command = [sys.executable, "-c", f"import os; {ending}"]
    monkeypatch.setattr(structure.subprocess, "Popen", lambda _, **options: popen(command, **options))
    with pytest.raises(StoreError, match=r"cannot check the pages: the process that was to do it ended with (-9|1): "):
        structure_findings(database)


@needs_lmdb_3
def test_a_check_in_the_background_says_the_same(database):
    """Of a sound database and of a damaged one; it is over when it says so."""
    for expected in ([], [Rule.DAMAGED]):
        check = StructureCheck(str(database))
        assert [finding.rule for finding in check.findings()] == expected
        assert check.done()
        check.close()
        patch_file(database, overflow_page(database) * 4096 + 12, "<I", 7)


@needs_lmdb_3
def test_a_check_in_the_background_can_be_ended(database, monkeypatch):
    """Its process does not outlive it, whatever that is at."""
    popen, running = subprocess.Popen, []

    def sleeping(_, **options):
        running.append(popen([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        return running[-1]

    monkeypatch.setattr(structure.subprocess, "Popen", sleeping)
    check = StructureCheck(str(database))
    while not running:
        time.sleep(0.01)
    assert not check.done()
    check.close()
    assert running[0].returncode == -signal.SIGKILL


def test_the_check_imports_nothing_from_where_it_is_run(database, monkeypatch, tmp_path):
    """A module of the same name in the working directory stays what it is: a file."""
    canary = tmp_path / "canary"
    for name in ("lmdb", "json", "resource"):
        (tmp_path / f"{name}.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(structure.sys, "path", ["", *structure.sys.path])
    assert structure_findings(database) == []
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
    """Its folder is whatever folder it lies in."""
    (database / "other").touch()
    assert rules(database / "data.mdb") == []


# Who can write.


@pytest.mark.threat("T11")
@pytest.mark.parametrize(("bits", "who"), [(0o020, "by group "), (0o002, "by everybody")])
@pytest.mark.parametrize("place", ["data.mdb", ".", ".."])
def test_write_permission_for_others_is_a_finding(database, place, bits, who):
    """On the file, its folder, or the folder in which that could be exchanged; without it there is none."""
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
    """There nobody can exchange what belongs to somebody else, as in /tmp; a sticky bit on the file means nothing."""
    database.chmod(0o1777)
    assert structure_findings(database) == []
    database.chmod(0o777)
    assert rules(database) == [Rule.WRITABLE]
    database.chmod(0o1755)
    (database / "data.mdb").chmod(0o1666)
    assert rules(database) == [Rule.WRITABLE]


@pytest.mark.threat("T11")
def test_symbolic_links_are_followed(database, tmp_path):
    """What counts is where the file lies, and also where the link to it lies."""
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
    """The name of a folder is chosen by whoever made it."""
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
    """Anyone but the caller and root; for root, anyone but the owner of the file."""
    owned(monkeypatch, caller, data=file, db=folder)
    findings = structure_findings(database)
    assert [finding.rule for finding in findings] == [Rule.OWNER] * bool(odd)
    assert all(place in findings[0].message for place in odd)
