"""The rounds of ``bench_sign.py``; runs inside its virtual environment and prints one JSON object."""

import hashlib
import hmac
import json
import os
import pathlib
import pickle
import platform
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from functools import partial

import _common
import _load_rounds
import lmdb
import model_signing
from _load_rounds import seen, stacks
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

import ben_secure
from ben_secure.pages.reader import PageReader
from ben_secure.signing._record_list import write_record_list
from ben_secure.signing.envelope import sign_statement
from ben_secure.signing.hashing import Algorithm
from ben_secure.signing.keys import MacKey, SigningKey, Suite, write_verify_key
from ben_secure.signing.manifest import open_manifest
from ben_secure.signing.policy import Verification
from ben_secure.signing.statement import Statement
from ben_secure.store.change.digests import record_digests
from ben_secure.store.change.sign import sign_database
from ben_secure.store.change.verify import verify

PUBLISHER = SigningKey.generate()
MAC_KEYS = {suite.name: MacKey.generate(suite) for suite in Suite}
RELEASE = {"name": "benchmark", "version": "1", "created": datetime(2026, 1, 1, tzinfo=timezone.utc)}
RECORDS = 600_000
ROUNDS = 7

figures: dict[str, dict] = {}
rows: list[dict] = []


def figure(name, value, unit):
    figures[name] = {"value": value, "unit": unit}
    return value


def row(what, value, *, at_most=None, at_least=None):
    rows.append({"what": what, "value": value, "at_most": at_most, "at_least": at_least})


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


# One patch, on one core.


def ways_of_one_patch(folder):
    """Every way to read a patch, as a function of its name, and the cost of the hash that verification needs."""
    _load_rounds.build(folder)
    plain = f"{folder}/s2.canonical"
    reader = ben_secure.PatchReader(plain)
    values = {name: reader.raw(name) for name in reader}
    sign_database(plain, [PUBLISHER], **RELEASE)
    listed = ben_secure.PatchReader(plain, verify_key=PUBLISHER.verify_key, name="benchmark", version="1")
    tagged = {}
    for suite, mac_key in MAC_KEYS.items():
        with ben_secure.PatchWriter(f"{folder}/s2.{suite}", mac_key=mac_key, context="benchmark") as writer:
            for name, patch in reader.items():
                writer[name] = patch
        tagged[suite] = ben_secure.PatchReader(f"{folder}/s2.{suite}", mac_key=mac_key, context="benchmark")
    environment = lmdb.open(f"{folder}/s2.legacy", readonly=True, lock=False, readahead=False)
    secret = bytes(32)

    def original(name):
        with environment.begin(buffers=False) as transaction:
            return stacks(pickle.loads(transaction.get(name.encode())))

    return list(values), {
        "original: get + loads + stacks": original,
        "bare SHA-256": lambda name: hashlib.sha256(values[name]).digest(),
        "bare HMAC-SHA-256": lambda name: hmac.digest(secret, values[name], "sha256"),
        "bare AES-256-GMAC": lambda name: AESGCM(secret).encrypt(bytes(12), b"", values[name]),
        # After hashing, the caches hold the value and nothing else; two loops of one way each would not show that.
        "SHA-256, then unverified": lambda name: (hashlib.sha256(values[name]).digest(), stacks(reader[name])),
        "HMAC-SHA-256, then unverified": lambda name: (
            hmac.digest(secret, values[name], "sha256"),
            stacks(reader[name]),
        ),
        "unverified: reader + stacks": lambda name: stacks(reader[name]),
        "manifest: reader + stacks": lambda name: stacks(listed[name]),
        "HS256: reader + stacks": lambda name: stacks(tagged["HS256"][name]),
        "A256GMAC: reader + stacks": lambda name: stacks(tagged["A256GMAC"][name]),
    }


BUDGETS = [
    (["manifest: reader + stacks"], ["SHA-256, then unverified"], 1.15),
    (["manifest: reader + stacks"], ["bare SHA-256", "unverified: reader + stacks"], None),
    (["HS256: reader + stacks"], ["HMAC-SHA-256, then unverified"], 1.05),
    (["HS256: reader + stacks"], ["bare HMAC-SHA-256", "unverified: reader + stacks"], None),
    (["HS256: reader + stacks"], ["original: get + loads + stacks"], None),
    (["A256GMAC: reader + stacks"], ["unverified: reader + stacks"], 2.2),
    (["A256GMAC: reader + stacks"], ["original: get + loads + stacks"], 0.18),
    (["A256GMAC: reader + stacks"], ["HS256: reader + stacks"], None),
]


def rounds(turns, seconds):
    """Interleaved rounds; the CPU times of every way, in seconds a patch."""
    samples = {way: [] for way in turns}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(samples[min(samples)]) < ROUNDS:
        for way in random.sample(list(turns), len(turns)):
            samples[way].append(turns[way]())
    return samples


