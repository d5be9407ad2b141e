"""Every input of the decode table ends as the table says, through a decoding child.

The same files are decoded in the process itself: a child changes no pixel, no time and no reason.
How each file is made is in tests/core/conftest.py; what the decoder itself does with it, frame by
frame, in tests/core/test_pyav_decoder.py.
"""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.schema import DecodeConfig, ModelConfig
from tasks.decoding_child import DecodingChild, FileFacts, InProcessReader, VideoReader
from tests.core.conftest import MAKERS, VideoShelf
from tests.core.video_factory import FPS, mangled, read_number
from tests.pipeline.decoding_readers import MODEL, assert_same, make
from video2lora_core.errors import Reason, VideoError
from video2lora_core.frames import SegmentFrames, SegmentReject
from video2lora_core.segments import tile

Outcomes = list[SegmentFrames | SegmentReject]


def at(t_us: int) -> int:
    return t_us * FPS // 1_000_000


WHOLE = (
    "base.mp4 faststart.mp4 fragmented.mp4 base.mkv base.ts bare.h264 vp9.webm vp9.ivf "
    "noduration.webm hevc.mp4 tenbit.mp4 mpeg4.avi wmv2.wmv start5.mp4 start5.mkv start5.ts "
    "opengop.mp4 av1.mp4 flv1.flv prores.mov h264_422_10.mp4 odd.webm odd444.mp4 "
    "wide_pixels.mp4 broken_title.mp4 long_claim.mkv half_fragmented.mp4 pq.mp4 hlg.mp4 "
    "unrotated.mp4 resized.h264 restarted.ts reschange.ts"
)
# Intact: the number of the frame that is on screen at an instant.
EXACT: dict[str, Callable[[int], int]] = {
    **dict.fromkeys(WHOLE.split(), at),
    "vfr.mp4": lambda t_us: at(t_us) if t_us < 5_000_000 else 40 + (t_us - 5_000_000) // 500_000,
    "gap.mp4": lambda t_us: max(min(at(t_us), 39), at(t_us - 35_000_000)),
    "mpeg2.mpg": lambda t_us: t_us * 25 // 1_000_000,
    "fps120.mp4": lambda t_us: t_us * 120 // 1_000_000,
    "editlist.mp4": lambda t_us: 26 + at(t_us),
    "joined.ts": lambda t_us: 16 + at(t_us),
    "one.mp4": lambda t_us: 3,
    "slow.mkv": lambda t_us: t_us // 10_000_000,
    "paused.mkv": lambda t_us: at(t_us) if not 1_875_000 <= t_us < 6_000_000 else 15,
}

FLAGS = {
    "gap.mp4": Reason.PTS_DISCONTINUITY,
    "restarted.ts": Reason.PTS_DISCONTINUITY,
    "reschange.ts": Reason.PTS_DISCONTINUITY,
    "resized.h264": Reason.RES_CHANGE,
    "pq.mp4": Reason.HDR_AS_SDR,
    "hlg.mp4": Reason.HDR_AS_SDR,
}

# Refused whole, when it is met.
REFUSED = {
    "empty.mp4": Reason.SRC_EMPTY,
    "text.mp4": Reason.NOT_MEDIA,
    "random.mp4": Reason.NOT_MEDIA,
    "half.mp4": Reason.NOT_MEDIA,
    "ffconcat.mp4": Reason.NOT_MEDIA,
    "m3u8.mp4": Reason.NOT_MEDIA,
    "sdp.mp4": Reason.NOT_MEDIA,
    "corrupt_moov.mp4": Reason.CORRUPT_CONTAINER,
    "audio.mp4": Reason.NO_VIDEO_STREAM,
    "cover.m4a": Reason.NO_VIDEO_STREAM,
    "jpeg.mp4": Reason.STILL_IMAGE,
    "png.mp4": Reason.STILL_IMAGE,
    "gif.mp4": Reason.STILL_IMAGE,
    "unknown_codec.mp4": Reason.UNSUPPORTED_CODEC,
    "noise_all.mp4": Reason.UNSUPPORTED_CODEC,
    "zeros_all.mp4": Reason.UNSUPPORTED_CODEC,
    "no_fragment.mp4": Reason.NO_FRAMES,
}

# Damaged: a reason that some segments have; what is given of the others is right.
DAMAGED = {
    "half_faststart.mp4": Reason.TRUNCATED,
    "half.mkv": Reason.TRUNCATED,
    "noise.mp4": Reason.CORRUPT_FRAMES,
    "zeros_inside.mp4": Reason.CORRUPT_FRAMES,
    "zeros_tail.mp4": Reason.CORRUPT_FRAMES,
    "zeros_early.mp4": Reason.CORRUPT_FRAMES,
    "sprinkled.mp4": Reason.CORRUPT_FRAMES,
    "noise_head.mp4": Reason.CORRUPT_FRAMES,
    "noise.hevc.mp4": Reason.CORRUPT_FRAMES,
    "noise.webm": Reason.CORRUPT_FRAMES,
    "noise.mkv": Reason.COVERAGE_GAP,
    "noise.ts": Reason.COVERAGE_GAP,
    "noise_head.mkv": Reason.COVERAGE_GAP,
    "bent.ivf": Reason.TRUNCATED,
}


