"""An HTTP proxy that misbehaves by plan, and counts what passes.

It stands between a client and an S3 server, keeps the Host header (which is signed), and asks
`plan` what to do with each request. Faults that come after the request reached the server
("lost", "500-after") are the nasty ones: what was asked has happened, and the client is not told.
"""

import http.client
import http.server
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

ANSWERS: Final = {
    "503": (503, "SlowDown", "Please reduce your request rate."),
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "429": (429, "TooManyRequests", "Too many requests."),
    "500-after": (500, "InternalError", "We encountered an internal error. Please try again."),
}
# "reset" before, "lost" after the server did it; "cut" sends half an answer; "late" waits.
FAULTS: Final = (*ANSWERS, "reset", "lost", "cut", "late")
_LATE_S: Final = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a plan decides on."""

    method: str
    path: str
    """With its query."""
    headers: dict[str, str]
    """Names in lower case."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passed:
    """A request that came, and what was done to it."""

    method: str
    path: str
    fault: str | None


Plan = Callable[[Request], str | None]


def no_fault(_: Request) -> str | None:
    return None


def at_random(seed: int, *, rate: float, faults: tuple[str, ...] = FAULTS) -> Plan:
    """Each request fails with this probability, in one of these ways; the seed decides which."""
    dice = random.Random(seed)
    lock = threading.Lock()

    def plan(_: Request) -> str | None:
        with lock:
            return dice.choice(faults) if dice.random() < rate else None

    return plan


def once(fault: str, method: str, part: str, *, times: int = 1) -> Plan:
    """The first requests of a method whose path holds `part` fail; all others pass."""
    left = Counter({fault: times})
    lock = threading.Lock()

    def plan(request: Request) -> str | None:
        with lock:
            if left[fault] and request.method == method and part in request.path:
                left[fault] -= 1
                return fault
        return None

    return plan


class FaultyProxy:
    """A running proxy: set `plan` at any time, read `passed`."""

    def __init__(self, upstream: str, *, stripped: frozenset[str] = frozenset()) -> None:
        """Forward to `upstream`, an http URL, without the headers named in `stripped`."""
        self.plan: Plan = no_fault
        self.passed: list[Passed] = []
        self._stripped = {"connection", "expect", "transfer-encoding"} | stripped
        self._upstream = urlsplit(upstream).netloc
        proxy = self

        class Answering(_Answering):
            def forward(self) -> None:
                proxy.serve(self)

        self._server = _QuietServer(("127.0.0.1", 0), Answering)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator["FaultyProxy"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def reset(self) -> None:
        self.plan, self.passed = no_fault, []

    def counted(self) -> Counter[str]:
        """How many requests of each method passed since the last `reset`."""
        return Counter(passed.method for passed in self.passed)

    def faults(self) -> Counter[str]:
        return Counter(passed.fault for passed in self.passed if passed.fault)

    def serve(self, client: "_Answering") -> None:
        """Answer one request: ask the plan, forward, answer."""
        headers = {name.lower(): value for name, value in client.headers.items()}
        body = client.body()
        request = Request(method=client.command, path=client.path, headers=headers)
        fault = self.plan(request)
        # Counted first: once it is answered, a test may look.
        self.passed.append(Passed(method=request.method, path=request.path, fault=fault))
        if fault == "reset":
            return client.hang_up()
        if fault in ("503", "500", "429"):
            return client.refuse(fault)
        if fault == "late":
            time.sleep(_LATE_S)
        try:
            answer, content = self._ask(request, body)
        except OSError:
            return client.hang_up()  # the server is down, as its client would see it
        if fault == "lost":
            return client.hang_up()
        if fault == "500-after":
            return client.refuse(fault)
        return client.answer(answer, content, is_cut=fault == "cut")

    def _ask(self, request: Request, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(self._upstream, timeout=60)
        try:
            connection.putrequest(
                request.method, request.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in request.headers.items():
                if name not in self._stripped:
                    connection.putheader(name, value)
            if request.headers.get("transfer-encoding"):
                connection.putheader("content-length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()


class _QuietServer(http.server.ThreadingHTTPServer):
    """A server whose clients may hang up when they like."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that no longer listens is no fault of the proxy."""


class _Answering(http.server.BaseHTTPRequestHandler):
    """Reads requests and writes answers; what to answer is the proxy's."""

    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.forward()

    do_PUT = do_POST = do_HEAD = do_DELETE = do_GET  # noqa: N815  (http.server's names)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def hang_up(self) -> None:
        """Reset the connection, as a crashed server or a broken network does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def refuse(self, fault: str) -> None:
        status, code, message = ANSWERS[fault]
        text = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        content = b"" if self.command == "HEAD" else text
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, answer: http.client.HTTPResponse, content: bytes, *, is_cut: bool) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        if is_cut:
            self.wfile.write(content[: len(content) // 2])
            self.hang_up()
        else:
            self.wfile.write(content)


@contextmanager
def faulty_proxy(upstream: str, *, stripped: frozenset[str] = frozenset()) -> Iterator[FaultyProxy]:
    with FaultyProxy(upstream, stripped=stripped).running() as proxy:
        yield proxy
