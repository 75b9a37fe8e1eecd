"""An audit on a real Dask cluster, on loopback: the report of a local one, byte for byte, or a reason why not."""

import datetime
import io
import ipaddress
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import ben_secure
from ben_secure import MissingExtraError, PatchWriter, StoreError
from ben_secure.audit.judge.scan import Options
from ben_secure.audit.report.json_report import write_json
from ben_secure.audit.run import cluster as cluster_module
from ben_secure.audit.run.cluster import cluster, judge_batch
from ben_secure.audit.run.ranges import cut, open_pages
from ben_secure.audit.run.runner import Run, audit_database
from ben_secure.cli import main
from ben_secure.errors import Rule
from ben_secure.signing.keys import MacKey, MacKeySet, write_mac_keys
from ben_secure.signing.policy import Verification
from support.databases import HONEST, SHELL, damage_key, make_database

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")

TESTS = pathlib.Path(__file__).parent


class Processes:
    """A scheduler, and workers as they are asked for, each a process as an administrator would start it."""

    def __init__(self, folder, *options):
        self.folder = folder
        self.options = options
        self.environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(TESTS), *filter(None, sys.path)]),
            "PYTHONWARNINGS": "ignore",
            "BEN_SECURE_TEST_LOSES": "1",
        }
        self.running = []
        self.file = folder / "scheduler.json"
        self.scheduler = self._start("dask_scheduler", "--port", "0")
        until = time.monotonic() + 300
        while not self.file.exists() and time.monotonic() < until:
            time.sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]

    def workers(self, count):
        """Start workers until there are so many; they register by themselves."""
        while len(self.running) <= count:
            self._start("dask_worker", "--no-nanny", "--nthreads", "1", "--local-directory", str(self.folder))

    def _start(self, module, *options):
        with open(self.folder / f"{module}.log", "a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", str(self.file)]
                + ["--host", "127.0.0.1", "--no-dashboard", *options, *self.options],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        self.running.append(process)
        return process

    def end(self):
        """End what still runs."""
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A scheduler with two workers, without TLS."""
    processes = Processes(tmp_path_factory.mktemp("cluster"))
    processes.workers(2)
    yield processes
    processes.end()


def text_of(report):
    """The report as its JSON."""
    out = io.StringIO()
    write_json([report], out)
    return out.getvalue()


QUICK = Options(opinions=False)
"""Without fickling, which takes a second to start."""


def both(path, address, options=QUICK):
    """The reports of a local audit and of one on the cluster."""
    local = audit_database(path, options=options)
    with cluster(address, options) as runner:
        return local, audit_database(path, options=options, run=Run(runner=runner))


def mixed(path, records=700):
    """A database in which every seventh value is odd, of three batches."""
    values = [*HONEST, SHELL, b"no pickle"]
    return make_database(path, {b"%05d" % n: values[n % len(values)] for n in range(records)})


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Workers may take long to start where much else runs."""
    monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT_S", 60.0)


# The same report.


@pytest.mark.slow
@pytest.mark.threat("T14")
def test_the_report_is_that_of_a_local_audit(plain, tmp_path):
    """They are equal byte for byte, with hostile values, in several batches, in key order."""
    local, remote = both(mixed(tmp_path / "db"), plain.address, Options())
    assert remote.rules[Rule.FORBIDDEN_GLOBAL] == 100
    assert (remote.verdict, remote.checked, remote.undecided) == ("refused", 700, None)
    assert text_of(remote) == text_of(local)


@pytest.mark.slow
def test_the_command_line_gives_the_same_output(plain, tmp_path, capsys):
    """``--dask ADDRESS`` changes where values are judged and nothing else."""
    database = mixed(tmp_path / "db", 50)
    outputs = []
    for options in ([], ["--dask", plain.address]):
        assert main(["audit", str(database), "--no-fickling", "--format", "json", *options]) == 1
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]


@pytest.mark.slow
def test_real_archives_have_the_same_reports(plain, real_data):
    """For the databases that the original packages wrote."""
    for path in sorted(real_data.glob("legacy/numpy2*/s1_s2.lmdb")):
        local, remote = both(path, plain.address)
        assert text_of(remote) == text_of(local)
        assert remote.verdict == "clean"


