"""An audit in shards: merged, they are the report of one run, byte for byte; anything less is refused."""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from ben_secure import StoreError
from ben_secure.audit import Options, audit_many
from ben_secure.audit.run.runner import audit_merged, audit_shard
from ben_secure.cli import main
from ben_secure.signing.keys import SigningKey, write_signing_key, write_verify_key
from support.attacks import ATTACKS
from support.databases import HONEST, NAME, SHELL, damage_key, make_database

ROOT = pathlib.Path(__file__).parent.parent
STEM = NAME[:-2]
QUIET = Options(opinions=False)
MIXED = {b"%s%04d" % (STEM, n): HONEST[n % 4] for n in range(500)} | {
    STEM + b"0005": SHELL,
    STEM + b"0250": b"no pickle",
    b"no name": HONEST[0],
    **{b"%s%04d" % (STEM, 300 + n): attack.value() for n, attack in enumerate(ATTACKS[:40])},
}


@pytest.fixture
def tree(tmp_path):
    """A folder of an honest, a mixed, a small and an empty database, and something that cannot be looked at."""
    folder = tmp_path / "tree"
    folder.mkdir()
    make_database(folder / "honest", {b"%s%04d" % (STEM, n): HONEST[n % 4] for n in range(200)})
    make_database(folder / "mixed", MIXED)
    make_database(folder / "small", {NAME: HONEST[1]})
    make_database(folder / "empty", {})
    (folder / "gone").symlink_to(folder / "nowhere")
    return folder


def audit(*arguments):
    """The exit code of the command."""
    return main(["audit", *map(str, arguments)])


def shards(tmp_path, count, *arguments):
    """Judge all shards; return the files with their findings."""
    files = [tmp_path / f"part-{number}.json" for number in range(1, count + 1)]
    for number, file in enumerate(files, 1):
        assert audit(*arguments, "--shard", f"{number}/{count}", "--output", file, "--workers", "1") == 0
    return files


@pytest.mark.parametrize("count", [1, 2, 7])
def test_merged_shards_are_the_report_of_one_run(tree, tmp_path, capsys, count):
    """They are equal in every form and exit code, with second opinions and the checks of the whole database."""
    expected = {}
    for form in ("table", "json", "sarif", "html"):
        expected[form] = audit(tree, "--format", form), capsys.readouterr().out
    assert expected["json"][0] == 1
    assert '"opinion": "fickling' in expected["json"][1]
    files = shards(tmp_path, count, tree)
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)
    capsys.readouterr()
    for form, (exit_code, text) in expected.items():
        assert audit("--merge", "--format", form, *reversed(files)) == exit_code
        assert capsys.readouterr().out == text, form


@pytest.mark.parametrize("key", [STEM + b"0233", STEM + b"0470"])
def test_damage_is_told_as_in_one_run(tmp_path, capsys, key):
    """Earlier findings are in the report, for any shard that meets the damage."""
    database = make_database(tmp_path / "db", MIXED)
    damage_key(database, key)
    exit_code = audit(database, "--json")
    expected = capsys.readouterr().out
    assert "damaged" in json.loads(expected)["databases"][0]["error"]
    files = shards(tmp_path, 3, database)
    capsys.readouterr()
    assert audit("--merge", "--json", *files) == exit_code
    assert capsys.readouterr().out == expected


def test_a_shard_alone_is_no_verdict(tmp_path, capsys):
    """Its command says so, and prints no report."""
    database = make_database(tmp_path / "db", MIXED)
    shards(tmp_path, 2, database)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("shard 1/2: ")
    assert second.endswith("records judged; merge all shards for a verdict (--merge)")
    judged = [int(re.search(r": ([\d,]+) records", line)[1].replace(",", "")) for line in (first, second)]
    assert sum(judged) == len(MIXED)
    assert min(judged) > 200


