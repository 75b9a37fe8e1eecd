"""Databases on servers: few requests, one version, every value verified, and no credentials in any text."""

import base64
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import traceback
import tracemalloc

import pytest

from ben_secure import MissingExtraError, PatchReader, StoreError, UntrustedDataError
from ben_secure.audit import Options
from ben_secure.audit.run.remote import audit_remote
from ben_secure.audit.run.runner import Run
from ben_secure.cli import main
from ben_secure.pages.reader import PageReader
from ben_secure.remote import range_file
from ben_secure.remote.addresses import Url, redacted, without_credentials
from ben_secure.signing.keys import MacKey, SigningKey, write_key_pair, write_verify_key
from ben_secure.signing.policy import Verification
from ben_secure.store.change.sign import sign_database, sign_release
from ben_secure.store.change.verify import verify, verify_sample
from support.databases import SHELL, make_database
from support.patch_databases import KEY, database, patches
from support.range_server import etag_of, serving
from support.releases import CREATED

pytest.importorskip("aiohttp", reason="needs the extra [remote]")
fsspec = pytest.importorskip("fsspec", reason="needs the extra [remote]")

PUBLISHER, STRANGER = SigningKey.generate(), SigningKey.generate()
PATCHES = patches(12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A signed and tagged database of patches, and a deep one of raw values."""
    folder = tmp_path_factory.mktemp("served")
    database(folder / "x.lmdb", PATCHES, mac_key=KEY, context="c")
    sign_database(folder / "x.lmdb", [PUBLISHER], name="X", version="1", created=CREATED)
    make_database(folder / "deep.lmdb", {b"%0500d" % number: b"%d" % number * 900 for number in range(500)})
    return folder


@pytest.fixture
def server(folder, monkeypatch):
    """A server of these that a test may let misbehave."""
    monkeypatch.setattr(range_file, "_PAUSES_S", (0.0, 0.0))
    with serving(folder) as server:
        yield server


def test_few_requests(server):
    """At most six to open a deep database, two for a value when the branch pages above it were read, one for a page."""
    with PageReader(server.url("deep.lmdb/data.mdb")) as pages:
        assert pages.facts.depth >= 4
        assert len(server.requests) <= 6
        keys = list(pages.keys())
        assert keys == [b"%0500d" % number for number in range(500)]
        before = len(server.requests)
        assert pages.get(keys[350]) == b"350" * 900
        assert len(server.requests) - before <= 2
        before = len(server.requests)
        assert list(pages.items(keys[200], keys[210])) == [(key, pages.get(key)) for key in keys[200:210]]
        assert len(server.requests) - before <= 2 * 10 + 10
    assert {path for path, _ in server.requests} == {"/deep.lmdb/data.mdb"}
    assert all(span is not None for _, span in server.requests)


def test_a_folder_or_a_file_or_with_a_query(server):
    """A URL names a database as a path does; one with a query is good for one object only."""
    for path, first in (
        ("x.lmdb", "/x.lmdb/data.mdb"),
        ("x.lmdb/data.mdb", "/x.lmdb/data.mdb"),
        ("x.lmdb/data.mdb?sig=1", "/x.lmdb/data.mdb?sig=1"),
    ):
        server.requests.clear()
        with PatchReader(server.url(path)) as reader:
            assert list(reader) == sorted(PATCHES)
        assert server.requests[0][0] == first
    server.requests.clear()
    with pytest.raises(StoreError, match="the object does not exist"):
        PatchReader(server.url("x.lmdb?sig=1"))
    assert len(server.requests) == 1


def test_patches_are_those_of_the_local_database(server, folder):
    """One by one, many at a time, in any order, by threads, pickled; raw values and absent names too."""
    names = [*reversed(PATCHES), "patch 3"]
    with PatchReader(folder / "x.lmdb") as local, PatchReader(server.url("x.lmdb")) as reader:
        assert len(reader) == len(local)
        assert reader.facts == local.facts
        server.delay_s, server.most_at_once = 0.02, 0
        assert [patch.dumps() for patch in reader.get_many(names)] == [local[name].dumps() for name in names]
        assert server.most_at_once > 4
        assert reader.raw("patch 5") == local.raw("patch 5")
        assert "nope" not in reader
        with pytest.raises(KeyError, match="no patch named nope"):
            reader.get_many(["nope"])
        with pickle.loads(pickle.dumps(reader)) as copy:
            assert copy["patch 1"].dumps() == local["patch 1"].dumps()
    with pytest.raises(ValueError, match="closed"):
        reader["patch 1"]


def test_threads_share_a_request(server):
    """A page that several threads need is fetched once."""
    with PageReader(server.url("deep.lmdb/data.mdb")) as pages:
        server.delay_s = 0.05
        from concurrent.futures import ThreadPoolExecutor

        before = len(server.requests)
        with ThreadPoolExecutor(8) as pool:
            values = list(pool.map(pages.get, [b"%0500d" % 400] * 8))
        assert set(values) == {b"400" * 900}
        assert len(server.requests) - before <= pages.facts.depth + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on(server):
    """The child has its own connections."""
    with PatchReader(server.url("x.lmdb")) as reader:
        reader["patch 0"]
        child = os.fork()
        if child == 0:
            os._exit(0 if reader["patch 11"].dumps() == PATCHES["patch 11"].dumps() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert reader["patch 2"].dumps() == PATCHES["patch 2"].dumps()


@pytest.mark.threat("T22")
@pytest.mark.parametrize("honest", [True, False], ids=["If-Match", "ignored"])
def test_a_changed_object_is_an_error(server, folder, tmp_path, honest):
    """Even if the server ignores If-Match, and for a copy of the reader. Opening again reads the new version."""
    name = f"{honest}.lmdb"
    database(folder / name, patches(3, start=1))
    if not honest:
        server.answer = lambda handler, content, span: handler.partial(content, *span) or True
    with PatchReader(server.url(name)) as reader:
        assert reader["patch 1"].dumps() == PATCHES["patch 1"].dumps()
        travelled = pickle.dumps(reader)
        (folder / name / "data.mdb").unlink()
        database(tmp_path / "new", patches(3, start=2))
        os.replace(tmp_path / "new/data.mdb", folder / name / "data.mdb")
        with pytest.raises(StoreError, match="was changed after it was opened"):
            reader["patch 2"]
        with pytest.raises(StoreError, match="was changed after it was opened"):
            pickle.loads(travelled)
    with PatchReader(server.url(name)) as reader:
        assert reader["patch 4"].dumps() == PATCHES["patch 4"].dumps()


def range_of(content, span):
    """The header for a span of the content."""
    return f"bytes {span[0]}-{span[1] - 1}/{len(content)}"


BAD_ANSWERS = {
    "none at all": (lambda h, c, s: h.reply(200, c, {"ETag": etag_of(c)}), "ignores range requests"),
    "no ETag": (lambda h, c, s: h.partial(c, *s, ETag=None), "no version or strong ETag"),
    "weak ETag": (lambda h, c, s: h.partial(c, *s, ETag="W/" + etag_of(c)), "no version or strong ETag"),
    "compressed": (lambda h, c, s: h.partial(c, *s, Content_Encoding="gzip"), "compresses"),
    "another range": (lambda h, c, s: h.partial(c, s[0] + 1, s[1]), "does not answer range requests"),
    "no range": (lambda h, c, s: h.partial(c, *s, Content_Range=None), "does not answer range requests"),
    "no size": (
        lambda h, c, s: h.partial(c, *s, Content_Range=range_of(c, s).partition("/")[0] + "/*"),
        "does not answer range",
    ),
    "forbidden": (lambda h, c, s: h.reply(403), "refuses access"),
    "gone": (lambda h, c, s: h.reply(410), "the object does not exist"),
    "a teapot": (lambda h, c, s: h.reply(418), "status 418"),
    "always busy": (lambda h, c, s: h.reply(503), "status 503, in all of 3 attempts"),
    "too short": (lambda h, c, s: h.partial(c, s[0], s[1] - 9, Content_Range=range_of(c, s)), "connection failed"),
}


@pytest.mark.threat("T22")
@pytest.mark.parametrize(("answer", "message"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_servers_that_cannot_serve_ranges(server, answer, message):
    """The error describes the server's behaviour, on opening and on reading; the whole database is never fetched."""
    url = server.url("x.lmdb/data.mdb")
    with PatchReader(url) as reader:
        server.answer = lambda *arguments: answer(*arguments) is None
        with pytest.raises(StoreError, match=message):
            reader["patch 7"]
        with pytest.raises(StoreError, match=message):
            PatchReader(url)
        server.answer = lambda *arguments: False
        assert reader["patch 7"].dumps() == PATCHES["patch 7"].dumps()


def test_what_passes_is_tried_again(server):
    """Requests to busy servers and lost connections are repeated a bounded number of times."""
    troubles = []

    def answer(handler, content, span):
        if len(troubles) == 2:
            return False
        troubles.append(span)  # first, because the client asks again at once
        if len(troubles) == 1:
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            handler.reply(503)
        return True

    server.answer = answer
    with PatchReader(server.url("x.lmdb/data.mdb")) as reader:
        assert len(troubles) == 2
        assert reader["patch 0"].dumps() == PATCHES["patch 0"].dumps()


def test_a_server_that_is_silent(server, monkeypatch):
    """Ends in an error in a bounded time."""
    from ben_secure.remote import _web

    monkeypatch.setattr(_web, "_SILENCE_S", 0.1)
    server.delay_s = 1
    with pytest.raises(StoreError, match="does not answer in time, in all of 3 attempts"):
        PatchReader(server.url("x.lmdb/data.mdb"))
    server.delay_s = 0
    PatchReader(server.url("x.lmdb/data.mdb")).close()


@pytest.mark.threat("T22")
def test_credentials_are_in_no_text(server):
    """They reach the server that they are for, and neither messages nor reprs nor another server."""
    seen = []

    def answer(handler, content, span):
        seen.append((handler.server.server_port, handler.path, handler.headers.get("Authorization")))
        return False

    server.answer = answer
    url = server.url("x.lmdb/data.mdb?sig=s3cret", "me:s3cret%2F@")
    verification = Verification(verify_key=PUBLISHER.verify_key, manifest=server.url("x.lmdb.manifest?sig=s3cret"))
    texts = [repr(verification), repr(Url(url)), str(Url(url)), redacted(url), without_credentials(f"no {url}.")]
    with PatchReader(url, verification=verification) as reader:
        texts += [repr(reader), reader.path, str(reader.verified)]
        for name in ("nope", "patch 1"):
            server.answer = lambda handler, content, span: handler.reply(500) is None
            try:
                reader[name]
            except (StoreError, KeyError) as error:
                texts += [str(error), repr(error), "".join(traceback.format_exception(error))]
        for bad in (
            url.replace("data", "nope"),
            url.replace("http:", "http:///"),
            url.replace("127.0.0.1", "nowhere.invalid"),
        ):
            try:
                PatchReader(bad)
            except StoreError as error:
                texts += [str(error), error.database, "".join(traceback.format_exception(error))]
        server.answer = lambda *arguments: False
        with pytest.raises(UntrustedDataError) as refusal:
            PatchReader(url, verify_key=STRANGER.verify_key, manifest=verification.manifest)
        texts += [str(refusal.value)]
    assert len(texts) >= 20
    assert not [text for text in texts if "s3cret" in text]
    expected = "Basic " + base64.b64encode(b"me:s3cret/").decode()
    assert {(path, header) for _, path, header in seen} == {
        ("/x.lmdb/data.mdb?sig=s3cret", expected),
        ("/x.lmdb.manifest.dsse.json?sig=s3cret", None),
        ("/x.lmdb.manifest?sig=s3cret", None),
    }


@pytest.mark.threat("T22")
@pytest.mark.parametrize("huge", [2**24, 2**40, 2**58])
def test_memory_does_not_depend_on_what_a_server_claims(server, huge):
    """A database that claims to be huge takes the memory of a small one; so does a manifest before verification."""
    asked = []

    def lie(handler, content, span):
        if not handler.path.endswith("data.mdb"):
            return False
        content = bytearray(content)
        for meta in (0, 4096):  # map size, number of the last page
            struct.pack_into("<Q", content, meta + 32, huge)
            struct.pack_into("<Q", content, meta + 136, huge // 4096 - 1)
        content += bytes(max(0, 2**16 - len(content)))
        asked.append(span)
        handler.partial(bytes(content), *span, Content_Range=f"bytes {span[0]}-{span[1] - 1}/{huge}")
        return True

    server.answer = lie
    with PageReader(server.url("x.lmdb")) as pages:
        tracemalloc.start()
        try:
            assert len(list(pages.keys())) == 12
            assert tracemalloc.get_traced_memory()[1] < 2**24
        finally:
            tracemalloc.stop()
    assert asked


@pytest.mark.threat("T22")
@pytest.mark.parametrize("signed", [True, False])
def test_the_size_of_a_manifest_is_bounded_by_its_signature(server, signed):
    """The manifest of a sample is asked for when its envelope has verified, and no further than it says."""
    key = PUBLISHER if signed else STRANGER
    verification = Verification(verify_key=key.verify_key)

    def lie(handler, content, span):
        if handler.path.endswith("data.mdb"):
            content = bytearray(content)
            for meta in (0, 4096):  # entries
                struct.pack_into("<Q", content, meta + 120, 2**40)
            handler.partial(bytes(content), *span, Content_Range=f"bytes {span[0]}-{span[1] - 1}/{2**50}")
            return True
        if handler.path.endswith(".manifest"):
            asked.append(handler.headers["Range"])
            handler.partial(content, *span, Content_Range=f"bytes {span[0]}-{span[1] - 1}/{2**45}")
            return True
        return False

    asked = []
    server.answer = lie
    report = audit_remote(server.url("x.lmdb"), options=Options(verification=verification), run=Run(sample=4))
    assert report.exit_code != 0
    assert max([int(span.rpartition("-")[2]) for span in asked], default=0) <= 2**16
    assert bool(asked) is signed


@pytest.mark.threat("T22")
@pytest.mark.parametrize("url", ["https://me:s3cret@host/x.lmdb?sig=s3cret", "S3://s3cret/x"])
def test_nothing_is_written_to_a_url(folder, tmp_path, monkeypatch, capsys, url):
    """A URL where a command writes is refused at once and not shown; a path is written to."""
    monkeypatch.chdir(tmp_path)
    write_key_pair("p.pem", "p.pem.pub", PUBLISHER)
    release = ["--signing-key", "p.pem", "--name", "n", "--version", "1"]
    database, more = str(folder / "x.lmdb"), str(folder / "more.lmdb")
    if not os.path.exists(more):
        make_database(more, {b"z": SHELL})
    for place, path in enumerate((url, "new")):
        for arguments in (
            ["convert", database, path],
            ["append", database, more, "--out", path],
            ["sign", database, "--out-manifest", path, *release],
            ["publish", database, path, *release],
        ):
            main(arguments)
            output = "".join(capsys.readouterr())
            assert "s3cret" not in output
            assert ("a URL (" in output) is (place == 0)
    assert sorted(os.listdir()) == ["new", "new.dsse.json", "p.pem", "p.pem.pub"]


@pytest.mark.threat("T22")
@pytest.mark.parametrize("host", ["a..b", "a" * 300, "\udcff", "127.0.0.1"])
def test_a_host_name_that_is_malformed(server, host):
    """Is an error of the package, of the caller or of a redirection; one that is well formed is read."""
    url = server.url("x.lmdb/data.mdb")
    other = url.replace("127.0.0.1", host)
    if host == "127.0.0.1":
        assert len(PatchReader(other)) == 12
        return
    with pytest.raises(StoreError, match="malformed"):
        PatchReader(other)
    if host.isascii():
        server.answer = lambda handler, *rest: handler.reply(302, headers={"Location": other}) is None
        with pytest.raises(StoreError, match="malformed"):
            PatchReader(url)


@pytest.mark.threat("T5")
def test_a_sample_whose_keys_are_not_found(tmp_path):
    """A crafted branch page that leads searches past records does not pass for checked values; an honest one does."""
    make_database(tmp_path / "x.lmdb", {b"%06d" % number: b"v" * 500 for number in range(200)})
    foreign = Verification(mac_key=MacKey.generate())
    with PageReader(tmp_path / "x.lmdb") as pages:
        assert verify_sample(pages, foreign, 5).tag_faults["untagged"].count == 5
        assert (pages.facts.depth, pages.facts.branch_pages) == (2, 1)
        size = pages.facts.page_bytes
    content = bytearray((tmp_path / "x.lmdb/data.mdb").read_bytes())
    branch = next(at for at in range(2 * size, len(content), size) if content[at + 10] & 0x01)
    for place in range(1, (struct.unpack_from("<H", content, branch + 12)[0] - 16) // 2):
        node = branch + struct.unpack_from("<H", content, branch + 16 + 2 * place)[0]
        length = struct.unpack_from("<H", content, node + 6)[0]
        content[node + 8 : node + 8 + length] = b"\xff" * (length - 1) + bytes([place])
    (tmp_path / "x.lmdb/data.mdb").write_bytes(content)
    with PageReader(tmp_path / "x.lmdb") as pages, pytest.raises(StoreError, match="not found by its key"):
        verify_sample(pages, foreign, 5)


@pytest.mark.threat("T22")
def test_a_redirection_is_followed_once_and_gets_no_credentials(server, folder):
    """The place that a server names is asked directly from then on, and the first one again when that has expired."""
    with serving(folder) as store:
        got = []
        good = ["first"]

        def redirect(handler, content, span):
            handler.reply(302, headers={"Location": store.url(f"x.lmdb/data.mdb?expires={good[0]}")})
            return True

        def check(handler, content, span):
            got.append(handler.headers.get("Authorization"))
            if good[0] not in handler.path:
                handler.reply(403)
                return True
            return False

        server.answer, store.answer = redirect, check
        with PatchReader(server.url("x.lmdb/data.mdb", "me:s3cret@")) as reader:
            for name in ("patch 1", "patch 7"):
                assert reader[name].dumps() == PATCHES[name].dumps()
            assert len(server.requests) == 1
            good[0] = "second"
            assert reader["patch 9"].dumps() == PATCHES["patch 9"].dumps()
            assert len(server.requests) == 2
        assert set(got) == {None}


@pytest.mark.threat("T22")
@pytest.mark.parametrize(
    ("bucket", "settings", "message"),
    [
        ("x.lmdb", {}, None),
        ("x.lmdb", {"AWS_ENDPOINT_URL": "s3cret"}, "check the name of the bucket, and the settings"),
        ("x.lmdb", {"AWS_PROFILE": "s3cret"}, "check the name of the bucket, and the settings"),
        ("NO_bucket!", {}, "check the name of the bucket, and the settings"),
        ("x.lmdb", {"cut": "1"}, "connection failed .* in all of 3 attempts"),
    ],
)
def test_what_a_bucket_can_answer(server, monkeypatch, bucket, settings, message):
    """Wrong settings are named and not tried again; an answer that is cut off is; none of it is another error."""
    pytest.importorskip("s3fs", reason="needs the extra [remote]")
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_MAX_ATTEMPTS": "1"}
    for name, value in ({"AWS_ENDPOINT_URL": server.url("")} | keys | settings).items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()

    def cut(handler, content, span):
        if "cut" not in settings:
            return False
        handler.send_response(206)
        span = f"bytes {span[0]}-{span[1] - 1}/{len(content)}"
        for header in (("Content-Range", span), ("ETag", etag_of(content)), ("Content-Length", "65536")):
            handler.send_header(*header)
        handler.end_headers()
        handler.wfile.write(content[:100])
        handler.close_connection = True
        return True

    server.answer = cut
    url = f"s3://{bucket}/data.mdb"
    if message is None:
        with PatchReader(url) as reader:
            assert reader["patch 3"].dumps() == PATCHES["patch 3"].dumps()
        return
    with pytest.raises(StoreError, match=message) as refusal:
        PatchReader(url)
    assert "s3cret" not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.threat("T22")
@pytest.mark.parametrize(("headers", "direct"), [({"Authorization": "Bearer s3cret"}, False), (None, True)])
def test_the_headers_of_a_user_are_for_one_server(server, folder, monkeypatch, headers, direct):
    """A token from the settings of fsspec reaches the server that was named, and none that it redirects to."""
    settings = {} if headers is None else {"client_kwargs": {"headers": headers}}
    monkeypatch.setitem(fsspec.config.conf, "http", settings)
    with serving(folder) as store:
        got = []

        def redirect(handler, content, span):
            assert handler.headers.get("Authorization") == (headers or {}).get("Authorization")
            handler.reply(302, headers={"Location": store.url("x.lmdb/data.mdb")})
            return True

        def check(handler, content, span):
            got.append(handler.headers.get("Authorization"))
            return False

        server.answer, store.answer = redirect, check
        with PatchReader(server.url("x.lmdb/data.mdb")) as reader:
            for name in ("patch 1", "patch 7"):
                assert reader[name].dumps() == PATCHES[name].dumps()
        assert set(got) == {None}
        assert (len(server.requests) == 1) is direct


@pytest.mark.threat("T22")
def test_every_value_is_verified(server, folder):
    """By tag and by manifest, which is beside the database, or at the caller's URL or path."""
    asked = {"mac_key": KEY, "context": "c", "verify_key": PUBLISHER.verify_key, "name": "X", "version": "1"}
    for manifest in (None, server.url("x.lmdb.manifest"), folder / "x.lmdb.manifest"):
        with PatchReader(server.url("x.lmdb"), manifest=manifest, **asked) as reader:
            assert reader["patch 3"].dumps() == PATCHES["patch 3"].dumps()
            with pytest.raises(KeyError):
                reader["nope"]
    with pytest.raises(StoreError, match="the object does not exist"):
        PatchReader(server.url("deep.lmdb"), verify_key=PUBLISHER.verify_key)
    with pytest.raises(UntrustedDataError):
        PatchReader(server.url("x.lmdb"), **asked | {"verify_key": STRANGER.verify_key})
    with PatchReader(server.url("x.lmdb"), **asked) as reader:
        flip = (folder / "x.lmdb/data.mdb").read_bytes().index(PATCHES["patch 3"].dumps()[-3000:])

        def tampered(handler, content, span):
            if span[0] <= flip < span[1]:
                handler.partial(content[:flip] + b"!" + content[flip + 1 :], *span, ETag=etag_of(content))
                return True
            return False

        server.answer = tampered
        with pytest.raises(UntrustedDataError, match="changed"):
            reader["patch 3"]
        assert reader["patch 4"].dumps() == PATCHES["patch 4"].dumps()


def test_verify_all_or_a_sample(server, folder):
    """The findings equal those of the local database; a sample reads only its values."""
    signed = Verification(verify_key=PUBLISHER.verify_key, mac_key=KEY, context="c")
    foreign = Verification(mac_key=MacKey.generate())
    for path in (folder / "x.lmdb", server.url("x.lmdb")):
        with PageReader(path) as pages:
            outcome = verify(pages, signed)
            assert (outcome.checked, outcome.refused, outcome.sample) == (12, False, False)
            server.requests.clear()
            outcome = verify_sample(pages, signed, 4)
            assert (outcome.checked, outcome.refused, outcome.sample) == (4, False, True)
            assert len(server.requests) <= 4 + 3
            outcome = verify_sample(pages, foreign, 4)
            assert (outcome.checked, outcome.tag_faults["unknown_key"].count) == (4, 4)
            assert verify_sample(pages, signed, 12).sample is False


def test_a_sample_is_spread_over_the_keys(folder):
    """Without reading the leaves that it does not need, and the same each time."""
    with PageReader(folder / "deep.lmdb") as pages:
        for count in (1, 7, 60, 249):
            picked = pages.spread(count)
            assert picked == sorted(set(picked))
            assert count * 0.9 <= len(picked) <= count
            places = [int(key) for key in picked]
            gaps = [b - a for a, b in zip([0, *places], [*places, 499], strict=True)]
            assert max(gaps) < 8 * 500 / count + 20
            assert pages.spread(count) == picked
        assert pages.spread(500) == list(pages.keys()) == pages.spread(5000)
        assert len(pages.spread(300)) == 300


@pytest.mark.threat("T22")
def test_audit_of_a_sample(server, folder, tmp_path):
    """Verdict and findings are those of the records; nothing but them and the manifest is fetched."""
    run = Run(sample=4, workers=1)
    signed = Verification(verify_key=PUBLISHER.verify_key)
    report = audit_remote(server.url("x.lmdb", "me:s3cret@"), options=Options(verification=signed), run=run)
    assert (report.verdict, report.checked, report.entries, report.sampled) == ("clean", 4, 12, True), report.undecided
    assert report.database == server.url("x.lmdb", "***@")
    assert {path.partition("/data")[0] for path, _ in server.requests} == {
        "/x.lmdb",
        "/x.lmdb.manifest",
        "/x.lmdb.manifest.dsse.json",
    }
    stranger = Options(verification=Verification(verify_key=STRANGER.verify_key))
    report = audit_remote(server.url("x.lmdb"), options=stranger, run=run)
    assert (report.verdict, report.checked) == ("refused", 0)
    for other in (Run(), Run(sample=3, resume=tmp_path / "state")):
        report = audit_remote(server.url("x.lmdb"), run=other)
        assert (report.verdict, report.undecided) == (
            "undecided",
            "a database on a server is audited only as a sample (--sample), on this machine and without --resume; "
            "download it to audit all of it",
        )
    assert audit_remote(server.url("nope"), run=run).exit_code == 2
    make_database(folder / "bad.lmdb", {b"%d" % number: SHELL for number in range(8)} | {b"9": b"x" * 2**25})
    report = audit_remote(server.url("bad.lmdb"), run=Run(sample=9, workers=1))
    assert (report.verdict, report.refused, report.checked) == ("refused", 9, 9)


@pytest.mark.threat("T22")
def test_commands_take_urls(server, folder, tmp_path, capsys, monkeypatch):
    """Inspect, show, verify and audit accept URLs; their output, as JSON and on failure, too, has no credentials."""
    monkeypatch.chdir(tmp_path)
    write_verify_key("key.pub", PUBLISHER.verify_key)
    write_verify_key("stranger.pub", STRANGER.verify_key)
    url = server.url("x.lmdb/data.mdb?sig=s3cret", "me:s3cret@")
    signed = ["--verify-key", "key.pub", "--manifest", server.url("x.lmdb.manifest?sig=s3cret")]
    for code, *arguments in (
        (0, "inspect", url),
        (0, "inspect", url, "patch 3"),
        (2, "inspect", url, "nope"),
        (2, "inspect", server.url("nope?sig=s3cret")),
        (0, "show", url, "-o", "a.png", "patch 3", "patch 4"),
        (2, "show", url, "-o", "b.png", "nope"),
        (0, "verify", url, *signed),
        (0, "verify", url, *signed, "--sample", "5"),
        (1, "verify", url, "--verify-key", "stranger.pub", *signed[2:], "--sample", "5"),
        (0, "verify", url, "--verify-key", "key.pub", "--sample", "5"),
        (2, "verify", url, "--sample", "5"),
        (0, "audit", url, "--sample", "2", "--workers", "1", "--no-fickling"),
        (2, "audit", url),
        (2, "convert", url, os.curdir),
        (2, "sign", url, "--signing-key", "nope", "--name", "n", "--version", "1"),
    ):
        for more in ([], ["--json"]):
            if os.path.exists("a.png"):
                os.unlink("a.png")
            assert main([*arguments, *more]) == code, arguments
            out, err = capsys.readouterr()
            assert "s3cret" not in out + err, arguments
            assert "internal error" not in out + err
            if more:
                assert json.loads(out)["schema"]
    main(["verify", url, *signed, "--sample", "5"])
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"SAMPLED: 5 of 12 values in {redacted(url)} are as they were signed; the others were not checked"
    )
    main(["verify", url, *signed, "--sample", "5", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["checked"], document["entries"]) == ("sampled", 5, 12)
    assert main(["audit", url, "--sample", "2", "--workers", "1", "--format", "html", "--output", "a.html"]) == 0
    assert b"s3cret" not in (tmp_path / "a.html").read_bytes()


@pytest.mark.threat("T8")
def test_one_of_several_databases(server, folder):
    """A database of a release of several is opened, verified and audited by its name on the server, and by no other."""
    names = ["train", "test"]
    (folder / "several").mkdir()
    for number, name in enumerate(names):
        database(folder / "several" / f"{name}.lmdb", patches(3, start=3 * number))
    sign_release(
        [folder / "several" / f"{name}.lmdb" for name in names], [PUBLISHER], name="X", version="1", created=CREATED
    )
    signed = Verification(verify_key=PUBLISHER.verify_key)
    run = Run(sample=2, workers=1)
    for name in names:
        url = server.url(f"several/{name}.lmdb")
        with PatchReader(url, verification=signed) as reader:
            assert len(reader) == 3
        assert audit_remote(url, options=Options(verification=signed), run=run).verdict == "clean"
    for suffix in ("", ".manifest", ".manifest.dsse.json"):
        os.rename(folder / "several" / f"train.lmdb{suffix}", folder / "several" / f"other.lmdb{suffix}")
    url = server.url("several/other.lmdb")
    with pytest.raises(UntrustedDataError, match=r"this is train\.lmdb, expected other\.lmdb"):
        PatchReader(url, verification=signed)
    assert audit_remote(url, options=Options(verification=signed), run=run).verdict == "refused"
    wanted = Verification(verify_key=PUBLISHER.verify_key, subject="train.lmdb")
    assert audit_remote(url, options=Options(verification=wanted), run=run).verdict == "clean"


def test_local_reading_loads_nothing_of_it(folder):
    """Neither fsspec nor asyncio; and without the packages a URL says which extra to install."""
    code = (
        "import sys; from ben_secure import PatchReader; r = PatchReader(sys.argv[1]); r['patch 1']; "
        "print({'asyncio', 'fsspec', 'ben_secure.remote.range_file'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder / "x.lmdb"], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_without_the_packages(monkeypatch, scheme):
    """A URL says what to install."""
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"a database .* needs .*fsspec"):
        PatchReader(f"{scheme}://127.0.0.1/x.lmdb")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/a.lmdb", "https://host/a.lmdb"),
        ("https://me:pw@host:8080/a.lmdb?X-Amz-Signature=1#f", "https://***@host:8080/a.lmdb?***"),
        ("HTTPS://me@host/a", "HTTPS://***@host/a"),
        ("https://me:p/w@host/a", "https://***@host/a"),
        ("https://me:p?w@host/a", "https://***"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("s3://bucket/a.lmdb?versionId=1", "s3://bucket/a.lmdb?***"),
        ("/data/https://x?y", "/data/https://x?y"),
    ],
)
def test_urls_for_people(url, expected):
    """User, password, query and fragment are hidden; a path stays as it is."""
    assert redacted(url) == expected