@pytest.mark.slow
def test_several_databases_samples_and_interruptions_work_as_ever(plain, tmp_path):
    """One connection serves them all; closing it early leaves the cluster as it was."""
    database = mixed(tmp_path / "db", 600)
    clean = make_database(tmp_path / "clean", dict.fromkeys([b"a", b"b"], HONEST[0]))
    with cluster(plain.address, QUICK) as runner:
        assert audit_database(clean, options=QUICK, run=Run(runner=runner)).verdict == "clean"
        sample = audit_database(database, options=QUICK, run=Run(runner=runner, sample=10))
        assert (sample.checked, sample.sampled, sample.undecided) == (10, True, None)

        def interrupt(*_):
            raise KeyboardInterrupt

        assert audit_database(database, options=QUICK, run=Run(runner=runner, progress=interrupt)).exit_code == 130
        assert audit_database(clean, options=QUICK, run=Run(runner=runner)).verdict == "clean"


@pytest.mark.slow
def test_a_damaged_tree_is_undecided_as_it_is_locally(plain, tmp_path):
    """Records before the damage are judged in the cluster, too."""
    database = make_database(tmp_path / "db", {b"%0200d" % n: b"no pickle" for n in range(1000)})
    damage_key(database, b"%0200d" % 900)
    local, remote = both(database, plain.address)
    assert remote.undecided is not None
    assert remote.refused > 100
    assert text_of(remote) == text_of(local)


@pytest.mark.slow
@pytest.mark.threat("T2")
def test_a_value_that_kills_its_process_is_found(plain, tmp_path, monkeypatch):
    """The finding is the same as locally, for that value alone; the cluster's workers survive."""
    monkeypatch.setenv("BEN_SECURE_TEST_LOSES", "1")
    from support.losing_patch import KILLER, LosingPatch

    records = {b"%03d" % n: HONEST[0] for n in range(40)} | {KILLER: HONEST[0], b"z": SHELL}
    local, remote = both(
        make_database(tmp_path / "db", records), plain.address, Options(classes=(LosingPatch,), opinions=False)
    )
    assert [(finding.rule, finding.lmdb_key) for finding in remote.findings if str(finding.level) == "error"] == [
        (Rule.FORBIDDEN_GLOBAL, b"z"),
        (Rule.LOST, KILLER),
    ]
    assert text_of(remote) == text_of(local)
    with cluster(plain.address, QUICK) as runner:
        assert (
            audit_database(
                make_database(tmp_path / "db2", {b"a": HONEST[0]}), options=QUICK, run=Run(runner=runner)
            ).checked
            == 1
        )


# A cluster with TLS, which is taken apart at the end. Each test goes on where the one before has left it.


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A scheduler that talks TLS, with a certificate of its own, and no worker."""
    folder = tmp_path_factory.mktemp("tls")
    certificate(folder)
    names = {"ca-file": "cert.pem", "cert": "cert.pem", "key": "key.pem"}
    options = [part for name, file in names.items() for part in (f"--tls-{name}", str(folder / file))]
    processes = Processes(folder, "--protocol", "tls", *options)
    cert, private = str(folder / "cert.pem"), str(folder / "key.pem")
    with dask.config.set(
        {
            "distributed.comm.tls.ca-file": cert,
            "distributed.comm.tls.client.cert": cert,
            "distributed.comm.tls.client.key": private,
        }
    ):
        yield processes
    processes.end()


def certificate(folder):
    """A self-signed certificate for loopback, for an hour."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(alternative, critical=False)
        .sign(private, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)


@pytest.mark.slow
def test_a_cluster_without_workers_is_told(tls, monkeypatch):
    """The error comes after a bounded time."""
    monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT_S", 5.0)
    with (
        pytest.raises(StoreError, match=r"the cluster has no workers: .*; start some"),
        cluster(tls.address, QUICK),
    ):
        pass


