"""From a lake to answers: which adapters are used, and which are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from configs.schema import InternalizeConfig
from flows.api import OpenLake, open_lake
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.errors import CatalogQueryError, LakeError, VideoUnknownError
from tests.core.tiny_vlm import write_tiny_vlm
from tests.pipeline.conftest import RANK, write_model
from video2lora_core.adapter import adapter_from_bytes
from video2lora_core.compose import concat, with_bias
from video2lora_core.errors import ModelMismatchError, PromptError, UsageError

QUESTION = "How many objects are there?"


@pytest.fixture(scope="module")
def lake_uri(tmp_path_factory: pytest.TempPathFactory, shelf: Path, model: str) -> str:
    uri = str(tmp_path_factory.mktemp("asked") / "lake")
    internalize_corpus(InternalizeConfig(corpus=str(shelf), lake=uri, model=model), LocalEngine())
    return uri


@pytest.fixture(scope="module")
def opened(lake_uri: str, model: str) -> OpenLake:
    return open_lake(lake_uri, model=model)


def test_an_answer_comes_from_text_alone(opened: OpenLake) -> None:
    answer = opened.ask(QUESTION, video="long.mp4", max_new_tokens=4)
    assert answer.num_visual_tokens == 0
    assert answer.num_new_tokens <= 4


@pytest.mark.parametrize("name_of", ["id", "prefix", "uri", "file name"])
def test_a_video_has_several_names(opened: OpenLake, shelf: Path, name_of: str) -> None:
    [row] = opened.sql("select video_id from videos where uri like '%long.mp4'").to_pylist()
    names = {
        "id": row["video_id"],
        "prefix": row["video_id"][:6],
        "uri": str(shelf / "long.mp4"),
        "file name": "long.mp4",
    }
    assert opened.pick(names[name_of]).video_id == row["video_id"]


@pytest.mark.parametrize(
    ("span", "starts_s"),
    [
        ({}, [0, 4, 8]),
        ({"start_s": 5}, [4, 8]),
        ({"end_s": 4}, [0]),
        ({"start_s": 3.9, "end_s": 4.1}, [0, 4]),
        ({"start_s": 8, "end_s": 10}, [8]),
    ],
)
def test_a_span_composes_only_the_segments_it_meets(
    opened: OpenLake, span: dict[str, float], starts_s: list[int]
) -> None:
    picked = opened.pick("long.mp4", **span)
    assert [row["start_us"] // 1_000_000 for row in picked.rows] == starts_s
    # Every segment's rank, and the bias exactly once.
    assert opened.adapter("long.mp4", **span).rank == RANK * (len(starts_s) + 1)


def test_a_composed_adapter_is_the_sum_of_the_stored_ones_and_one_bias(opened: OpenLake) -> None:
    picked = opened.pick("long.mp4")
    files = [opened.lake.adapters.get(row["adapter_sha256"]) for row in picked.rows]
    expected = with_bias(concat([adapter_from_bytes(data) for data in files]), opened.model.bias())
    found = opened.adapter("long.mp4").factors["down_proj"]
    torch.testing.assert_close(found.a, expected.factors["down_proj"].a, rtol=0, atol=0)
    torch.testing.assert_close(found.b, expected.factors["down_proj"].b, rtol=0, atol=0)


def test_any_set_of_adapters_composes_by_sql(opened: OpenLake) -> None:
    adapter = opened.compose(sql="select adapter_sha256 from adapters_latest where start_us = 0")
    assert adapter.rank == RANK * 3
    assert opened.ask(QUESTION, adapter=adapter, max_new_tokens=2).num_visual_tokens == 0


def test_the_question_chooses_which_segments_answer(opened: OpenLake) -> None:
    picked = opened.pick("long.mp4")
    found = opened.answer_picked(QUESTION, picked, strategy="route", max_new_tokens=4)
    assert found.relevance is not None
    assert found.chosen == (max(range(3), key=lambda place: found.relevance[place]),)
    alone = opened.compose([picked.ids[found.chosen[0]]])
    assert found.answer.text == opened.ask(QUESTION, adapter=alone, max_new_tokens=4).text


def test_few_segments_are_all_summed_whatever_the_question(opened: OpenLake) -> None:
    found = opened.answer_picked(QUESTION, opened.pick("long.mp4"), max_new_tokens=4)
    summed = opened.ask(QUESTION, adapter=opened.adapter("long.mp4"), max_new_tokens=4)
    assert found.chosen == (0, 1, 2)
    assert found.answer.text == summed.text


def test_an_unknown_strategy_is_refused_by_name(opened: OpenLake) -> None:
    with pytest.raises(UsageError, match="expected one of compose, route, route-compose"):
        opened.ask(QUESTION, video="long.mp4", strategy="guess")


def test_an_adapter_changes_the_answer_model_only_while_it_answers(opened: OpenLake) -> None:
    blind = opened.ask(QUESTION, video="short.mp4", max_new_tokens=8).text
    assert opened.ask(QUESTION, video="short.mp4", max_new_tokens=8).text == blind


Wrong = Callable[[OpenLake], object]


@pytest.mark.parametrize(
    ("ask", "error", "said"),
    [
        (lambda lake: lake.ask(QUESTION, video="ling.mp4"), VideoUnknownError, "near matches: lo"),
        (lambda lake: lake.ask(" ", video="long.mp4"), PromptError, "empty"),
        (lambda lake: lake.ask("a <image>", video="long.mp4"), PromptError, "special"),
        (lambda lake: lake.pick("long.mp4", start_s=10), UsageError, "it lasts 10 s"),
        (lambda lake: lake.pick("long.mp4", end_s=10.5), UsageError, "outside the video"),
        (lambda lake: lake.pick("long.mp4", start_s=3, end_s=2), UsageError, "empty"),
        (lambda lake: lake.pick("long.mp4", start_s=-1), UsageError, "outside the video"),
        (lambda lake: lake.sql("delete from adapters"), CatalogQueryError, "one SELECT"),
        (lambda lake: lake.sql("select 1; select 2"), CatalogQueryError, "one SELECT"),
        (lambda lake: lake.compose([]), UsageError, "no adapter was chosen"),
        (lambda lake: lake.compose(sql="select 1 as x"), UsageError, "no column adapter_sha256"),
        (lambda lake: lake.ask(QUESTION), UsageError, "either `video` or `adapter`"),
    ],
)
def test_a_wrong_question_is_one_clear_line(
    opened: OpenLake, ask: Wrong, error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        ask(opened)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_lake_that_is_not_there_is_said(tmp_path: Path, model: str) -> None:
    with pytest.raises(LakeError, match="no lake here"):
        open_lake(str(tmp_path / "nothing"), model=model)


def test_adapters_of_another_checkpoint_are_never_injected(
    opened: OpenLake, lake_uri: str, model_dir: Path
) -> None:
    other = open_lake(lake_uri, model=str(write_model(model_dir, seed=1)))
    with pytest.raises(ModelMismatchError, match="another checkpoint"):
        other.ask(QUESTION, video="long.mp4")
    sha256 = opened.pick("long.mp4").rows[0]["adapter_sha256"]
    with pytest.raises(ModelMismatchError, match="another checkpoint"):
        other.compose([sha256])


def test_adapters_of_another_model_are_never_injected(lake_uri: str, tmp_path: Path) -> None:
    write_tiny_vlm(tmp_path / "vlm", seed=5)
    other = open_lake(lake_uri, model=str(write_model(tmp_path)))
    with pytest.raises(ModelMismatchError, match="another model weights"):
        other.ask(QUESTION, video="long.mp4")


def test_a_lake_of_two_checkpoints_gives_each_model_its_own(
    lake_uri: str, shelf: Path, model: str, model_dir: Path
) -> None:
    second = str(write_model(model_dir, seed=2))
    config = InternalizeConfig(corpus=str(shelf / "short.mp4"), lake=lake_uri, model=second)
    internalize_corpus(config, LocalEngine())
    recipes = {
        name: open_lake(lake_uri, model=name).pick("short.mp4").recipe_id
        for name in (model, second)
    }
    assert recipes[model] != recipes[second]
