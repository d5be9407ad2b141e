"""Choosing segments for many questions at a time: the batch they share changes nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.lake import open_lake
from tasks import answer_routing
from tests.pipeline.answer_sets import NUM_QUESTIONS, ask_set, write_set
from video2lora_core.routing import relevances


def test_questions_whose_segments_do_not_fit_together_are_weighed_in_halves(
    tmp_path: Path, corpus: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, questions = str(tmp_path / "lake"), write_set(tmp_path / "questions.jsonl")
    config = InternalizeConfig(corpus=str(corpus), lake=uri, model=model, decode={"workers": 0})
    internalize_corpus(config, LocalEngine())
    ask_set(questions, uri, model, strategy="route", question_set="whole")
    sizes: list[int] = []

    def small(vlm: Any, asked: Any, **rest: Any) -> Any:
        sizes.append(len(asked))
        if len(asked) > 2:
            raise torch.OutOfMemoryError
        return relevances(vlm, asked, **rest)

    monkeypatch.setattr(answer_routing, "relevances", small)
    ask_set(questions, uri, model, strategy="route", question_set="halves", again=True)
    rows = open_lake(uri).query("select question_id, answer, parents from raw.answers").to_pylist()
    assert max(sizes) > 2
    assert len(rows) == 2 * NUM_QUESTIONS
    assert len({(r["question_id"], r["answer"], *r["parents"]) for r in rows}) == NUM_QUESTIONS