@pytest.mark.slow
@pytest.mark.threat("T14")
def test_a_mac_key_travels_over_tls_only(tls, plain, tmp_path):
    """With TLS tags are checked as locally; without, nothing is sent."""
    tls.workers(1)
    mac_key = MacKey.generate()
    with PatchWriter(tmp_path / "db", mac_key=mac_key) as writer:
        writer["a"] = ben_secure.loads(HONEST[0])
    options = Options(verification=Verification(mac_key=mac_key), opinions=False)
    local, remote = both(tmp_path / "db", tls.address, options)
    assert (remote.verdict, text_of(remote)) == ("clean", text_of(local))
    with pytest.raises(StoreError, match="the MAC key would be sent"), cluster(plain.address, options):
        pass
    write_mac_keys(tmp_path / "team.jwks", MacKeySet(mac_key))
    arguments = ["audit", str(tmp_path / "db"), "--mac-key", str(tmp_path / "team.jwks")]
    assert main([*arguments, "--dask", plain.address]) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Dask forgets the socket
def test_a_scheduler_that_is_lost_during_the_audit_is_told(tls, tmp_path):
    """The report says so."""
    tls.workers(1)
    database = mixed(tmp_path / "db", 600)
    with cluster(tls.address, QUICK) as runner:
        report = audit_database(
            database, options=QUICK, run=Run(runner=runner, progress=lambda *_: tls.scheduler.kill())
        )
    assert "cluster" in report.undecided
    assert 0 < report.checked < 600


# Refusals.


@pytest.mark.parametrize(
    "address", ["", "localhost:8786", "http://localhost:8786", "tcp://", "tcp://a:b", "tcp://a b:1"]
)
def test_an_address_that_is_none_is_told(address):
    """Dask would make a cluster of its own of some, and look for others for a long time."""
    with (
        pytest.raises(StoreError, match="is not a scheduler address; expected tcp://HOST:PORT"),
        cluster(address, QUICK),
    ):
        pass


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch, capsys, tmp_path):
    """The error comes after a bounded time."""
    monkeypatch.setattr(cluster_module, "CONNECT_TIMEOUT_S", 0.5)
    database = make_database(tmp_path / "db", {b"a": HONEST[0]})
    assert main(["audit", str(database), "--dask", "tcp://127.0.0.1:1"]) == 2
    err = capsys.readouterr().err
    assert re.search(r"no scheduler of a Dask cluster answers at tcp://127\.0\.0\.1:1: .* after 0\.5 s", err)


def test_workers_of_this_machine_and_of_a_cluster_are_not_mixed(capsys):
    """``--workers`` says nothing to a cluster."""
    assert main(["audit", "db", "--dask", "tcp://127.0.0.1:1", "--workers", "2"]) == 2
    assert "--workers cannot be combined with --dask" in capsys.readouterr().err


def test_without_dask_the_message_names_it(monkeypatch):
    """Nothing else of the audit needs Dask."""
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match="pip install distributed"), cluster("tcp://a:1", QUICK):
        pass


@pytest.mark.slow
@pytest.mark.threat("T14")
def test_another_version_on_a_worker_is_told(plain, monkeypatch):
    """Its findings could differ from ours; a worker without ben_secure has none."""
    monkeypatch.setattr(ben_secure, "__version__", "9.9")
    with (
        pytest.raises(StoreError, match=r"worker tcp://\S+ .* another version of ben_secure: expected 9.9, found"),
        cluster(plain.address, QUICK),
    ):
        pass

    def missing():
        raise ModuleNotFoundError("No module named 'ben_secure'")

    monkeypatch.setattr(cluster_module, "installed_version", missing)
    with (
        pytest.raises(StoreError, match="found ModuleNotFoundError: No module named 'ben_secure'"),
        cluster(plain.address, QUICK),
    ):
        pass


