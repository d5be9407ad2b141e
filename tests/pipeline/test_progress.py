"""What is said while a shard runs: a line for people, an artifact for Prefect's page."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from flows import prefect_progress
from flows.console import ProgressLine
from flows.prefect_progress import PAUSE_S, ShardProgress
from tasks.progress import listening, report


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_line_tells_rate_and_time_left() -> None:
    clock = Clock()
    line = ProgressLine(now=clock)
    assert line.text() == "0 segments"
    clock.now_s = 60.0  # planning is not counted
    line.count("videos_planned", 100)
    clock.now_s = 160.0
    line.count("segments", 250)
    line.count("rejects", 2)
    assert line.text() == "250 segments, 2 rejects, 2.5 segments/s"
    line.count("videos", 20)
    assert line.text() == "250 segments, 2 rejects, 2.5 segments/s, 6 min 40 s left"
    line.count("videos", 79)
    assert line.text().endswith(", 1 s left")
    line.count("videos", 1)
    assert line.text() == "250 segments, 2 rejects, 2.5 segments/s"


def test_a_listener_inside_another_does_not_silence_it() -> None:
    outer: list[Any] = []
    inner: list[Any] = []
    with listening(lambda *told: outer.append(told)):
        with listening(lambda *told: inner.append(told)):
            report("videos")
        report("segments", 2)
    assert outer == [("videos", 1), ("segments", 2)]
    assert inner == [("videos", 1)]


class Page:
    """Stands for Prefect's artifacts."""

    def __init__(self) -> None:
        self.created: list[tuple[float, str]] = []
        self.updated: list[tuple[float, str]] = []

    def create(self, progress: float, key: str, description: str) -> UUID:
        self.created.append((progress, key))
        return uuid4()

    def update(self, _: UUID, progress: float, description: str) -> None:
        self.updated.append((progress, description))


def test_one_artifact_per_shard_is_changed_at_most_every_half_minute(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page, clock = Page(), Clock()
    monkeypatch.setattr(prefect_progress, "create_progress_artifact", page.create)
    monkeypatch.setattr(prefect_progress, "update_progress_artifact", page.update)
    progress = ShardProgress("0123456789abcdef", 3, now=clock)
    progress.take("shard_videos", 100)
    for second in range(100):
        clock.now_s = float(second)
        progress.take("videos", 1)
    progress.show()
    assert page.created == [(31.0, "shard-0123456789ab-3")]
    assert [percent for percent, _ in page.updated] == [61.0, 91.0, 100.0]
    assert page.updated[-1][1].endswith(
        "3 of run 0123456789ab: 100 of 100 videos, 0 segments, 0 rejects"
    )
    assert PAUSE_S == 30.0


def test_a_server_that_does_not_answer_does_not_stop_the_shard(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("no server")

    monkeypatch.setattr(prefect_progress, "create_progress_artifact", refuse)
    ShardProgress("run", 0).show()
    assert "the progress artifact was not written: no server" in caplog.text


def test_a_run_ends_with_a_table_of_what_it_did(
    monkeypatch: pytest.MonkeyPatch, run: Any, corpus: Any, tmp_path: Any, caplog: Any
) -> None:
    (corpus / "bad.mp4").write_bytes(b"no video")
    done = run()
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(prefect_progress, "create_table_artifact", lambda **new: made.append(new))
    prefect_progress.show_run_table(str(tmp_path / "lake"), done.plan.run_id)
    prefect_progress.show_run_table(str(tmp_path / "lake"), "")
    (artifact,) = made
    assert artifact["key"] == f"run-{done.plan.run_id[:12]}"
    table = {row["what"]: row["how much"] for row in artifact["table"]}
    assert table["segments"] == 5
    assert table["rejected: NOT_MEDIA"] == 1
    assert table["state"] == "published"
    prefect_progress.show_run_table(str(tmp_path / "nolake"), done.plan.run_id)
    assert "the table of the run was not made" in caplog.text