def test_a_manifest_is_verified_by_every_shard(tmp_path, capsys):
    """Missing records and changed ones are found where one run finds them; other keys are other options."""
    database = make_database(tmp_path / "db", {b"%s%04d" % (STEM, n): HONEST[n % 4] for n in range(300)})
    signing, public = tmp_path / "publisher.key", tmp_path / "publisher.pub"
    key = SigningKey.generate()
    write_signing_key(signing, key)
    write_verify_key(public, key.verify_key)
    assert main(["sign", str(database), "--signing-key", str(signing), "--name", "n", "--version", "1"]) == 0
    records = {b"%s%04d" % (STEM, n): HONEST[n % 4] for n in range(300) if n not in (0, 70, 299)}
    shutil.rmtree(database)
    make_database(database, records | {STEM + b"0100": HONEST[1]})
    capsys.readouterr()
    assert audit(database, "--verify-key", public, "--json") == 1
    expected = capsys.readouterr().out
    assert json.loads(expected)["rules"]["record-missing"] == 3
    files = shards(tmp_path, 4, database, "--verify-key", public)
    capsys.readouterr()
    assert audit("--merge", "--verify-key", public, "--json", *files) == 1
    assert capsys.readouterr().out == expected
    assert audit("--merge", "--json", *files) == 2
    assert "was written with other options" in json.loads(capsys.readouterr().out)["databases"][0]["error"]


# Refusals.


@pytest.fixture
def parts(tmp_path):
    """A database and the results of its three shards."""
    database = make_database(tmp_path / "db", MIXED)
    files = [tmp_path / f"part-{number}.json" for number in (1, 2, 3)]
    for number, file in enumerate(files, 1):
        assert audit_shard([database], (number, 3), file, options=QUIET) > 0
    return database, files


@pytest.mark.threat("T20")
def test_missing_and_doubled_shards_are_refused(parts):
    """So are shards of another number of shards or of other databases; all three give the report."""
    database, files = parts
    other = files[0].with_name("other.json")
    audit_shard([database], (3, 4), other, options=QUIET)
    for chosen, words in (
        (files[:2], "shards are missing: 3/3; run them"),
        ([*files, files[1]], "shard 2/3 is given twice"),
        ([*files[:2], other], "belong to different audits"),
        ([*files[:2], files[0].with_name("none")], "does not exist"),
        ([], "no files to merge were given"),
    ):
        with pytest.raises(StoreError, match=words):
            audit_merged(chosen, options=QUIET)
    assert audit_merged(files, options=QUIET) == audit_many([database], options=QUIET)


@pytest.mark.threat("T20")
def test_shards_of_another_state_of_the_file_are_refused(parts):
    """After one more record, no shard counts."""
    database, files = parts
    make_database(database, {b"more": HONEST[0]})
    (report,) = audit_merged(files, options=QUIET)
    assert (report.verdict, report.checked) == ("undecided", 0)
    assert "the database changed after" in report.undecided


@pytest.mark.threat("T20")
def test_a_database_that_was_taken_away_after_it_was_judged_is_named(tree, tmp_path):
    """The missing one may be hostile, so the rest is not a verdict; with the database restored, all is well."""
    files = [tmp_path / "1", tmp_path / "2"]
    for number, file in enumerate(files, 1):
        audit_shard([tree], (number, 2), file, options=QUIET)
    whole = audit_merged(files, options=QUIET)
    (tree / "mixed").rename(tmp_path / "away")
    report = audit_merged(files, options=QUIET)[-1]
    assert (report.database, report.exit_code) == (str(tree / "mixed"), 2)
    assert "it does not exist any more" in report.undecided
    (tmp_path / "away").rename(tree / "mixed")
    assert audit_merged(files, options=QUIET) == whole


