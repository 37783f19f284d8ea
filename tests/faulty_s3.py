"""An S3 endpoint that fails a share of its requests, in front of a real one.

    with faulty_s3(behind="http://127.0.0.1:5000", share=0.2, seed=0) as front:
        os.environ["AWS_ENDPOINT_URL"] = front.url

Faults: 503 SlowDown, 500 InternalError, a reset connection, a cut body, a stall, an expired token.
Each request is judged anew, so that a repeated one passes sooner or later; `front.faults` counts.
`front.refused` refuses every GET and HEAD of a key: key to (status, code, message). The key ""
stands for all others.
"""

import random
import socket
import struct
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KINDS = ("slow_down", "internal_error", "reset", "cut_body", "stall", "expired_token")
WEIGHTS = (3, 3, 3, 3, 1, 1)
STALL_SECONDS = 0.5
ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
    "<Message>{message}</Message></Error>"
)


class FaultyS3(ThreadingHTTPServer):
    """Forwards to `behind`, but for a `share` of requests."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, behind: str, share: float, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        self.share = share
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.faults: Counter[str] = Counter()
        self.requests = 0
        self.refused: dict[str, tuple[int, str, str]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self) -> str:
        """What goes wrong with the next request; empty for nothing."""
        with self.lock:
            self.requests += 1
            kind = ""
            if self.random.random() < self.share:
                (kind,) = self.random.choices(KINDS, WEIGHTS)
                self.faults[kind] += 1
            return kind

    def refusal(self, path: str) -> tuple[int, str, str] | None:
        """Status, code and message if the object at a path is refused."""
        bucket, _, key = urllib.parse.unquote(path.partition("?")[0]).lstrip("/").partition("/")
        return (self.refused.get(key) or self.refused.get("")) if bucket and key else None

    def handle_error(self, request: object, address: object) -> None:
        """Broken connections are what this server is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyS3

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        refusal = self.server.refusal(self.path) if self.command in ("GET", "HEAD") else None
        if refusal:
            return self._error(*refusal)
        fault = self.server.fault()
        if fault == "slow_down":
            return self._error(503, "SlowDown")
        if fault == "internal_error":
            return self._error(500, "InternalError")
        if fault == "expired_token":
            return self._error(400, "ExpiredToken")
        if fault == "reset":
            return self._reset()
        if fault == "stall":
            time.sleep(STALL_SECONDS)
            return self._reset()
        status, headers, content = self._forward(body)
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = next((v for n, v in headers if n.lower() == "content-length"), len(content))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if fault == "cut_body" and len(content) > 1:
            self.wfile.write(content[: len(content) // 2])
            return self._reset()
        if self.command != "HEAD":
            self.wfile.write(content)
        return None

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        request = urllib.request.Request(  # noqa: S310 - the address of a local server
            self.server.behind + self.path, data=body or None, method=self.command
        )
        for name, value in self.headers.items():
            if name.lower() not in ("host", "connection", "content-length", "expect"):
                request.add_header(name, value)
        if not self.headers.get("Content-Type"):
            request.add_header("Content-Type", "application/octet-stream")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return answer.status, answer.getheaders(), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, list(error.headers.items()), error.read()

    def _error(self, status: int, code: str, message: str = "") -> None:
        content = ERROR.format(code=code, message=message or code).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        with suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Silence."""


@contextmanager
def faulty_s3(behind: str, share: float = 0.2, seed: int = 0) -> Iterator[FaultyS3]:
    """Serve until the block ends."""
    front = FaultyS3(behind, share, seed)
    thread = threading.Thread(target=front.serve_forever, daemon=True)
    thread.start()
    try:
        yield front
    finally:
        front.shutdown()
        front.server_close()
