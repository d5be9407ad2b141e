"""What a decoding child and its owner say to each other, and how it gets across.

A message is a pickle whose large buffers (a segment's pixels) follow it as they are: each byte is
copied once into the socket and once out of it. The socket holds some 200 KB, so a child waits with
a finished segment until it is fetched. Both ends are ours; nothing from a video is unpickled.
"""

import pickle
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import DecodeConfig, ModelConfig
from video2lora_core.errors import Reason
from video2lora_core.segments import Segment

# What one `timeout_s` or `cpu_s` pays for.
SPAN_US = 30_000_000
SPAN_BYTES = 1024**3

_COUNT, _LENGTH = struct.Struct("!B"), struct.Struct("!Q")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a child is told first; it answers `Ready`."""

    model: ModelConfig
    decoder: str
    limits: DecodeConfig
    sampling: str = "centres"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Answer about one file: its hash and its probe, or each segment.

    Attributes:
        path: the file.
        size_bytes: how large it is, 0 where unknown.
        segments: what to decode; None asks for the hash and the probe.
        num_known: so many first answers are not needed.
    """

    path: Path
    size_bytes: int
    segments: tuple[Segment, ...] | None
    num_known: int = 0

    @property
    def num_answers(self) -> int:
        """How many answers there are in all."""
        return 2 if self.segments is None else len(self.segments)

    def cost(self, number: int, *, since: int) -> float:
        """Return how many times the usual limit answer `number` may take.

        Args:
            number: which answer, from 0.
            since: the last answer that the child has worked out, -1 for none.
        """
        if self.segments is None:
            return max(1.0, self.size_bytes / SPAN_BYTES)
        begin_us = self.segments[since].end_us if since >= 0 else 0
        return max(1.0, (self.segments[number].end_us - begin_us) / SPAN_US)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """The child has imported what it needs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The rest cannot be given. `reason` is None where the call itself is wrong."""

    reason: Reason | None
    detail: str


def send(pipe: socket.socket, message: object, *, timeout_s: float | None = None) -> None:
    """Write a message.

    Raises:
        TimeoutError: the other end did not read it in time.
        OSError: there is no other end.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts: list[bytes | memoryview] = [head, *(buffer.raw() for buffer in buffers)]
    lengths = b"".join(_LENGTH.pack(len(part)) for part in parts)
    pipe.settimeout(timeout_s)
    for part in (_COUNT.pack(len(parts)) + lengths, *parts):
        pipe.sendall(part)


def receive(pipe: socket.socket, *, timeout_s: float | None = None) -> Any:
    """Read a message whole.

    Raises:
        TimeoutError: it was not there in time.
        EOFError: there is no other end.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    (num_parts,) = _COUNT.unpack(_read(pipe, _COUNT.size, deadline))
    lengths = _read(pipe, num_parts * _LENGTH.size, deadline)
    parts = [_read(pipe, length, deadline) for (length,) in _LENGTH.iter_unpack(lengths)]
    return pickle.loads(parts[0], buffers=parts[1:])


def _read(pipe: socket.socket, num_bytes: int, deadline: float | None) -> bytearray:
    content = bytearray(num_bytes)
    left = memoryview(content)
    while left:
        if deadline is not None:
            pipe.settimeout(max(deadline - time.monotonic(), 1e-3))
        try:
            num_read = pipe.recv_into(left)
        except TimeoutError:
            raise
        except OSError as error:
            raise EOFError("this end or the other was torn off") from error
        if num_read == 0:
            raise EOFError("the other end is closed")
        left = left[num_read:]
        if left and deadline is not None and time.monotonic() > deadline:
            raise TimeoutError("the message was not whole in time")
    return content
