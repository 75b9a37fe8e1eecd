"""A web server for byte ranges on loopback, which counts requests, and misbehaves on request."""

from __future__ import annotations

import hashlib
import http.server
import os
import re
import threading
import time
from contextlib import contextmanager


class Server(http.server.ThreadingHTTPServer):
    """Serves the files of a folder.

    Attributes:
        requests: Path and range of each request, in order.
        sent: Bytes of all bodies.
        most_at_once: Maximum number of simultaneous requests.
        answer: A test's own answer: called with handler, content and range; returns whether it has answered.
        delay_s: Duration of each answer.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = os.fspath(folder)
        self.requests = []
        self.sent = self.most_at_once = self.at_once = 0
        self.answer = lambda handler, content, span: False
        self.delay_s = 0.0
        self.lock = threading.Lock()

    def url(self, path, user=""):
        """The URL of a file."""
        return f"http://{user}127.0.0.1:{self.server_port}/{path}"

    def handle_error(self, request, client_address):
        """Ignore a client that closes the connection."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        with server.lock:
            server.requests.append((self.path, self.headers.get("Range")))
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            time.sleep(server.delay_s)
            self._answer()
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self):
        try:
            with open(os.path.join(self.server.folder, self.path.partition("?")[0].lstrip("/")), "rb") as file:
                content = file.read()
        except OSError:
            self.reply(404)
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        start, stop = (int(span[1]), min(int(span[2]) + 1, len(content))) if span else (0, len(content))
        etag = etag_of(content)
        if self.server.answer(self, content, (start, stop)):
            return
        if self.headers.get("If-Match", etag) != etag:
            self.reply(412)
        elif start >= len(content):
            self.reply(416)
        else:
            self.partial(content, start, stop)

    def partial(self, content, start, stop, **changed):
        """Answer with a range; keyword arguments change headers, ``_`` for ``-``, None to leave one out."""
        headers = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}", "ETag": etag_of(content)}
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        self.reply(206, content[start:stop], headers)

    def reply(self, status, body=b"", headers=()):
        """Answer."""
        self.send_response(status)
        for name, value in dict(headers).items():
            if value is not None:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        with self.server.lock:
            self.server.sent += len(body)

    def log_message(self, *arguments):
        """Nothing."""


def etag_of(content):
    """A strong ETag."""
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


@contextmanager
def serving(folder):
    """A server while the block runs."""
    with Server(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
