"""A fake judge: an OpenAI-compatible server in a thread, whose every answer a test decides."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What the server says to one request."""

    content: str = '{"score": 1, "reason": "the same"}'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """In place of a chat completion with this content."""
    wait: threading.Event | None = None
    """Nothing is sent before it is set."""


@dataclass
class FakeJudge:
    """A running server: where it is, what it was asked, what it says."""

    url: str
    replies: Callable[[int, dict[str, Any]], Reply]
    """From the request's number and the question, references and answer it holds."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def fake_judge(replies: Callable[[int, dict[str, Any]], Reply]) -> Iterator[FakeJudge]:
    lock = threading.Lock()

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(judge.requests)
                judge.requests.append({"path": self.path, **body})
                judge.headers.append(dict(self.headers))
            reply = judge.replies(number, json.loads(body["messages"][1]["content"]))
            if reply.wait is not None:
                reply.wait.wait(10)
            self.send(reply)

        def send(self, reply: Reply) -> None:
            completion = {"choices": [{"message": {"role": "assistant", "content": reply.content}}]}
            content = json.dumps(completion).encode() if reply.body is None else reply.body
            try:
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(content)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):  # the client has given up
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    judge = FakeJudge(url=f"http://127.0.0.1:{server.server_port}/v1", replies=replies)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
