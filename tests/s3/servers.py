"""S3 servers on the loopback interface: moto for fast tests, SeaweedFS for what moto lets pass."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from storage.remote import file_system

BUCKET: Final = "video-lakes"
# Recognisable, so that a leak is found by searching for them.
ACCESS_KEY: Final = "AKIAVIDEOFAKEKEY0001"
SECRET_KEY: Final = "fakeSECRETkeyNEVERshown0123456789abcdef0"
READER_KEY: Final = "AKIAVIDEOREADONLY001"
READER_SECRET: Final = "fakeREADERsecretNEVERshown0123456789abcd"
_START_S: Final = 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(endpoint: str, **changed: str) -> dict[str, str]:
    """The AWS_* names that lead to a server."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_ENDPOINT_URL": endpoint,
        **changed,
    }


class Server:
    """A server process on one port, which can be killed and started again."""

    def __init__(self, command: list[str], *, port: int) -> None:
        self._command = command
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(self._command, **quiet)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(f"no server at {self.endpoint}: {' '.join(self._command)}")
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=5):
                return True
        except urllib.error.HTTPError as error:
            return error.code < 500
        except OSError:
            return False


@contextmanager
def moto() -> Iterator[Server]:
    """A moto server with one empty bucket; it forgets everything when it ends."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = Server(command, port=port)
    try:
        server.start()
        file_system("s3://", environment(server.endpoint)).mkdir(BUCKET)
        yield server
    finally:
        server.kill()


@contextmanager
def seaweed() -> Iterator[Server]:
    """A SeaweedFS server with one bucket and two identities; its directory goes with it."""
    directory = Path(tempfile.mkdtemp(prefix="video2lora-seaweed-"))
    port = free_port()
    server = Server(_seaweed_command(directory, port), port=port)
    try:
        server.start()
        _wait_for_writes(server)
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


def restart(server: Server) -> None:
    """kill -9 a server and start it again on the same directory and port."""
    server.kill()
    server.start()


def _seaweed_command(directory: Path, port: int) -> list[str]:
    rules = {
        "identities": [
            _identity("writer", ACCESS_KEY, SECRET_KEY, ["Admin", "Read", "Write", "List"]),
            _identity("reader", READER_KEY, READER_SECRET, ["Read", "List"]),
        ]
    }
    config = directory / "s3.json"
    config.write_text(json.dumps(rules), encoding="utf-8")
    # Each role's own port, because several servers may run beside each other.
    roles = ("master", "volume", "filer")
    ports = [f"-{role}.port{kind}={free_port()}" for role in roles for kind in ("", ".grpc")]
    flags = ["-master.telemetry=false", "-admin.ui=false", "-webdav=false", f"-s3.config={config}"]
    s3 = [f"-s3.port={port}", f"-s3.port.grpc={free_port()}", "-s3.port.iceberg=0"]
    home = [f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-bucket={BUCKET}"]
    weed = Path(sys.executable).with_name("weed")
    admin = [f"-admin.port={free_port()}", f"-admin.port.grpc={free_port()}"]
    return [str(weed), "mini", *home, *flags, *ports, *s3, "-s3.port.lance=0", *admin]


def _identity(name: str, key: str, secret: str, actions: list[str]) -> dict[str, object]:
    credentials = [{"accessKey": key, "secretKey": secret}]
    return {"name": name, "credentials": credentials, "actions": actions}


def _wait_for_writes(server: Server) -> None:
    # The port is open before there is a volume to write to.
    files = file_system("s3://", environment(server.endpoint))
    deadline = time.monotonic() + _START_S
    while True:
        try:
            files.pipe_file(f"{BUCKET}/.ready", b"1")
            files.rm_file(f"{BUCKET}/.ready")
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
