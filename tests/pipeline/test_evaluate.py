"""An evaluation from mp4 files to rows and report: each part once, each row once."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.evaluate_schema import EvaluateConfig, ExamConfig
from configs.load import load_config, load_model_config
from flows.evaluate import EvaluationSummary, evaluate
from flows.local_engine import LocalEngine
from storage.lake import open_lake
from tasks import evaluate as steps
from tasks.evaluate_exam import render_exam
from video2lora_core.errors import UsageError

ROOT = Path(__file__).parents[2]
PARTS = ["comparison", "cost", "composition", "ranks", "sweep"]
SMALL = {
    "max_new_tokens": 2,
    "num_resamples": 50,
    "num_examples": 2,
    "cost": {"num_frames": [4, 8], "num_questions": [1, 5], "num_videos": 1, "repeats": 1},
    "composition": {"num_segments": [2, 3], "num_videos": 1, "svd_rank": 2},
    "ranks": {"num_ranks": [1, 5], "num_videos": 1},
    "sweep": {"num_frames": [2], "longest_edge_px": [8, 16], "num_videos": 1},
}

Evaluate = Callable[..., EvaluationSummary]


@pytest.fixture
def asked(corpus: Path, tmp_path: Path) -> Path:
    """Three questions; one has no reference, one names no video."""
    lines = [
        {"video": "long.mp4", "question": "What is seen?", "reference": "a", "question_type": "k"},
        {"video": "short.mp4", "question": "Who?", "reference": "b", "question_type": "k"},
        {"video": "short.mp4", "question": "Why?"},
        {"video": "nowhere.mp4", "question": "What?", "reference": "c"},
    ]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def run_evaluation(corpus: Path, tmp_path: Path, model: str, asked: Path) -> Evaluate:
    def run(**changed: Any) -> EvaluationSummary:
        values = {
            "lake": str(tmp_path / "lake"),
            "model": model,
            "corpus": str(corpus),
            "questions": str(asked),
            "engine": "local",
            "decode": {"workers": 0},
            **SMALL,
        }
        config = EvaluateConfig.model_validate({**values, **changed})
        return evaluate(config, LocalEngine(), out=tmp_path / "report.html")

    return run


@pytest.mark.slow
def test_every_part_is_measured_once_and_every_row_written_once(
    run_evaluation: Evaluate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> Any:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patched:
        patched.setitem(steps.VARIED, "ranks", broken)  # type: ignore[index]
        with pytest.raises(RuntimeError, match="killed here"):
            run_evaluation()
    first = run_evaluation()
    assert [(p.part, p.is_new) for p in first.parts] == [
        (part, part in ("ranks", "sweep")) for part in PARTS
    ]
    assert first.num_rows == sum(part.num_figures for part in first.parts)
    page = (tmp_path / "report.html").read_bytes()
    second = run_evaluation()
    assert second.num_rows == 0
    assert not any(part.is_new for part in second.parts)
    assert second.evaluation_id == first.evaluation_id
    assert (tmp_path / "report.html").read_bytes() == page
    lake = open_lake(tmp_path / "lake")
    assert lake.query("select * from evaluations").num_rows == first.num_rows
    check_report(page.decode(), lake.query("select * from evaluations").to_pylist())
    check_answers(lake.query("select * from answers").to_pylist())


def check_report(page: str, rows: list[dict[str, Any]]) -> None:
    """Every mean with its interval that a row holds stands in the page, and no other."""
    written = {
        f"{r['value']:.3f} [{r['low']:.3f},\u00a0{r['high']:.3f}]"
        for r in rows
        if r["low"] is not None and r["metric"] != "exact_match"
    }
    shown = set(re.findall(r"-?\d\.\d{3} \[-?\d\.\d{3},\u00a0-?\d\.\d{3}\]", page))
    assert written <= shown
    every = {
        f"{r['value']:.3f} [{r['low']:.3f},\u00a0{r['high']:.3f}]"
        for r in rows
        if r["low"] is not None
    }
    assert shown <= every
    assert page.count("data:image/jpeg") == 2
    assert "<script" not in page


def check_answers(rows: list[dict[str, Any]]) -> None:
    """The comparison is the product's own answers: three questions in four modes."""
    by_mode = {mode: [r for r in rows if r["mode"] == mode] for mode in {r["mode"] for r in rows}}
    assert {mode: len(found) for mode, found in by_mode.items()} == {
        "adapter": 3,
        "in-context": 3,
        "in-context-kv-cache": 3,
        "blind": 3,
    }


def test_changed_settings_are_another_evaluation(run_evaluation: Evaluate) -> None:
    bare = dict.fromkeys(("cost", "composition", "ranks", "sweep"))
    first = run_evaluation(**bare, modes=["blind"], has_control=False)
    other = run_evaluation(**bare, modes=["blind"], has_control=False, num_resamples=60)
    assert [part.part for part in other.parts] == ["comparison"]
    assert first.evaluation_id != other.evaluation_id
    assert other.num_rows > 0
    assert other.verdicts == ()


def test_the_configs_that_are_shipped_load_and_name_models_that_are_there() -> None:
    for name in ("tiny", "500m"):
        config = load_config(ROOT / f"configs/evaluate/{name}.yaml", EvaluateConfig)
        assert load_model_config(config.model).segments.num_frames > 0
        assert config.margins == {"token_f1": 0.05, "judge": 0.15}
        assert steps.measured_parts(config) == PARTS
    assert config.sweep is not None
    assert config.sweep.longest_edge_px == (224, 336, 512, 1024)
    assert config.sweep.num_frames == (8, 12, 24, 48, 128, 256, 512, 1024)


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({}, "exactly one of `exam` and `questions`"),
        ({"exam": {"directory": "x"}, "corpus": "videos"}, "`corpus` goes with `questions`"),
        ({"questions": "q.jsonl", "mode": "adapter"}, "unknown key `mode`"),
    ],
)
def test_a_config_that_asks_for_nothing_clear_is_refused(
    tmp_path: Path, changed: dict[str, Any], what: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"lake": "lake", **changed}), encoding="utf-8")
    with pytest.raises(UsageError, match=what):
        load_config(path, EvaluateConfig)


def test_an_exam_is_rendered_once_and_asks_what_its_videos_show(tmp_path: Path) -> None:
    exam = ExamConfig(directory=tmp_path, videos_by_scenes={1: 2, 2: 1})
    first = render_exam(exam)
    times = {path: path.stat().st_mtime_ns for path in Path(first.corpus).iterdir()}
    text = Path(first.questions).read_text(encoding="utf-8")
    assert render_exam(exam) == first
    assert {path: path.stat().st_mtime_ns for path in Path(first.corpus).iterdir()} == times
    assert Path(first.questions).read_text(encoding="utf-8") == text
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["video"] for line in lines} == {str(path) for path in times}
    assert len({line["question_id"] for line in lines}) == len(lines)
    assert render_exam(exam.model_copy(update={"seed": 1})).questions != first.questions
