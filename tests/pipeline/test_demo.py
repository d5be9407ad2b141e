"""The demo runs from the first video to the last figure, with any model and on any video."""

from pathlib import Path

import pytest

from flows.demo import DemoSettings, run_demo
from storage.lake import open_lake
from video2lora_core.errors import UsageError


def settings(out: Path, model: str, *, video: Path | None = None) -> DemoSettings:
    return DemoSettings(
        out=out,
        video=video,
        question=None,
        engine="local",
        model=model,
        num_videos=1,
        seed=7,
        max_new_tokens=2,
    )


def test_the_demo_ends_with_its_tables(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_demo(settings(tmp_path / "demo", model))
    shown = capsys.readouterr().out
    for words in ("question type", "in context", "blind", "visual tokens", "step", "seconds"):
        assert words in shown
    assert open_lake(tmp_path / "demo/lake").query("select * from coverage").num_rows == 1


def test_the_demo_takes_a_video_of_the_users_own(
    tmp_path: Path, model: str, shelf: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_demo(settings(tmp_path / "demo", model, video=shelf / "long.mp4"))
    shown = capsys.readouterr().out
    assert "Describe the video." in shown
    assert "0 of them visual" in shown


def test_the_demo_says_why_a_video_cannot_be_used(tmp_path: Path, model: str) -> None:
    text = tmp_path / "words.mp4"
    text.write_text("no video")
    with pytest.raises(UsageError, match="it was rejected, NOT_MEDIA"):
        run_demo(settings(tmp_path / "demo", model, video=text))