def one_patch(folder, seconds):
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    names, ways = ways_of_one_patch(folder)
    samples = rounds({way: seen(function, names) for way, function in ways.items()}, seconds)
    medians = {way: figure(way, statistics.median(found) * 1e6, "us") for way, found in samples.items()}
    for ours, theirs, budget in BUDGETS:
        ratio = sum(medians[way] for way in ours) / sum(medians[way] for way in theirs)
        row(f"{' + '.join(ours)} / ({' + '.join(theirs)})", ratio, at_most=budget)
    os.sched_setaffinity(0, cores)


# A manifest by each hash: CPU time, which other users of the machine do not change much.


def by_hash(folder, without_sha):
    path, _, count = database(folder, "hashed", 100)
    pages = PageReader(path)

    def sign(algorithm):
        target = f"{folder}/{algorithm.value}"
        sign_database(path, [PUBLISHER], **RELEASE, algorithm=algorithm, manifest=target, overwrite=True)

    def verify_all(algorithm):
        verification = Verification(verify_key=PUBLISHER.verify_key, manifest=f"{folder}/{algorithm.value}")
        if verify(pages, verification).refused:
            raise SystemExit("the database is not as signed")

    ways = {(what.__name__, each): partial(what, each) for what in (sign, verify_all) for each in Algorithm}
    samples = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, function in ways.items():
            start = time.process_time()
            function()
            samples[way].append(time.process_time() - start)
    for what in ("sign", "verify_all"):
        sha256, blake3 = (
            figure(f"{what}, {each.value}, CPU", statistics.median(samples[what, each]) / count * 1e6, "us a value")
            for each in Algorithm
        )
        row(f"CPU time of {what}: SHA-256 / BLAKE3", sha256 / blake3, at_least=5 if without_sha else None)


WITHOUT_SHA = ":~0x20000000"
"""For OPENSSL_ia32cap: all that the processor has but SHA instructions (CPUID leaf 7, EBX, bit 29)."""


def without_sha(folder, seconds):
    """Repeat with one patch in a process whose OpenSSL has no SHA instructions, like many clusters' processors."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return
    os.mkdir(folder)
    command = [sys.executable, "-W", "ignore", os.path.abspath(__file__), folder, str(seconds), "0"]
    environment = os.environ | {"OPENSSL_ia32cap": WITHOUT_SHA}
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout)
    for name, measured in found["figures"].items():
        figure(f"no SHA instructions, {name}", measured["value"], measured["unit"])
    rows.extend(measured | {"what": f"no SHA instructions, {measured['what']}"} for measured in found["rows"])


# A manifest of all of BigEarthNet.

OPEN = """
import json, sys, time
from ben_secure.signing.keys import read_verify_key
from ben_secure.signing.manifest import open_manifest

def peak():  # of this program; ru_maxrss would count the one that started it
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

key = read_verify_key(sys.argv[2])
before = peak()
start = time.perf_counter()
manifest = open_manifest(sys.argv[1], [key])
seconds = time.perf_counter() - start
after = peak()
lmdb_keys = [lmdb_key for number, (lmdb_key, _) in enumerate(manifest) if number % 60 == 0]
start = time.perf_counter()
for lmdb_key in lmdb_keys:
    manifest.digest_of(lmdb_key)
