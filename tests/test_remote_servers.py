"""Remote reading against servers that others wrote: nginx, and moto's S3; left out where they are not installed."""

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from ben_secure import PatchReader, StoreError
from ben_secure.signing.keys import SigningKey
from ben_secure.store.change.sign import sign_database
from support.patch_databases import database, patches
from support.releases import CREATED

pytest.importorskip("aiohttp", reason="needs the extra [remote]")

pytestmark = pytest.mark.slow

PUBLISHER = SigningKey.generate()
PATCHES = patches(6)
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
NGINX_CONF = """
daemon off; {user} pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  server {{ listen 127.0.0.1:{port}; root {folder}/www; {more} }}
}}
"""


@pytest.fixture
def release(tmp_path):
    """A signed database in a folder to be served."""
    (tmp_path / "www").mkdir()
    path = database(tmp_path / "www" / "x.lmdb", PATCHES)
    sign_database(path, [PUBLISHER], name="X", version="1", created=CREATED)
    return path


@contextmanager
def running(command, port):
    """A server process while the block runs."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield
        finally:
            process.terminate()


def free_port():
    """A port that is free at present."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def check(url, change):
    """Read, verify, and notice a change."""
    with PatchReader(url, verify_key=PUBLISHER.verify_key, name="X", version="1") as reader:
        assert list(reader) == sorted(PATCHES)
        assert [patch.dumps() for patch in reader.get_many(PATCHES)] == [patch.dumps() for patch in PATCHES.values()]
        change()
        with pytest.raises(StoreError, match="was changed after it was opened"):
            reader["patch 5"]
    with pytest.raises(StoreError, match=r"the object does not exist|refuses access"):
        PatchReader(url.replace("x.lmdb", "nope"))


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
@pytest.mark.parametrize("more", ["", "max_ranges 0;"], ids=["ranges", "no ranges"])
def test_nginx(tmp_path, release, more):
    """Ranges, ETag and If-Match of nginx work; it is an error if nginx serves no ranges."""
    port = free_port()
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""  # otherwise its workers cannot read private files
    (tmp_path / "nginx.conf").write_text(NGINX_CONF.format(folder=tmp_path, port=port, more=more, user=user))
    with running([NGINX, "-c", tmp_path / "nginx.conf", "-e", tmp_path / "error.log"], port):
        url = f"http://127.0.0.1:{port}/x.lmdb"
        if more:
            with pytest.raises(StoreError, match="ignores range requests"):
                PatchReader(url)
        else:
            check(url, lambda: (release / "data.mdb").write_bytes((release / "data.mdb").read_bytes()[:-4096]))


def test_s3(release, monkeypatch):
    """A bucket at another endpoint is read, with and without versions."""
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs", reason="needs the extra [remote]")
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import fsspec

    fsspec.filesystem("s3").clear_instance_cache()
    with running([sys.executable, "-m", "moto.server", "-p", str(port)], port):
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")

        def upload(folder, content=None):
            for suffix in ("/data.mdb", ".manifest", ".manifest.dsse.json"):
                with open(f"{release}{suffix}", "rb") as file:
                    body = file.read() if content is None else content
                answer = client.put_object(Bucket="bucket", Key=f"{folder}/x.lmdb{suffix}", Body=body)
            return answer

        upload("plain")
        check("s3://bucket/plain/x.lmdb", lambda: upload("plain", b"x"))
        client.put_bucket_versioning(Bucket="bucket", VersioningConfiguration={"Status": "Enabled"})
        upload("kept")
        with PatchReader("s3://bucket/kept/x.lmdb", verify_key=PUBLISHER.verify_key) as reader:
            upload("kept", b"x")
            assert reader["patch 5"].dumps() == PATCHES["patch 5"].dumps()  # the version that it has opened is kept
        with pytest.raises(StoreError):
            PatchReader("s3://bucket/kept/x.lmdb")
