"""Decoders, tried on a video that is made on the spot: in this process and in a limited child."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np

from tasks.doctor.finding import Finding, Patient, fault, ok, warning

_FRAMES, _FPS, _SIZE_PX = 16, 8, 64
_LEVELS: Final = (40, 200)
"""Brightness of the first and of the second half."""
_TOLERANCE: Final = 12.0


def check_decoders(patient: Patient) -> Iterator[Finding]:
    """Decode a generated video with each decoder that is installed."""
    with tempfile.TemporaryDirectory(prefix="video2lora-doctor-") as folder:
        path = Path(folder) / "doctor.mp4"
        try:
            write_probe_video(path)
        except (ImportError, OSError, ValueError, AttributeError) as error:
            yield fault(
                "decoder pyav",
                f"{type(error).__name__}: {error}",
                meaning="no video can be decoded",
                fix="pip install --force-reinstall 'av>=18,<20'",
            )
            return
        yield _tried("pyav", path, fix="pip install --force-reinstall 'av>=18,<20'")
        yield _decord(path, is_needed=patient.decoder == "decord")
        yield _child(path)


def write_probe_video(path: Path) -> None:
    """Write two seconds, the first dark, the second bright."""
    import av
    from av.video.stream import VideoStream

    with av.open(str(path), "w") as target:
        stream = target.add_stream("mpeg4", rate=_FPS)
        assert isinstance(stream, VideoStream)
        stream.width = stream.height = _SIZE_PX
        stream.pix_fmt = "yuv420p"
        for number in range(_FRAMES):
            level = _LEVELS[number >= _FRAMES // 2]
            image = np.full((_SIZE_PX, _SIZE_PX, 3), level, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))


def _decord(path: Path, *, is_needed: bool) -> Finding:
    try:
        import decord  # noqa: F401  (whether it can be imported is the question)
    except (ImportError, OSError) as error:
        fix = "pip install decord, or use `decoder: pyav`"
        if not is_needed:
            return ok("decoder decord", f"not installed ({type(error).__name__}); optional")
        return fault("decoder decord", str(error), meaning="the run config asks for it", fix=fix)
    return _tried("decord", path, fix="use `decoder: pyav`")


def _tried(decoder: str, path: Path, *, fix: str) -> Finding:
    from video2lora_core.frames import SegmentFrames, decode

    name = f"decoder {decoder}"
    outcome: Any = next(
        iter(decode(path, _segments(), num_frames=4, prepare=_whole, decoder=decoder))
    )
    if not isinstance(outcome, SegmentFrames):
        return fault(name, f"{outcome.reason}", meaning="videos would be rejected", fix=fix)
    levels = outcome.pixels.mean(axis=(1, 2, 3))
    wanted = (_LEVELS[0], _LEVELS[0], _LEVELS[1], _LEVELS[1])
    if np.abs(levels - np.asarray(wanted)).max() > _TOLERANCE:
        found = f"brightness {np.round(levels).tolist()}, expected {list(wanted)}"
        return fault(name, found, meaning="it gives wrong frames", fix=fix)
    return ok(name, f"4 right frames of a generated video; {_library(decoder)}")


def _library(decoder: str) -> str:
    from importlib.metadata import version

    package = {"pyav": "av"}.get(decoder, decoder)
    return f"{package} {version(package)}"


def _child(path: Path) -> Finding:
    from configs.load import load_model_config
    from configs.schema import DecodeConfig
    from tasks.decoding_child import ChildStartError, DecodingChild

    limits = DecodeConfig(workers=1)
    try:
        with DecodingChild(model=load_model_config("tiny"), decoder="pyav", limits=limits) as child:
            num_frames = sum(1 for _ in child.decode(path, _segments()))
    except (ChildStartError, OSError) as error:
        fix = "ulimit -v unlimited; ulimit -u 4096"
        meaning = "no video can be decoded within limits"
        return fault("decoding child", str(error), meaning=meaning, fix=fix)
    if num_frames == 1:
        where = "" if sys.platform == "linux" else " (its memory is not limited on this system)"
        return ok("decoding child", f"started, decoded, ended{where}")
    return warning(
        "decoding child",
        f"{num_frames} segments of 1",
        meaning="a child answers otherwise than this process",
        fix="video2lora --traceback doctor",
    )


def _segments() -> list[Any]:
    from video2lora_core.segments import Segment

    return [Segment(start_us=0, end_us=_FRAMES * 1_000_000 // _FPS)]


def _whole(frame: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(frame.transpose(2, 0, 1))