# The code in a worker, and the parsing of its answers; without a cluster.


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Two ranges of three records."""
    path = str(make_database(tmp_path_factory.mktemp("batch") / "db", {b"%d" % n: HONEST[0] for n in range(6)}))
    with open_pages(path, QUICK) as pages:
        return list(cut(pages, path, QUICK, 3))


@pytest.fixture(scope="module")
def answer(batch):
    """The answer of an honest cluster."""
    return judge_batch(ben_secure.__version__, batch, 60.0)


def test_a_batch_is_judged_if_version_and_path_are_right(batch, answer):
    """The worker of a cluster may be set up otherwise than this machine."""
    assert [task for task, _ in cluster_module._parse_answer(batch, answer)] == batch
    assert [tally.checked for _, tally in cluster_module._parse_answer(batch, answer)] == [3, 3]
    with pytest.raises(StoreError, match=f"has ben_secure {ben_secure.__version__}, expected 9.9"):
        judge_batch("9.9", batch, 60.0)
    unseen = [replace(task, path=task.path + "2") for task in batch]
    with pytest.raises(StoreError, match=r"does not see .*/db2; mount the file system there"):
        judge_batch(ben_secure.__version__, unseen, 60.0)


def changed(answer, change):
    """An answer with something in it changed."""
    document = json.loads(answer)
    change(document)
    return json.dumps(document)


LIES = {
    "no JSON": lambda answer: answer[:-1],
    "a list": lambda answer: "[]",
    "deep": lambda answer: "[" * 100_000,
    "a number": lambda answer: "7",
    "another member": lambda answer: changed(answer, lambda d: d.update(more=1)),
    "no parts": lambda answer: changed(answer, lambda d: d.update(parts=None)),
    "a part is missing": lambda answer: changed(answer, lambda d: d["parts"].pop()),
    "a part twice": lambda answer: changed(answer, lambda d: d["parts"].append(d["parts"][0])),
    "parts in another order": lambda answer: changed(answer, lambda d: d["parts"].reverse()),
    "a later end": lambda answer: changed(answer, lambda d: d["parts"][0].update(stop=None)),
    "an end before the start": lambda answer: changed(answer, lambda d: d["parts"][0].update(stop="")),
    "fewer records": lambda answer: changed(answer, lambda d: d["parts"][0].update(records=2)),
    "records below none": lambda answer: changed(answer, lambda d: d["parts"][0].update(records=-3)),
    "a tally of fewer": lambda answer: changed(answer, lambda d: d["parts"][0]["tally"].update(checked=2)),
    "a rule that is none": lambda answer: changed(answer, lambda d: d["parts"][0]["tally"].update(rules={"x": 1})),
}


@pytest.mark.threat("T14")
@pytest.mark.parametrize("lie", LIES)
def test_an_answer_must_be_about_what_was_asked(batch, answer, lie):
    """Any other answer is reported as an error; the honest answer is accepted."""
    assert len(list(cluster_module._parse_answer(batch, answer))) == 2
    with pytest.raises(StoreError, match="the cluster sent an invalid answer"):
        list(cluster_module._parse_answer(batch, LIES[lie](answer)))


def test_an_answer_that_ends_early_says_why(batch, answer):
    """The error is the same as in a local audit, after the judged records."""
    early = changed(answer, lambda d: d.update(parts=d["parts"][:1], failed="too many\x1b were lost"))
    parts = cluster_module._parse_answer(batch, early)
    assert next(parts)[0] == batch[0]
    with pytest.raises(StoreError, match=r"too many\\x1b were lost"):
        next(parts)


class Broken:
    """A client whose tasks fail in one way."""

    def __init__(self, error):
        self.status = "error" if error else "cancelled"
        self.error = error

    def exception(self, timeout):
        return self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (distributed.KilledWorker("task", None, 3), "could not judge records 0 to 5: KilledWorker: "),
        (TimeoutError("of the task"), "could not judge records 0 to 5: TimeoutError: of the task"),
        (MemoryError("\x1b"), r"could not judge records 0 to 5: MemoryError: \\x1b; see the logs"),
        (StoreError("of the worker"), "^of the worker$"),
        (None, "the connection to the cluster was lost"),
    ],
)
def test_what_goes_wrong_in_the_cluster_is_told(batch, error, message):
    """Errors of any class are reported; our own errors keep their class."""
    broken = Broken(error)
    with pytest.raises(StoreError, match=message):
        cluster_module._answer(broken, batch, broken)


# The end of the first cluster.


@pytest.mark.slow
def test_workers_that_are_lost_during_the_audit_are_told(plain, tmp_path, monkeypatch):
    """The error comes after a bounded time, and the report has the earlier findings."""
    monkeypatch.setattr(cluster_module, "PATIENCE_S", 1.0)
    database = mixed(tmp_path / "db", 600)
    with cluster(plain.address, QUICK) as runner:

        def end_workers(*_):
            for process in plain.running[1:]:
                process.kill()

        report = audit_database(database, options=QUICK, run=Run(runner=runner, progress=end_workers))
    assert report.undecided == "the cluster had no workers for 1 s; find out why they ended"
    assert 0 < report.checked < 600