# Upright where they were turned, and what other files are made of.
TURNED = ["rotated90.mp4", "rotated270.mp4"]
PARTS = {"small.h264", "wide.h264", "small.ts", "wide.ts"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> VideoShelf:
    return VideoShelf(tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def child() -> Iterator[DecodingChild]:
    with make(DecodingChild) as started:
        yield started


def read(reader: VideoReader, path: Path) -> tuple[FileFacts | VideoError, Outcomes]:
    """Meet and decode a file; its segments are 2.5 s, with tails from 1 s."""
    outcomes: Outcomes = []
    try:
        facts = reader.meet(path, is_hashed=False)
        segments = tile(facts.probe.duration_us, segment_us=2_500_000, min_tail_us=1_000_000)
        outcomes.extend(reader.decode(path, segments))
    except VideoError as error:
        return error, outcomes
    assert tuple(outcome.segment for outcome in outcomes) == segments
    return facts, outcomes


def read_twice(child: DecodingChild, path: Path) -> tuple[FileFacts | VideoError, Outcomes]:
    """Read a file in the child and in this process, and find no difference."""
    facts, outcomes = read(child, path)
    expected_facts, expected = read(make(InProcessReader), path)
    assert str(facts) == str(expected_facts)
    assert getattr(facts, "video_id", None) == getattr(expected_facts, "video_id", None)
    assert_same(outcomes, expected)
    return facts, outcomes


def assert_exact(outcome: SegmentFrames, number_at: Callable[[int], int]) -> None:
    assert [read_number(frame) for frame in outcome.pixels] == list(
        map(number_at, outcome.times_us)
    )


@pytest.mark.parametrize("name", EXACT)
def test_an_intact_video_gives_exactly_the_right_frames(
    child: DecodingChild, videos: VideoShelf, name: str
) -> None:
    _, outcomes = read_twice(child, videos(name))
    for outcome in outcomes:
        assert isinstance(outcome, SegmentFrames), outcome
        assert_exact(outcome, EXACT[name])
    flags = {flag for outcome in outcomes for flag in getattr(outcome, "flags", ())}
    assert flags == ({FLAGS[name]} if name in FLAGS else set())


@pytest.mark.parametrize("name", TURNED)
def test_a_turned_video_comes_upright(child: DecodingChild, videos: VideoShelf, name: str) -> None:
    facts, outcomes = read_twice(child, videos(name))
    assert isinstance(facts, FileFacts)
    assert (facts.probe.width_px, facts.probe.height_px) == (96, 128)
    assert all(isinstance(outcome, SegmentFrames) for outcome in outcomes)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_video_has_its_reason(
    child: DecodingChild, videos: VideoShelf, name: str
) -> None:
    error, _ = read_twice(child, videos(name))
    assert isinstance(error, VideoError)
    assert error.reason == REFUSED[name]
    assert len(error.video_id or "") == 64


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_video_loses_what_is_damaged_and_gives_nothing_wrong(
    child: DecodingChild, videos: VideoShelf, name: str
) -> None:
    _, outcomes = read_twice(child, videos(name))
    reasons = {o.reason for o in outcomes if isinstance(o, SegmentReject)}
    assert DAMAGED[name] in reasons
    assert reasons <= {Reason.CORRUPT_FRAMES, Reason.COVERAGE_GAP, Reason.TRUNCATED}
    given = [outcome for outcome in outcomes if isinstance(outcome, SegmentFrames)]
    for outcome in given:
        assert_exact(outcome, at)


def test_every_video_on_the_shelf_is_in_the_table() -> None:
    tables = [EXACT, REFUSED, DAMAGED, dict.fromkeys(TURNED)]
    assert sum(len(table) for table in tables) == len(set().union(*tables))
    assert set().union(*tables) == set(MAKERS) - PARTS


def test_every_reason_is_explained() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "decoding.md").read_text("utf-8")
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    flags = set(FLAGS.values())
    assert {str(reason) for reason in Reason if reason not in flags} <= rows
    assert all(str(flag) in page for flag in flags)


def test_every_limit_is_documented_with_its_default() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "decoding.md").read_text("utf-8")
    limits = DecodeConfig()
    for row in (
        f"| `timeout_s` | {limits.timeout_s:g} s",
        f"| `cpu_s` | {limits.cpu_s:g} s",
        f"| `memory_bytes` | {limits.memory_bytes // 1024**3} GiB",
        f"| `max_pixels` | {limits.max_pixels:,}",
        f"| `max_file_bytes` | {limits.max_file_bytes // 1024**3} GiB",
        f"| `max_duration_s` | {limits.max_duration_s / 3600:g} h",
        f"| `videos_per_child` | {limits.videos_per_child} |",
    ):
        assert row in page


def test_a_bad_video_costs_the_table_no_child(child: DecodingChild, videos: VideoShelf) -> None:
    read(child, videos("base.mp4"))
    before = child.num_started
    for name in ("text.mp4", "noise_all.mp4", "corrupt_moov.mp4", "noise.mp4", "base.mp4"):
        read(child, videos(name))
    assert child.num_started == before


@pytest.mark.parametrize("name", ["faststart.mp4", "fragmented.mp4", "base.mkv", "base.ts"])
def test_a_mangled_video_ends_alike_in_a_child_and_without_one(
    child: DecodingChild, videos: VideoShelf, tmp_path: Path, name: str
) -> None:
    content = videos.content(name)
    for seed in range(20, 28):
        path = tmp_path / f"{seed}.mp4"
        path.write_bytes(mangled(content, random.Random(seed)))
        read_twice(child, path)


def test_frames_of_the_models_own_size_arrive_whole(videos: VideoShelf) -> None:
    large: dict[str, Any] = {"longest_edge_px": 384, "size_px": 512}
    model = ModelConfig.model_validate({**MODEL.model_dump(), "pixels": large})
    with make(DecodingChild, model=model) as child:
        _, outcomes = read(child, videos("base.mp4"))
        _, expected = read(make(InProcessReader, model=model), videos("base.mp4"))
    assert_same(outcomes, expected)
    assert {o.pixels.shape for o in outcomes if isinstance(o, SegmentFrames)} == {(4, 3, 512, 512)}
