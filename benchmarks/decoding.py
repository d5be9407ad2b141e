"""From a file to the frames of one segment: ours against decoding every frame.

    .venv/bin/python -m benchmarks.decoding --pairs 5

30 s of 720p H.264 at 25 frames a second, 12 frames wanted, one thread. The plain way decodes from
start to end and converts what it picks; ours decodes what these frames need and must give the same
pixels, or nothing is timed. Two files, a key frame every 2 s and every 10 s, three B-frames, made
by PyAV's own encoder when it runs. `keyframes` is the approximation of that name: other frames, so
it stands beside. Bars: at most 0.75 of the packets decoded, in at most 0.8 of the time.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.stream import VideoStream

from benchmarks import _naive_path
from benchmarks._pairs import seconds_of, surroundings
from benchmarks._verdict import Verdict, at_least, at_most, finish, make_parser
from video2lora_core.frames import SegmentFrames, decode
from video2lora_core.full_decoding import PacketCounts
from video2lora_core.keyframes import key_frames
from video2lora_core.picking import pick
from video2lora_core.pyav_decoder import decoded_frames
from video2lora_core.segments import Segment, frame_times

FPS = 25
WANTED_FRAMES = 12
LEAST_RATIO, MOST_PACKETS = 1.25, 0.75


def texture(height_px: int, width_px: int, *, seed: int = 0) -> np.ndarray:
    """Draw a still picture with detail at every scale, as nature has: noise summed over octaves."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height_px, width_px, 3))
    for cell_px in (4, 16, 64, 256):
        rows, columns = -(-height_px // cell_px), -(-width_px // cell_px)
        coarse = rng.normal(size=(rows, columns, 3)) * cell_px**0.5
        fine = coarse.repeat(cell_px, axis=0).repeat(cell_px, axis=1)
        total += fine[:height_px, :width_px]
    low, high = np.quantile(total, (0.01, 0.99))
    levels: np.ndarray = np.clip((total - low) / (high - low) * 255, 0, 255)
    return levels.astype(np.uint8)


def write_film(path: Path, *, seconds: int, size_px: tuple[int, int], key_s: int) -> Path:
    """Write a camera's slow turn over a texture, with a disc that crosses it."""
    width_px, height_px = size_px
    wide = texture(height_px + 64, width_px + 512)
    y, x = np.mgrid[:height_px, :width_px]
    with av.open(str(path), "w") as target:
        options = {"preset": "veryfast", "crf": "23", "g": str(key_s * FPS), "bf": "3"}
        options["x264-params"] = f"keyint={key_s * FPS}:min-keyint={key_s * FPS}:scenecut=0"
        stream = target.add_stream("libx264", rate=FPS, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(seconds * FPS):
            left = int(256 + 255 * np.sin(number / 60))
            picture = wide[32 : 32 + height_px, left : left + width_px].copy()
            centre = number * 7 % width_px
            picture[(x - centre) ** 2 + (y - height_px / 2) ** 2 < (height_px / 6) ** 2] //= 3
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def as_is(frame: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(frame.transpose(2, 0, 1))


def ways(path: Path, segment: Segment) -> dict[str, Callable[[], Sequence[np.ndarray]]]:
    """Return the ways to one segment's frames: each gives [channel, height, width] pictures."""

    def ours(sampling: str) -> Sequence[np.ndarray]:
        how = {"num_frames": WANTED_FRAMES, "prepare": as_is}
        (found,) = decode(path, [segment], sampling=sampling, **how)  # type: ignore[arg-type]
        assert isinstance(found, SegmentFrames), found
        return list(found.pixels)

    def naive() -> Sequence[np.ndarray]:
        span = {"start_us": segment.start_us, "end_us": segment.end_us}
        return [as_is(f) for f in _naive_path.frames(path, num_frames=WANTED_FRAMES, **span)]

    return {
        "naive": naive,
        "sparse": lambda: ours("centres"),
        "keyframes": lambda: ours("keyframes"),
    }


def packets_decoded(path: Path, segment: Segment) -> dict[str, int]:
    """Count what each way gives to the decoder."""
    wanted_us = frame_times(segment, num_frames=WANTED_FRAMES)
    counts = {name: PacketCounts() for name in ("naive", "sparse", "keyframes")}
    passes = [
        decoded_frames(path, counts=counts["naive"]),
        decoded_frames(path, wanted_us=wanted_us, counts=counts["sparse"]),
        key_frames(path, wanted_us=wanted_us, counts=counts["keyframes"]),
    ]
    for items in passes:
        list(pick(items, [segment], num_frames=WANTED_FRAMES, prepare=as_is))
    return {name: count.num_decoded for name, count in counts.items()}


def measure_film(path: Path, segment: Segment, *, subject: str, num_pairs: int) -> dict[str, Any]:
    """Check that sparse decoding gives the naive frames, count packets, then time in turns."""
    run = ways(path, segment)
    exact, found = run["naive"](), run["sparse"]()
    if not all(np.array_equal(a, b) for a, b in zip(exact, found, strict=True)):
        raise SystemExit(f"{subject}: other frames than by full decoding; nothing was timed")
    seconds: dict[str, list[float]] = {name: [] for name in run}
    order = list(run)
    for _ in range(num_pairs):
        for name in order:
            seconds[name].append(seconds_of(run[name]))
        order.reverse()
    ratios = {
        name: [a / b for a, b in zip(seconds["naive"], seconds[name], strict=True)]
        for name in ("sparse", "keyframes")
    }
    return {
        "subject": subject,
        "seconds": seconds,
        "ratios": ratios,
        "packets": packets_decoded(path, segment),
        "file_bytes": path.stat().st_size,
    }


def judge(films: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    verdicts = []
    for film in films:
        ratios, packets = film["ratios"]["sparse"], film["packets"]
        shown = f"{min(ratios):.2f} - {max(ratios):.2f}"
        what = f"{film['subject']}: every frame over ours, CPU time"
        verdicts.append(at_least(what, statistics.median(ratios), LEAST_RATIO, detail=shown))
        what = f"{film['subject']}: packets decoded, ours over every frame"
        share, shown = packets["sparse"] / packets["naive"], f"{packets['sparse']}"
        shown += f" of {packets['naive']}; keyframes {packets['keyframes']}"
        verdicts.append(at_most(what, share, MOST_PACKETS, detail=shown))
    return verdicts


def rows(films: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lay the ratios out as the other benchmarks do, for the page."""
    return [
        {"subject": film["subject"], "part": name, "ratios": ratios}
        for film in films
        for name, ratios in film["ratios"].items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    options = make_parser("Time the way from a file to frames.", num_pairs=5).parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    seconds, size_px = (30, (1280, 720)) if not options.quick else (10, (160, 96))
    films = []
    with tempfile.TemporaryDirectory() as directory:
        for key_s in (2, 10):
            path = Path(directory) / f"{key_s}.mp4"
            write_film(path, seconds=seconds, size_px=size_px, key_s=key_s)
            whole = Segment(start_us=0, end_us=seconds * 1_000_000)
            subject = f"{seconds} s of {size_px[0]}x{size_px[1]}, key frames {key_s} s apart"
            films.append(measure_film(path, whole, subject=subject, num_pairs=options.pairs))
    measured = here | {"films": films, "outcomes": rows(films)}
    finish(measured, judge(films), out=options.out, quick=options.quick)


if __name__ == "__main__":
    main()
