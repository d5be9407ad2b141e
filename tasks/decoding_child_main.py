"""The child's side: take limits upon itself, then answer requests until nobody asks any more.

Limits are set before the work that they limit: processor time anew for each answer, address space
once everything is imported. A child that goes beyond is ended by the system, or finds no memory and
says so. It loads no model and sees no device.
"""

import ctypes
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tasks.decoding_child_pipe import Failed, Ready, Request, Setup, receive, send
from video2lora_core.errors import UsageError, VideoError
from video2lora_core.memory_limit import address_space_bytes

if TYPE_CHECKING:
    from tasks.video_reader import InProcessReader

_PR_SET_PDEATHSIG = 1


def main(pipe_fd: int, parent_pid: int) -> None:
    """Serve the process at the other end of the socket `pipe_fd` until it closes it."""
    _die_with(parent_pid)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=pipe_fd) as pipe:
        try:
            setup: Setup = receive(pipe)
            reader = _prepare(setup)
        except Exception as error:  # its owner says what is wrong: here nobody would read it
            send(pipe, Failed(reason=None, detail=f"{type(error).__name__}: {error}"))
            return
        send(pipe, Ready())
        _serve(pipe, reader, cpu_s=setup.limits.cpu_s)


def _serve(pipe: socket.socket, reader: "InProcessReader", *, cpu_s: float) -> None:
    while True:
        try:
            request: Request = receive(pipe)
            for answer in _answers(reader, request, cpu_s=cpu_s):
                send(pipe, answer)
        except (EOFError, BrokenPipeError):
            return


def _answers(reader: "InProcessReader", request: Request, *, cpu_s: float) -> Iterator[object]:
    found = _found(reader, request)
    try:
        for number in range(request.num_answers):
            _limit_cpu(cpu_s * request.cost(number, since=number - 1))
            answer = next(found)
            if number >= request.num_known:
                yield answer
    except VideoError as error:
        yield Failed(reason=error.reason, detail=error.detail)
    except UsageError as error:
        yield Failed(reason=None, detail=str(error))


def _found(reader: "InProcessReader", request: Request) -> Iterator[Any]:
    if request.segments is not None:
        yield from reader.decode(request.path, request.segments)
        return
    yield None if request.num_known else reader.identify(request.path)
    yield reader.probe(request.path)


def _prepare(setup: Setup) -> "InProcessReader":
    import torch

    from tasks.video_reader import InProcessReader

    torch.set_num_threads(1)  # the parallelism is over children
    reader = InProcessReader(
        model=setup.model,
        decoder=setup.decoder,
        limits=setup.limits,
        sampling=setup.sampling,
    )
    if sys.platform == "linux":  # elsewhere the system does not hold a limit on address space
        _limit(resource.RLIMIT_AS, address_space_bytes() + setup.limits.memory_bytes)
    return reader


def _limit_cpu(more_s: float) -> None:
    """Let the system end this process once it has used `more_s` more of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + more_s))


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _die_with(parent_pid: int) -> None:
    """End when the parent does, on Linux even in native code, elsewhere at the next message."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit("the parent is gone")