lookup = (time.perf_counter() - start) / len(lmdb_keys)
json.dump([len(manifest), seconds, after, before, lookup], sys.stdout)
"""


def opening(folder):
    path = pathlib.Path(folder, "large.manifest")
    names = sorted(b"S2A_MSIL2A_%08dT101031_%d_%d" % (n // 3000, n % 3000 // 60, n % 60) for n in range(RECORDS))
    with path.open("wb") as file:
        written = write_record_list(((name, hashlib.sha256(name).digest()) for name in names), file)
    digest = written.sha256.hex()
    statement = Statement(**RELEASE, count=RECORDS, manifest_sha256=digest, tool_version="0")
    path.with_name("large.manifest.dsse.json").write_bytes(sign_statement(statement, [PUBLISHER]))
    key = f"{folder}/publisher.pem"
    write_verify_key(key, PUBLISHER.verify_key)
    found = []
    for _ in range(ROUNDS):
        done = subprocess.run([sys.executable, "-c", OPEN, str(path), key], check=True, stdout=subprocess.PIPE)
        found.append(json.loads(done.stdout))
    count, seconds, megabytes, before, lookup = (statistics.median(column) for column in zip(*found, strict=True))
    figure("manifest file", path.stat().st_size / 2**20, "MiB")
    figure("memory of a process before it opens it", before, "MiB")
    figure("one lookup", lookup * 1e6, "us")
    row(f"seconds to open a manifest of {count:,.0f} records", seconds, at_most=0.5)
    row("MiB of the whole process with it open", megabytes, at_most=150)


# A whole database, on all cores.


def database(folder, name, megabytes):
    """Make a database of the patches of ``one_patch``, each many times under other names."""
    path = f"{folder}/{name}"
    with ben_secure.PatchReader(f"{folder}/s2.canonical") as reader:
        values = [reader.raw(name) for name in reader]
    count = megabytes * 10**6 // len(values[0])
    environment = lmdb.open(path, map_size=megabytes * 2**21, sync=False)
    with environment, environment.begin(write=True) as transaction:
        for number in range(count):
            transaction.put(b"S2A_MSIL2A_20170613T101031_%08d" % number, values[number % len(values)], append=True)
    return path, values, count


def hashlib_only(values, count, threads):
    """Hash as many bytes as the database has, from values in memory."""

    def work():
        for number in range(count // threads):
            hashlib.sha256(values[number % len(values)]).digest()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def hashlib_of_file(path):
    """Hash the data file as ``sha256sum`` does: in one thread, through a small buffer."""
    digest, buffer = hashlib.sha256(), bytearray(2**18)
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(memoryview(buffer)[:size])


def throughput(path, values, count):
    cores = len(os.sched_getaffinity(0))
    pages = PageReader(path)

    def sign():
        sign_database(path, [PUBLISHER], **RELEASE, overwrite=True)

    def verify():
        if any(open_manifest(f"{path}.manifest", [PUBLISHER.verify_key]).diff(record_digests(pages))):
            raise SystemExit("the database is not as signed")

    ways = {
        "hashlib.sha256 of the file, one thread": lambda: hashlib_of_file(f"{path}/data.mdb"),
        "hashlib.sha256 in memory, one thread": lambda: hashlib_only(values, count, 1),
        f"hashlib.sha256 in memory, {cores} threads": lambda: hashlib_only(values, count, cores),
        "digests of all values": lambda: sum(1 for _ in record_digests(pages)),
        "sign": sign,
        "verify": verify,
    }
    if shutil.which("openssl"):
        command = ["openssl", "dgst", "-sha256", f"{path}/data.mdb"]
        ways["openssl dgst -sha256"] = lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    samples = {way: [] for way in ways}
    sign()  # warm
    for _ in range(ROUNDS):
        for way, function in ways.items():
            samples[way].append(timed(function))
    size = count * len(values[0]) / 1e9
    speed = {way: figure(way, size / statistics.median(found), "GB/s") for way, found in samples.items()}
    file, memory, threads, ours, *_ = speed.values()
    # A program that hashes a file copies it from the page cache as we do; hashing what is in memory already is faster.
    row(f"digests of all values / (hashlib.sha256 of the file, one thread, times {cores})", ours / file / cores)
    row(f"digests of all values / (hashlib.sha256 in memory, one thread, times {cores})", ours / memory / cores)
    row(f"digests of all values / hashlib.sha256 in memory, {cores} threads", ours / threads)
    if "openssl dgst -sha256" in speed:
        openssl = speed["openssl dgst -sha256"]
        row(f"digests of all values / (openssl dgst -sha256, times {cores})", ours / openssl / cores, at_least=0.8)
        for way in ("sign", "verify"):
            row(f"throughput: {way} / openssl dgst -sha256", speed[way] / openssl)


# The first verified patch, against a signature over the whole file.


def first_patch(folder, path):
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pathlib.Path(folder, "ec.pem").write_bytes(pem)
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    pathlib.Path(folder, "ec.pub").write_bytes(public)
    signature = f"{folder}/model.sig"
    model_signing.signing.Config().use_elliptic_key_signer(private_key=f"{folder}/ec.pem").sign(path, signature)
    name = "S2A_MSIL2A_20170613T101031_00000100"

    def theirs():
        config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=f"{folder}/ec.pub")
        config.verify(path, signature)
        with ben_secure.PatchReader(path) as reader:
            stacks(reader[name])

    def ours():
        with ben_secure.PatchReader(path, verify_key=PUBLISHER.verify_key) as reader:
            stacks(reader[name])

    times = {way: [] for way in (theirs, ours)}
    for _ in range(ROUNDS):
        for way, found in times.items():
            found.append(timed(way))
    medians = [statistics.median(found) * 1e3 for found in times.values()]
    figure("first verified patch, model signing", medians[0], "ms")
    figure("first verified patch, manifest", medians[1], "ms")
    row("time to the first verified patch: manifest / model signing", medians[1] / medians[0], at_most=0.1)


def main():
    _common.check_origin(ben_secure)
    folder, seconds, megabytes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    one_patch(folder, seconds)
    by_hash(folder, without_sha=not megabytes)
    if megabytes:  # not in the process of without_sha
        without_sha(f"{folder}/without_sha", seconds)
        opening(folder)
        path, values, count = database(folder, "database", megabytes)
        throughput(path, values, count)
        first_patch(folder, path)
    json.dump({"figures": figures, "rows": rows}, sys.stdout)


if __name__ == "__main__":
    main()
