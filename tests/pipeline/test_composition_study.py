"""The study of long videos: every cell is counted, and its default row is the product's answer."""

from pathlib import Path

import pytest

from configs.load import load_model_config
from configs.schema import ModelConfig
from tasks import composition_study
from tasks.composition_page import percent, write_page
from tasks.composition_study import BUDGETS, ROUTED, LongVideo, check_default, sit, study
from tasks.models import LoadedModel, load_model
from video2lora_core.answer import answer
from video2lora_core.compose import concat, with_bias
from video2lora_core.routing import NUM_COMPOSED
from video2lora_core.shapes_world.long_world import ask_long

COUNTS = (1, 2, 9)
NUM_ROWS = len(BUDGETS) + len(ROUTED) + 2 + 2  # two reduced routes; the ceiling and the floor


@pytest.fixture(scope="module")
def config(model: str) -> ModelConfig:
    return load_model_config(model)


@pytest.fixture(scope="module")
def loaded(config: ModelConfig) -> LoadedModel:
    return load_model(config)


@pytest.fixture(autouse=True)
def few_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(composition_study, "NUM_SEGMENTS", COUNTS)


@pytest.fixture(scope="module")
def video(loaded: LoadedModel, config: ModelConfig) -> LongVideo:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition_study, "NUM_SEGMENTS", COUNTS)
        return composition_study.watch_long_video(0, loaded, config)


def test_every_question_is_put_to_every_row(video: LongVideo, loaded: LoadedModel) -> None:
    questions = ask_long(video.world, num_scenes=9, seed=0)
    located = [question for question in questions if question.scene is not None]
    marks = list(sit(video, 9, loaded))
    assert len(marks) == NUM_ROWS * len(questions) + len(located)
    assert {name for name, _, _ in marks} >= {
        "compose",
        "route",
        f"route-compose {NUM_COMPOSED}",
        "span",
    }


def test_a_mark_is_the_answer_judged(video: LongVideo, loaded: LoadedModel) -> None:
    questions = ask_long(video.world, num_scenes=9, seed=0)
    summed = with_bias(concat(video.adapters), loaded.bias())
    said = [
        answer(loaded.vlm, [q.text], adapters=summed, max_new_tokens=8)[0].text for q in questions
    ]
    expected = [text == q.answer for text, q in zip(said, questions, strict=True)]
    assert [ok for name, _, ok in sit(video, 9, loaded) if name == "compose"] == expected


def test_the_default_row_is_what_the_product_answers(video: LongVideo, loaded: LoadedModel) -> None:
    assert check_default(video, loaded)


@pytest.mark.slow
def test_the_page_shows_every_cell(
    config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composition_study, "NUM_SEGMENTS", (1, 2, 4, 8, 31))
    results = study(config, num_videos=1)
    write_page(results, tmp_path)
    page = (tmp_path / "composition.md").read_text(encoding="utf-8")
    assert (tmp_path / "composition.png").stat().st_size > 10_000
    for count in results["num_segments"]:
        shown = f"{percent(results, 'compose', count, 'exist'):.1f}"
        assert shown in next(line for line in page.splitlines() if line.startswith("| compose |"))


def test_the_verdict_is_worked_out_from_the_cells(tmp_path: Path) -> None:
    shares = {"right segment alone": 100.0, f"route-compose {NUM_COMPOSED}": 90.0, "compose": 45.0}
    names = (*shares, "route", "blind")
    counts = (1, 8, 31)
    cells = [
        {
            "name": name,
            "num_segments": count,
            "kind": kind,
            "percent": shares.get(name, 0.0),
            "num_questions": 10,
        }
        for name in names
        for count in counts
        for kind in ("object", "motion", "exist")
    ]
    results = {
        "num_segments": counts,
        "num_videos": 1,
        "num_composed": NUM_COMPOSED,
        "cells": cells,
    }
    write_page(results, tmp_path)
    page = (tmp_path / "composition.md").read_text(encoding="utf-8")
    assert f"At 31 segments route-compose {NUM_COMPOSED} keeps 90.0%" in page
    assert "the plain sum 45.0%" in page
