"""A decoding child that does what a broken decoder might do, as a file beside the video says.

Run as the `program` of a DecodingChild: it puts its own decoder and probe in place and then serves
as the real one does. `a.plan` beside `a.mp4` holds {"kind", "where", "after", "times"}: at the
probe or after so many frames misbehave, so many times. `a.log` gets a line per decoded frame.
"""

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tasks import decoding_child_main
from video2lora_core import frames
from video2lora_core.pyav_decoder import decoded_frames


def main(pipe_fd: int, parent_pid: int) -> None:
    from tasks import video_reader

    probe = video_reader.probe

    def misbehaving_probe(path: Path, **how: int) -> frames.VideoProbe:
        misbehave(path, where="probe")
        return probe(path, **how)

    frames.DECODERS["pyav"] = misbehaving_frames
    video_reader.probe = misbehaving_probe
    decoding_child_main.main(pipe_fd, parent_pid)


def misbehaving_frames(path: Path, **how: Any) -> Iterator[Any]:
    with path.with_suffix(".log").open("a", buffering=1) as log:
        for number, item in enumerate(decoded_frames(path, **how)):
            misbehave(path, where="frames", number=number)
            log.write(f"{number}\n")
            yield item


def misbehave(path: Path, *, where: str, number: int = 0) -> None:
    file = path.with_suffix(".plan")
    plan = json.loads(file.read_text()) if file.exists() else {"times": 0}
    if plan["times"] and plan["where"] == where and number == plan["after"]:
        file.write_text(json.dumps({**plan, "times": plan["times"] - 1}))
        KINDS[plan["kind"]]()


def eat_memory() -> None:
    """Take memory in the steps of a decoder, and hold it when there is no more."""
    eaten = []
    while True:
        eaten.append(np.empty(64 * 1024**2, dtype=np.uint8))


def spin() -> None:
    while True:
        pass


def fail() -> None:
    raise ZeroDivisionError("nobody foresaw this")


KINDS: dict[str, Callable[[], object]] = {
    "sleep": lambda: time.sleep(100_000),
    "sleep holding the interpreter": lambda: ctypes.PyDLL(None).sleep(100_000),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "spin": spin,
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "eat memory": eat_memory,
    "fail": fail,
}