@pytest.mark.threat("T20")
def test_only_what_shards_have_written_is_merged(parts):
    """A part left out or made longer, another form, a file that others can write; the files as they were are merged."""
    database, files = parts
    kept = files[1].read_bytes()
    document = json.loads(kept)
    (section,) = document["databases"].values()
    (part,) = section["judged"]["parts"]

    def lying(**judged):
        return document | {"databases": {str(database): section | {"judged": section["judged"] | judged}}}

    for wrong in (
        [],
        document | {"schema": 9},
        document | {"databases": {}},
        document | {"databases": {str(database): []}},
        lying(parts=[]),
        lying(parts=[part, part]),
        lying(parts=[part | {"records": part["records"] + 1}]),
        lying(parts=[part | {"stop": None}]),
        lying(parts=[part | {"tally": part["tally"] | {"checked": 0}}]),
        lying(failed=3, parts=0),
    ):
        files[1].write_text(json.dumps(wrong))
        try:
            (report,) = audit_merged(files, options=QUIET)
        except StoreError:
            continue
        assert report.verdict == "undecided" or (report.verdict == "refused" and report.undecided), wrong
    files[1].write_bytes(kept)
    files[1].chmod(0o620)
    with pytest.raises(StoreError, match="can be changed by others"):
        audit_merged(files, options=QUIET)
    files[1].chmod(0o600)
    assert audit_merged(files, options=QUIET) == audit_many([database], options=QUIET)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["db", "--shard", "0/3", "--output", "x"], "expected the number of a shard and the number of shards"),
        (["db", "--shard", "4/3", "--output", "x"], "expected the number of a shard and the number of shards"),
        (["db", "--shard", "a", "--output", "x"], "expected the number of a shard and the number of shards"),
        (["db", "--shard", "1/3"], "--shard requires --output"),
        (["db", "--shard", "1/3", "--output", "x", "--json"], "--shard requires --output"),
        (["db", "--shard", "1/3", "--output", "x", "--sample", "3"], "--shard requires --output"),
        (["--merge", "x", "--workers", "3"], "--merge judges no values"),
        (["none", "--shard", "1/3", "--output", "x"], "no LMDB database here"),
        (["--merge", "none"], "the file none does not exist"),
    ],
)
def test_what_means_nothing_is_told_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, words):
    """Exit code 2; no file is made."""
    monkeypatch.chdir(tmp_path)
    make_database(tmp_path / "db", {NAME: HONEST[0]})
    assert audit(*arguments) == 2
    assert words in "".join(capsys.readouterr())
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten_unasked(parts, capsys):
    """The result of a shard is kept, unless --force."""
    database, files = parts
    before = files[0].read_bytes()
    command = [database, "--shard", "2/3", "--output", files[0]]
    assert audit(*command) == 2
    assert "exists" in capsys.readouterr().err
    assert files[0].read_bytes() == before
    assert audit(*command, "--force") == 0


def test_the_sample_script_for_slurm_runs(tmp_path, monkeypatch):
    """As in docs/audit.md: a loop replaces the array job, and the result is the report of one run."""
    make_database(tmp_path / "ben.lmdb", MIXED)
    script, merge = re.findall(
        r"```bash\n(#!/bin/bash\n.*?)```", (ROOT / "docs" / "audit.md").read_text("utf-8"), re.DOTALL
    )
    tasks = int(re.search(r"#SBATCH --array=1-(\d+)", script)[1])
    monkeypatch.setenv("PATH", f"{tmp_path}:{subprocess.os.environ['PATH']}")
    program = tmp_path / "ben-secure"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m ben_secure "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    small = script.replace(f"1-{tasks}", "1-3")
    (tmp_path / "shard.sh").write_text(small)
    (tmp_path / "merge.sh").write_text(merge)
    loop = (
        "for n in 1 2 3; do SLURM_ARRAY_TASK_ID=$n SLURM_ARRAY_TASK_COUNT=3 SLURM_CPUS_PER_TASK=1 bash shard.sh; done"
    )
    done = subprocess.run(["bash", "-ec", loop], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    merged = subprocess.run(["bash", "-e", "merge.sh"], cwd=tmp_path, capture_output=True, text=True)
    assert (merged.returncode, merged.stderr) == (1, "")
    whole = subprocess.run(
        [program, "audit", "ben.lmdb", "--format", "html"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (tmp_path / "report.html").read_text("utf-8") == whole.stdout
