"""One decoding child as a process: started, asked, and always reaped.

It is spawned (a fork would copy threads and locks of Delta's runtime and of torch), and not by
multiprocessing, which would run the caller's main module again and start a tracker process. It
inherits no file but its end of a socket, sees no device and no network, and writes nowhere.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
from typing import Any

from tasks.decoding_child_pipe import Failed, Setup, receive, send
from video2lora_core.errors import Reason, UsageError, VideoError

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 300.0
# The system ends a killed process at once, unless it is inside a file system that does not answer.
KILL_TIMEOUT_S = 10.0
_BOOT = "import importlib, sys; sys.path[:] = {path!r}; importlib.import_module({program!r}).main"
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
}


# It reads files that strangers wrote and needs nobody's credentials.
_KEPT_FROM_CHILDREN = ("AWS_", "PREFECT_", "HF_TOKEN")


class ChildStartError(RuntimeError):
    """A decoding child could not be started: the machine is at fault, not a video."""


class ChildProcess:
    """A running child; `receive` raises what became of it as a VideoError."""

    def __init__(self, program: str, setup: Setup) -> None:
        """Start a child and wait until it is ready.

        Raises:
            ChildStartError: it ended, or was not ready in time.
        """
        self._pipe, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _spawn(program, theirs.fileno())
        except OSError as error:
            self._pipe.close()
            raise ChildStartError(f"decoding child: could not start ({error})") from error
        try:
            self.send(setup, timeout_s=START_TIMEOUT_S)
            self.receive(timeout_s=START_TIMEOUT_S)
        except (VideoError, UsageError) as error:
            self.kill()
            raise ChildStartError(f"decoding child: could not start ({error})") from error

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, message: object, *, timeout_s: float) -> None:
        """Ask the child; that it has gone shows in the answer.

        Raises:
            VideoError: DECODE_TIMEOUT.
        """
        try:
            send(self._pipe, message, timeout_s=timeout_s)
        except TimeoutError as error:
            detail = f"the child took no request within {timeout_s:.0f} s"
            raise VideoError(Reason.DECODE_TIMEOUT, detail) from error
        except OSError:
            return

    def receive(self, *, timeout_s: float) -> Any:
        """Wait for the next answer; other threads run meanwhile.

        Raises:
            VideoError: what the child says is wrong with the video, or what became of the child.
            UsageError: the child says that the call is wrong.
        """
        try:
            answer = receive(self._pipe, timeout_s=timeout_s)
        except TimeoutError as error:
            detail = f"no answer within {timeout_s:.0f} s"
            raise VideoError(Reason.DECODE_TIMEOUT, detail) from error
        except EOFError as error:
            raise self._end() from error
        if not isinstance(answer, Failed):
            return answer
        if answer.reason is None:
            raise UsageError(answer.detail)
        raise VideoError(answer.reason, answer.detail)

    def kill(self) -> None:
        """End the child, whatever it does, and leave no zombie."""
        self._process.kill()
        try:
            self._process.wait(timeout=KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            logger.warning(
                "decoding child %d is killed and waits for a disk; left behind", self.pid
            )
        self._pipe.close()

    def _end(self) -> VideoError:
        """Say how a child that closed its pipe has ended."""
        try:
            status = self._process.wait(timeout=KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return VideoError(Reason.DECODE_CRASH, "the child hung up")
        if status >= 0:
            return VideoError(Reason.DECODE_CRASH, f"the child ended with status {status}")
        name = signal.Signals(-status).name
        if name == "SIGXCPU":
            return VideoError(Reason.DECODE_TIMEOUT, "the limit on processor time was reached")
        return VideoError(Reason.DECODE_CRASH, f"the child was ended by {name}")


def _environment() -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_KEPT_FROM_CHILDREN)
    }
    return {**inherited, **_ENVIRONMENT}


def _spawn(program: str, pipe_fd: int) -> subprocess.Popen[bytes]:
    boot = _BOOT.format(path=sys.path, program=program)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"{boot}({pipe_fd}, {os.getpid()})"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[pipe_fd],
        env=_environment(),
        process_group=0,  # Ctrl-C is for the parent, which then ends its children
    )
