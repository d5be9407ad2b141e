"""Keyframe snapping as a recipe: off by default, another recipe when on, the same in a child."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.schema import InternalizeConfig
from flows.api import open_lake
from tasks.decoding_child import DecodingChild, InProcessReader
from tasks.recipe import make_recipe
from tests.core.video_factory import H264, write_video
from tests.pipeline.decoding_readers import MODEL, SEGMENTS, assert_same
from video2lora_core.frames import SegmentFrames

Call = Callable[..., tuple[int, str, str]]


def content_of(**changed: Any) -> dict[str, Any]:
    return make_recipe(InternalizeConfig(corpus="x", lake="y", **changed)).content


def test_key_frames_are_another_recipe_and_the_default_is_what_it_was() -> None:
    plain = content_of()
    assert plain["sampling_rule"] == "centres of equal sub-spans"
    assert content_of(approximations={"frames": "centres"}) == plain
    snapped = content_of(approximations={"frames": "keyframes"})
    assert "key frames" in snapped["sampling_rule"]
    assert snapped == {**plain, "sampling_rule": snapped["sampling_rule"]}


def test_key_frames_need_the_decoder_that_gives_them() -> None:
    with pytest.raises(ValueError, match=r"keyframes.*pyav"):
        content_of(approximations={"frames": "keyframes"}, decoder="decord")


def test_a_decoding_child_snaps_as_its_owner_would(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    how = {
        "model": MODEL,
        "decoder": "pyav",
        "limits": InternalizeConfig.model_fields["decode"].default,
    }
    expected = list(InProcessReader(**how, sampling="keyframes").decode(path, SEGMENTS))
    with DecodingChild(**how, sampling="keyframes") as child:
        assert_same(list(child.decode(path, SEGMENTS)), expected)
    plain = list(InProcessReader(**how).decode(path, SEGMENTS))
    num_unique = [
        [outcome.num_unique_frames for outcome in found if isinstance(outcome, SegmentFrames)]
        for found in (expected, plain)
    ]
    assert sum(num_unique[0]) < sum(num_unique[1])


def test_a_run_config_makes_adapters_of_key_frames(call: Call, tmp_path: Path, model: str) -> None:
    corpus, lake = tmp_path / "videos", tmp_path / "lake"
    corpus.mkdir()
    write_video(corpus / "one key.mp4", options={**H264, "g": "250"}, numbers=range(48))
    config = {
        "corpus": str(corpus),
        "lake": str(lake),
        "model": model,
        "engine": "local",
        "decode": {"workers": 1},
        "approximations": {"frames": "keyframes"},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    code, out, _ = call("internalize", "--config", path, "--json")
    assert code == 0
    assert json.loads(out)["shards"]["num_segments"] == 2
    opened = open_lake(str(lake), model=model)
    rows = opened.sql("select num_unique_frames, max_lag_us from segments order by start_us")
    # Of 4 s and 2 s: what is farthest from the one key frame is the last instant of each.
    assert rows.to_pylist() == [
        {"num_unique_frames": 1, "max_lag_us": 3_500_000},
        {"num_unique_frames": 1, "max_lag_us": 5_750_000},
    ]
    _, recipe = opened.lake.latest_recipe()
    assert "key frames" in recipe["sampling_rule"]
