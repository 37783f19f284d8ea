"""A stub of an OpenAI-compatible endpoint on the loopback interface, and a valid answer."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-secret-0123456789abcdef"

GOOD = """\
templates:
  - a chest radiograph showing {}
signs:
  blunted_angle:
    prompts: [a blunted costophrenic angle, a meniscus at the lung base]
  dense_base:
    prompts: [a homogeneous opacity of the lower zone]
  large_heart:
    prompts: [an enlarged cardiac silhouette, a wide heart shadow]
  sharp_angles:
    prompts: [sharp costophrenic angles]
categories:
  cardiomegaly:
    signs: [large_heart, blunted_angle]
  effusion:
    signs: [blunted_angle, dense_base]
normal:
  signs: [sharp_angles]
"""


@dataclass(frozen=True)
class Reply:
    """The answer of the stub to one request; `delay` is in seconds."""

    content: str | None = None
    status: int = 200
    body: Any = None
    delay: float = 0.0
    finish_reason: str = "stop"

    def encode(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        message = {"role": "assistant", "content": self.content}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        completion = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
        return json.dumps(self.body or completion | {"choices": [choice]}).encode()


def refusal(status: int, message: str) -> Reply:
    return Reply(status=status, body={"error": {"message": message, "type": "t", "code": None}})


@dataclass
class Stub:
    """`requests` are the JSON bodies received, `keys` their Authorization headers."""

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OPENAI_API_KEY": KEY,
            "OPENAI_BASE_URL": self.url,
            "OPENAI_MODEL": "stub-model",
            "NO_PROXY": "127.0.0.1",
        }


@contextmanager
def serve(*replies: Reply) -> Iterator[Stub]:
    """Answer requests to /v1/chat/completions with `replies` in turn, then repeat the last one."""
    stub = Stub("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != "/v1/chat/completions":
                self._answer(Reply(status=404, body=b"<h1>nothing here</h1>"))
                return
            reply = replies[min(len(stub.requests), len(replies) - 1)]
            stub.requests.append(json.loads(body))
            stub.keys.append(self.headers["Authorization"])
            time.sleep(reply.delay)
            self._answer(reply)

        def _answer(self, reply: Reply) -> None:
            content = reply.encode()
            kind = "text/html" if isinstance(reply.body, bytes) else "application/json"
            try:
                self.send_response(reply.status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Retry-After-Ms", "1")
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # a client that no longer waits

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
