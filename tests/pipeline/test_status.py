"""`status` and `report` say of a run what it did, while it goes on and afterwards."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from configs.schema import InternalizeConfig
from storage.errors import CatalogError
from storage.lake import Lake, open_lake
from tasks.plan_run import plan_run
from tasks.run_report import ReportSettings, write_report
from tasks.run_report_pictures import busy_picture, throughput_picture
from tasks.status import SILENT_S, read_status
from tests.pipeline.answer_sets import ask_set, write_set
from tests.pipeline.conftest import Run

Call = Callable[..., tuple[int, str, str]]
HOSTILE = "<script>alert('x')</script>"


@pytest.fixture
def lake(tmp_path: Path) -> str:
    return str(tmp_path / "lake")


def test_status_says_what_the_run_itself_says(run: Run, lake: str, call: Call) -> None:
    done = run(shard_videos=1, unit_segments=2)
    found = read_status(lake, run=done.plan.run_id[:8], price=3600.0)
    (status,) = found.runs
    assert status.state == "published"
    assert (status.num_shards, status.num_shards_done) == (2, 2)
    assert (status.num_videos, status.num_videos_met) == (2, 2)
    assert status.num_segments == done.shards.num_segments == 5
    assert status.video_hours * 3600 == pytest.approx(16.0)
    assert status.left_s is None
    assert status.cost == pytest.approx(status.device_s)
    assert status.cost_per_video_hour == pytest.approx(status.device_s / status.video_hours)
    assert 0 < status.device_s <= status.wall_s
    assert status.segments_per_s == pytest.approx(5 / status.active_s)
    assert {shard.state for shard in found.shards} == {"done"}
    assert sorted(shard.num_segments for shard in found.shards) == [2, 3]
    assert found.size["num_adapters"] == 5
    code, out, _ = call("status", "--lake", lake, "--json")
    assert code == 0
    assert json.loads(out)["runs"][0]["run_id"] == done.plan.run_id
    code, out, _ = call("status", "--lake", lake, "--run", done.plan.run_id[:4])
    assert "published" in out
    assert "2/2" in out


def commit_a_unit(lake: Lake, run_id: str, recipe_id: str, uri: str) -> None:
    common = {"recipe_id": recipe_id, "worker": "here", "attempt_id": "a"}
    place = {"source_id": uri, "uri": uri, "version_token": "1"}
    video = {**place, "video_id": uri, "duration_us": 4_000_000, "num_segments": 1}
    rows = {"videos": [video], "runs": [{"wall_s": 30.0}]}
    lake.commit_unit(run_id=run_id, shard=0, unit=0, rows=rows, common=common)


def test_a_run_that_goes_on_has_a_time_left_until_nobody_seems_to_work(
    corpus: Path, lake: str, model: str
) -> None:
    config = InternalizeConfig(corpus=str(corpus), lake=lake, model=model, shard_videos=1)
    plan = plan_run(config, attempt_id="a")
    (planned,) = read_status(lake).runs
    assert (planned.state, planned.num_shards, planned.left_s) == ("planned", 2, None)
    commit_a_unit(open_lake(lake), plan.run_id, plan.recipe_id, "/x.mp4")
    (status,) = read_status(lake).runs
    assert (status.state, status.num_videos_met, status.num_shards_done) == ("running", 1, 1)
    assert status.left_s == pytest.approx(30.0)
    found = read_status(lake, run=plan.run_id)
    assert [shard.state for shard in found.shards] == ["done", "waiting"]
    later = status.planned_at_s + status.active_s + SILENT_S * 2
    assert read_status(lake, now_s=later).runs[0].left_s is None


def test_a_run_that_does_not_exist_is_named(run: Run, lake: str, call: Call) -> None:
    run_id = run().plan.run_id
    with pytest.raises(CatalogError, match=r"run 'zz': 0 runs of this lake begin so"):
        read_status(lake, run="zz")
    code, _, err = call("status", "--lake", lake, "--run", "zz")
    assert code == 1
    assert read_status(lake, run=run_id[:3]).runs[0].run_id == run_id
    assert err.count("\n") == 1


def answer_row(lake: Lake, **changed: Any) -> dict[str, Any]:
    adapter = lake.query("from adapters order by video_id, start_us").to_pylist()[0]
    return {
        "run_id": "answers",
        "recipe_id": adapter["recipe_id"],
        "answer_id": "1",
        "mode": "adapter",
        "video_id": adapter["video_id"],
        "parents": [adapter["adapter_sha256"]],
        "question": HOSTILE,
        "answer": "red & <b>blue</b>",
        "model_name": "tiny",
        "model_weights_sha256": "w",
        "num_prompt_tokens": 9,
        "num_visual_tokens": 0,
        "num_new_tokens": 1,
        **changed,
    }


def test_the_report_shows_answers_beside_pictures_and_escapes_everything(
    run: Run, lake: str, tmp_path: Path, corpus: Path
) -> None:
    (corpus / f"{HOSTILE.replace('/', '')}.mp4").write_bytes(b"no video")
    run(shard_videos=2, unit_segments=2, corpus_name=HOSTILE)
    opened = open_lake(lake)
    opened.append("answers", [answer_row(opened)])
    out = tmp_path / "pages" / "report.html"
    made = write_report(ReportSettings(lake=lake, out=out, price=2.5))
    page = out.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "red &amp; &lt;b&gt;blue&lt;/b&gt;" in page
    assert "NOT_MEDIA" in page
    assert page.count('src="data:image/jpeg;base64,') == 1
    assert page.count("<svg") == 2
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == []
    assert made["size_bytes"] == out.stat().st_size
    assert any(heading.startswith("Answers: ") for heading in made["sections"])


def test_a_source_that_is_gone_or_changed_has_no_picture_and_says_so(
    run: Run, lake: str, tmp_path: Path, corpus: Path
) -> None:
    run()
    opened = open_lake(lake)
    opened.append("answers", [answer_row(opened)])
    for path in corpus.iterdir():
        path.unlink()
    out = tmp_path / "r.html"
    write_report(ReportSettings(lake=lake, out=out))
    page = out.read_text(encoding="utf-8")
    assert "no picture: " in page
    assert "there is no such file" in page
    assert "data:image" not in page


def test_a_run_that_committed_nothing_has_a_page_too(
    corpus: Path, lake: str, model: str, tmp_path: Path, call: Call
) -> None:
    code, _, err = call("report", "--lake", lake)
    assert code == 1
    assert "no lake here" in err
    open_lake(lake, create=True)
    assert "no run to report on" in call("report", "--lake", lake)[2]
    plan_run(InternalizeConfig(corpus=str(corpus), lake=lake, model=model), attempt_id="a")
    out = tmp_path / "r.html"
    code, _, _ = call("report", "--lake", lake, "--out", out)
    page = out.read_text(encoding="utf-8")
    assert code == 0
    for said in ("has committed nothing yet", "Nothing was tried yet", "No question was answered"):
        assert said in page


def test_throughput_keeps_the_number_of_segments_whatever_the_spans() -> None:
    from tasks.run_report_pictures import _BINS, _binned

    units = [
        {"began_us": 0, "at_us": 10_000_000, "num_segments": 8},
        {"began_us": 5_000_000, "at_us": 30_000_000, "num_segments": 3},
        {"began_us": 30_000_000, "at_us": 30_000_000, "num_segments": 2},
    ]
    counts = _binned(units, 0, 30_000_000 // _BINS + 1)
    assert sum(counts) == pytest.approx(13)
    assert throughput_picture(units[:1]) is None
    assert busy_picture([]) is None


def test_a_run_that_answered_questions_is_no_run_over_videos(
    run: Run, lake: str, tmp_path: Path, model: str
) -> None:
    run_id = run().plan.run_id
    questions = write_set(tmp_path / "q.jsonl", [{"video": "short.mp4", "question": "What?"}])
    assert ask_set(questions, lake, model).found.num_answers == 1
    assert [seen.run_id for seen in read_status(lake).runs] == [run_id]
    made = write_report(ReportSettings(lake=lake, out=tmp_path / "report.html"))
    assert made["run_id"] == run_id
    assert "Answers: short.mp4" in made["sections"]
