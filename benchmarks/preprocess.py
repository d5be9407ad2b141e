"""From decoded frames to what the vision tower takes: ours against two PIL resizes and a mask.

    .venv/bin/python -m benchmarks.preprocess --pairs 7

Frames of 1280x720 to 384 and then to 512 pixels (the 500M's), one thread. The plain way is the
reference's: PIL twice, float32, the mask of real pixels. Ours stays uint8 through both passes; the
float pass happens on the device and is in our time here too. Bars: the torch path at least 3 times
as fast, within 3 levels on at most 3% of the values; the pil path equal to the plain way.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import _naive_path
from benchmarks._pairs import seconds_of, surroundings
from benchmarks._verdict import Verdict, at_least, at_most, finish, make_parser
from video2lora_core.pixels import PixelSpec, Resize, normalise, prepare

SPEC = PixelSpec(longest_edge_px=384, size_px=512)


def pictures(count: int, *, width_px: int = 1280, height_px: int = 720) -> list[np.ndarray]:
    """Draw frames with edges and smooth parts, as films have: a moving disc on gradients."""
    y, x = np.mgrid[:height_px, :width_px]
    made = []
    for index in range(count):
        disc = (x - 90 * index - 80) ** 2 + (y - height_px / 2) ** 2 < (height_px / 5) ** 2
        channels = [(x * (c + 1) // 4 + 13 * index) % 256 for c in range(2)]
        frame = np.stack([*channels, (y // 2 + 30 * disc * index) % 256], axis=-1)
        frame[disc] = 255 - frame[disc]
        made.append(np.ascontiguousarray(frame.astype(np.uint8)))
    return made


def plainly(frames: Sequence[np.ndarray], spec: PixelSpec) -> Tensor:
    pixel_values, _mask = _naive_path.preprocess(
        frames, longest_edge_px=spec.longest_edge_px, size_px=spec.size_px
    )
    return pixel_values[0]


def ours(frames: Sequence[np.ndarray], spec: PixelSpec, resize: Resize) -> Tensor:
    chosen = PixelSpec(longest_edge_px=spec.longest_edge_px, size_px=spec.size_px, resize=resize)
    return normalise(torch.from_numpy(np.stack([prepare(frame, chosen) for frame in frames])))


def differences(frames: Sequence[np.ndarray], spec: PixelSpec) -> dict[str, float]:
    """Compare levels 0..255 of both our paths with the plain way's."""
    exact = plainly(frames, spec)
    levels = {name: ours(frames, spec, name) for name in ("torch", "pil")}
    gaps = {name: ((x - exact).abs() * 127.5).round() for name, x in levels.items()}
    return {
        "torch_max_levels": float(gaps["torch"].max()),
        "torch_share_changed": float((gaps["torch"] > 0).double().mean()),
        "pil_max_levels": float(gaps["pil"].max()),
    }


def upload_bytes(frames: int, spec: PixelSpec) -> dict[str, int]:
    """Count what goes to the device for one segment."""
    values = frames * spec.size_px**2
    return {"naive": values * 3 * 4 + values * 8, "ours": values * 3}


def main(arguments: Sequence[str] | None = None) -> None:
    options = make_parser("Time the way from frames to pixels.", num_pairs=7).parse_args(arguments)
    torch.set_num_threads(1)
    here = surroundings()
    frames = pictures(1, width_px=96, height_px=54) if options.quick else pictures(12)
    ways: dict[str, Callable[[], object]] = {
        "naive": lambda: plainly(frames, SPEC),
        "torch": lambda: ours(frames, SPEC, "torch"),
        "pil": lambda: ours(frames, SPEC, "pil"),
    }
    for run in ways.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for _ in range(options.pairs):
        for name in order:
            seconds[name].append(seconds_of(ways[name]))
        order.reverse()
    found = differences(frames, SPEC)
    sent = upload_bytes(len(frames), SPEC)
    measured: dict[str, Any] = here | {
        "shape": {"num_frames": len(frames), "frame": list(frames[0].shape), "size_px": 512},
        "seconds": seconds,
        "differences": found,
        "upload_bytes": sent,
    }
    finish(measured, judge(seconds, found, sent), out=options.out, quick=options.quick)


def judge(
    seconds: dict[str, list[float]], found: dict[str, float], sent: dict[str, int]
) -> list[Verdict]:
    verdicts = []
    for name, bar in (("torch", 3.0), ("pil", 1.0)):
        ratios = [a / b for a, b in zip(seconds["naive"], seconds[name], strict=True)]
        shown = f"{min(ratios):.2f} - {max(ratios):.2f}"
        what = f"two PIL resizes, float and mask over resize: {name}"
        verdicts.append(at_least(what, statistics.median(ratios), bar, detail=shown))
    share = found["torch_share_changed"]
    ratio = sent["naive"] / sent["ours"]
    shown = f"{sent['naive'] / 1e6:.1f} and {sent['ours'] / 1e6:.1f} MB"
    return [
        *verdicts,
        at_most("torch path, largest difference in levels", found["torch_max_levels"], 3),
        at_most("torch path, share of values that differ", share, 0.03),
        at_most("pil path, largest difference in levels", found["pil_max_levels"], 0),
        at_least("bytes to the device, naive over ours", ratio, 4.0, detail=shown),
    ]


if __name__ == "__main__":
    main()
