"""Long and large videos are decoded in the memory of short ones, in the child and in its owner.

The videos are a few encoded seconds whose packets are written again and again: an hour costs
nothing to make.
"""

import json
import subprocess
import sys
from pathlib import Path

import av
import pytest

from tests.core.video_factory import write_video

FPS = 5
GOP_FRAMES = 2 * FPS
LIMIT = 1.15

# Decodes like a shard, at the pixel sizes of SmolVLM2-500M, and holds one segment at a time.
DECODE = """
import json, sys
from pathlib import Path
from configs.schema import DecodeConfig, ModelConfig
from tasks.decoding_child import DecodingChild
from video2lora_core.frames import SegmentFrames
from video2lora_core.segments import tile

model = ModelConfig.model_validate({
    "name": "none", "vlm": {"path": "none"}, "checkpoint": "none",
    "pixels": {"longest_edge_px": 384, "size_px": 512},
})
path = Path(sys.argv[1])

def peak_mib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

with DecodingChild(model=model, decoder="pyav", limits=DecodeConfig()) as child:
    facts = child.meet(path, is_hashed=False)
    segments = tile(facts.probe.duration_us, segment_us=30_000_000, min_tail_us=10_000_000)
    num_segments = 0
    for outcome in child.decode(path, segments):
        assert isinstance(outcome, SegmentFrames), outcome
        num_segments += 1
    found = {"child_mib": peak_mib(child.pid), "owner_mib": peak_mib("self"),
             "num_segments": num_segments, "num_children": child.num_started}
print(json.dumps(found))
"""


def repeated(source: Path, path: Path, *, seconds: int) -> Path:
    """Write the packets of a 2 s video until it lasts `seconds`."""
    with av.open(str(source)) as opened, av.open(str(path), "w") as target:
        stored = opened.streams.video[0]
        copied = target.add_stream_from_template(stored)
        assert stored.time_base is not None
        shift = int(2 / stored.time_base)
        packets = [
            (bytes(packet), packet.pts, packet.dts, packet.is_keyframe)
            for packet in opened.demux(stored)
            if packet.dts is not None and packet.pts is not None
        ]
        for round_ in range(seconds // 2):
            for content, pts, dts, is_keyframe in packets:
                packet = av.Packet(content)
                packet.stream, packet.time_base = copied, stored.time_base
                packet.pts, packet.dts = pts + round_ * shift, dts + round_ * shift
                packet.is_keyframe = is_keyframe
                target.mux(packet)
    return path


def measure(path: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", DECODE, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
@pytest.mark.parametrize(
    ("size_px", "minutes"), [((1280, 720), 60), ((3840, 2160), 10)], ids=["720p", "4K"]
)
def test_a_long_video_takes_the_memory_of_a_short_one(
    tmp_path: Path, size_px: tuple[int, int], minutes: int
) -> None:
    options = {"g": str(GOP_FRAMES), "bf": "2", "preset": "ultrafast"}
    gop = write_video(
        tmp_path / "gop.mp4", fps=FPS, numbers=range(GOP_FRAMES), size_px=size_px, options=options
    )
    short = measure(repeated(gop, tmp_path / "short.mp4", seconds=90))
    long = measure(repeated(gop, tmp_path / "long.mp4", seconds=minutes * 60))
    assert (short["num_segments"], long["num_segments"]) == (3, minutes * 2)
    assert long["num_children"] == 1
    sys.stdout.write(f"{size_px}: short {short}, long {long}\n")
    for who in ("child_mib", "owner_mib"):
        assert long[who] <= LIMIT * short[who], (short, long)
