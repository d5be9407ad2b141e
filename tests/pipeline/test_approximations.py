"""Approximations: off they change nothing, on they make another recipe, and all else follows."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from configs.approximation_schema import ApproximationConfig
from configs.load import load_model_config
from configs.schema import InternalizeConfig
from flows.api import OpenLake, open_lake
from tasks import internalize_batch, recipe
from tasks.answer_questions import answer_over_segments
from tasks.approximations import approximated
from tasks.dry_run import dry_run
from tasks.models import read_architecture
from tasks.recipe import ModelIdentity, make_recipe
from tasks.summary import RunSummary
from tasks.verify_export import verify_export
from tests.core.tiny_vlm import PIXELS
from tests.pipeline.conftest import PROMPT, RANK, Call
from video2lora_core import quality
from video2lora_core.adapter import Adapter, adapter_bytes, adapter_from_bytes
from video2lora_core.answer import answer
from video2lora_core.checkpoint import load_checkpoint
from video2lora_core.compose import concat, top_k, with_bias
from video2lora_core.errors import UsageError
from video2lora_core.frames import decode
from video2lora_core.internalize import internalize
from video2lora_core.pixels import prepare
from video2lora_core.prompts import PromptLayout
from video2lora_core.segments import Segment
from video2lora_core.vision_square import image_tokens
from video2lora_core.vlm import load_vlm

Run = Callable[..., RunSummary]

QUESTION = "How many objects are there?"
SIDE_PX = 16
# What the embedded default's recipe was before there were approximations, with files named "x".
PINNED = "31324ea19706dcfc860d42f3c92a4ff84659fe1ef4097b5580ad9e3bcc548a8f"
KEYS = {
    "format_version",
    "model_weights_sha256",
    "model_config_sha256",
    "tokenizer_sha256",
    "processor_sha256",
    "checkpoint_sha256",
    "internalization_prompt",
    "timestamps",
    "segment_us",
    "min_tail_us",
    "num_frames",
    "sampling_rule",
    "decoder",
    "decoder_version",
    "resize",
    "compute_dtype",
    "stored_dtype",
}


def recipe_of(**changed: Any) -> recipe.Recipe:
    return make_recipe(InternalizeConfig(**{"corpus": "x", "lake": "y", **changed}))


@pytest.fixture
def _named_files(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("weights", "config", "tokenizer", "processor", "checkpoint")
    same = ModelIdentity(**{f"{name}_sha256": "x" for name in names})
    monkeypatch.setattr(recipe, "identify_model", lambda model: same)
    monkeypatch.setattr(recipe, "version", lambda package: "18.0")


@pytest.mark.usefixtures("_named_files")
def test_without_approximations_the_recipe_is_the_one_it_always_was() -> None:
    assert recipe_of().recipe_id == PINNED
    assert set(recipe_of().content) == KEYS
    off = {"vision_px": None, "top_ranks": None}
    assert recipe_of(approximations=off).recipe_id == PINNED


def test_each_approximation_is_another_recipe_and_says_so() -> None:
    plain = recipe_of()
    small = recipe_of(approximations={"vision_px": 24})
    short = recipe_of(approximations={"top_ranks": 4})
    both = recipe_of(approximations={"vision_px": 24, "top_ranks": 4})
    assert len({made.recipe_id for made in (plain, small, short, both)}) == 4
    assert set(small.content) - KEYS == {"vision_px"}
    assert set(short.content) - KEYS == {"top_ranks"}
    assert {both.content["vision_px"], both.content["top_ranks"]} == {24, 4}
    assert small.content["processor_sha256"] != plain.content["processor_sha256"]
    assert short.content["processor_sha256"] == plain.content["processor_sha256"]
    assert small.model.pixels.size_px == 24
    assert small.model.pixels.longest_edge_px == plain.model.pixels.longest_edge_px == 48


@pytest.mark.parametrize(
    ("model", "given", "said"),
    [
        ("tiny", {"vision_px": 32}, "vision_px: 32 does not fit tiny .* below its own 48: 24"),
        ("tiny", {"vision_px": 48}, "vision_px: 48 does not fit .*give one of these, or leave"),
        ("smolvlm2-500m", {"vision_px": 400}, "vision_px: 400 .* 320, 384, 448.;"),
        ("smolvlm2-2.2b", {"vision_px": 320}, "vision_px: 320 .* 294, 336, 378.;"),
        ("tiny", {"top_ranks": 8}, "top_ranks: 8 leaves out nothing .expected 1 to 7.*rank 8"),
        ("smolvlm2-500m", {"top_ranks": 16}, "top_ranks: 16 .*expected 1 to 15.*leave it out"),
    ],
)
def test_what_does_not_fit_the_model_is_said_with_what_does(
    model: str, given: dict[str, int], said: str
) -> None:
    with pytest.raises(UsageError, match=rf"^approximations\.{said}"):
        recipe_of(model=model, random_weights=model != "tiny", approximations=given)


@pytest.mark.parametrize("given", [{"vision_px": 0}, {"top_ranks": 0}, {"top_rank": 4}])
def test_a_wrong_value_is_named_with_its_place(call: Call, tmp_path: Path, given: Any) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump({"corpus": "v", "lake": "l", "approximations": given}))
    code, _, err = call("plan", "--config", config)
    assert code == 1
    assert f"approximations.{next(iter(given))}" in err


def test_the_500m_at_384_px_makes_36_tokens_of_a_frame() -> None:
    whole = load_model_config("smolvlm2-500m", random_weights=True)
    small, keys = approximated(whole, ApproximationConfig(vision_px=384))
    assert keys == {"vision_px": 384}
    sides = [config.pixels.size_px for config in (whole, small)]
    assert [image_tokens(read_architecture(small), side) for side in sides] == [64, 36]


def rows_of(opened: OpenLake, recipe_id: str) -> list[dict[str, Any]]:
    sql = f"select * from adapters where recipe_id = '{recipe_id}' order by video_id, start_us"
    return opened.sql(sql).to_pylist()


def read(opened: OpenLake, row: dict[str, Any]) -> Adapter:
    return adapter_from_bytes(opened.lake.adapters.get(row["adapter_sha256"]))


def test_top_ranks_are_the_top_k_of_the_whole_stored_adapter(run: Run, tmp_path: Path) -> None:
    whole = run(stored_dtype="float32").plan.recipe_id
    short = run(stored_dtype="float32", approximations={"top_ranks": 1}).plan.recipe_id
    opened = open_lake(str(tmp_path / "lake"))
    pairs = list(zip(rows_of(opened, whole), rows_of(opened, short), strict=True))
    assert len(pairs) == 5
    for full, kept in pairs:
        expected, _ = top_k(read(opened, full), rank=1)
        data = adapter_bytes(expected, dtype=torch.float32)
        assert hashlib.sha256(data).hexdigest() == kept["adapter_sha256"]
        assert (full["rank"], kept["rank"]) == (RANK, 1)
        assert kept["size_bytes"] == len(data) < 0.6 * full["size_bytes"]
        assert 0 < kept["norm_update"] < full["norm_update"]
        assert kept["norm_a"] == pytest.approx(float(expected.factors["down_proj"].a.norm()))


def test_the_gate_judges_the_whole_adapter(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = []

    def check(adapter: Adapter, *given: Any) -> Any:
        ranks.append(adapter.rank)
        return plain(adapter, *given)

    plain = quality.check
    monkeypatch.setattr(internalize_batch.quality, "check", check)
    assert run(approximations={"top_ranks": 1}).shards.num_segments == 5
    assert ranks == [RANK] * 5


@pytest.mark.parametrize("stored_dtype", ["bfloat16", "int8"])
def test_a_plan_counts_the_bytes_of_the_ranks_that_are_kept(
    run: Run, corpus: Path, tmp_path: Path, model: str, stored_dtype: str
) -> None:
    manifest = tmp_path / "corpus.csv"
    manifest.write_text("uri,duration\nvideos/short.mp4,6\n")
    given = {"stored_dtype": stored_dtype, "approximations": {"top_ranks": 1}}
    lake = str(tmp_path / "lake")
    found = dry_run(InternalizeConfig(corpus=str(manifest), lake=lake, model=model, **given))
    run(corpus=str(manifest), **given)
    sql = "select sum(size_bytes) as n, count(*) as c from adapters"
    [row] = open_lake(lake).sql(sql).to_pylist()
    assert row["c"] == found.num_segments == 2
    assert 0 < row["n"] - found.adapter_bytes < 1000 * row["c"]


def test_a_run_at_a_smaller_side_stores_what_the_core_makes_of_smaller_frames(
    run: Run, corpus: Path, model_dir: Path, tmp_path: Path
) -> None:
    given = {"stored_dtype": "float32", "batch_segments": 1}
    small = run(corpus=str(corpus / "short.mp4"), approximations={"vision_px": SIDE_PX}, **given)
    opened = open_lake(str(tmp_path / "lake"))
    rows = rows_of(opened, small.plan.recipe_id)
    spec = replace(PIXELS, size_px=SIDE_PX)
    layout = PromptLayout.from_mapping(PROMPT)
    vlm = load_vlm(model_dir / "vlm", layout=layout, pixel_spec=spec)
    checkpoint = load_checkpoint(model_dir / "hypernetwork0")
    spans = [Segment(start_us=row["start_us"], end_us=row["end_us"]) for row in rows]
    frames = list(
        decode(corpus / "short.mp4", spans, num_frames=4, prepare=lambda x: prepare(x, spec))
    )
    assert [item.pixels.shape for item in frames] == [(4, 3, SIDE_PX, SIDE_PX)] * 2
    for row, item in zip(rows, frames, strict=True):
        [made] = internalize(
            vlm, checkpoint.hypernetwork, [item], checkpoint_sha256=checkpoint.sha256
        )
        assert adapter_bytes(made, dtype=torch.float32) == opened.lake.adapters.get(
            row["adapter_sha256"]
        )


@pytest.mark.parametrize("given", [{"vision_px": SIDE_PX}, {"top_ranks": 1}])
def test_from_the_command_line_to_an_answer(
    call: Call, corpus: Path, model: str, tmp_path: Path, given: dict[str, int]
) -> None:
    lake, config = tmp_path / "lake", tmp_path / "run.yaml"
    content = {"corpus": str(corpus), "lake": str(lake), "model": model, "approximations": given}
    config.write_text(yaml.safe_dump({**content, "decode": {"workers": 0}}))
    code, out, _ = call("internalize", "--config", config, "--engine", "local", "--json")
    assert code == 0
    assert json.loads(out)["shards"]["num_segments"] == 5
    code, out, _ = call("ask", "long.mp4", QUESTION, "--lake", lake, "--model", model, "--json")
    assert code == 0
    assert json.loads(out)["num_visual_tokens"] == 0
    code, out, _ = call("internalize", "--config", config, "--engine", "local", "--json")
    assert (code, json.loads(out)["shards"]["num_segments"]) == (0, 0)
    # Both are in the catalog: what decided the adapters, and the settings to finish the run by.
    sql = "select detail, recipe from runs where event = 'planned'"
    [row] = open_lake(str(lake)).sql(sql).to_pylist()
    assert json.loads(row["recipe"]).items() >= given.items()
    kept = InternalizeConfig.model_validate_json(row["detail"]).approximations
    assert kept.model_dump(exclude_defaults=True) == given


def test_questions_in_context_keep_the_models_own_side(
    run: Run, model: str, tmp_path: Path
) -> None:
    run(approximations={"vision_px": SIDE_PX})
    opened = open_lake(str(tmp_path / "lake"), model=model)
    questions = tmp_path / "questions.jsonl"
    questions.write_text(json.dumps({"video": "short.mp4", "question": QUESTION}) + "\n")
    settings = {"decode": {"workers": 0}, "max_new_tokens": 2}
    [shown] = opened.answer_many(str(questions), mode="in-context", **settings).to_pylist()
    own = load_model_config(model).pixels.size_px
    assert opened.model.vlm.pixel_spec.size_px == own == 32
    assert shown["num_visual_tokens"] == shown["num_frames"] * 4 > 0
    [told] = opened.answer_many(str(questions), mode="adapter", **settings).to_pylist()
    assert told["num_visual_tokens"] == 0


def test_adapters_of_differing_rank_compose_answer_route_and_export(
    run: Run, corpus: Path, model: str, tmp_path: Path
) -> None:
    run(corpus=str(corpus / "long.mp4"))
    run(corpus=str(corpus / "short.mp4"), approximations={"top_ranks": 1})
    opened = open_lake(str(tmp_path / "lake"), model=model)
    sql = "select adapter_sha256, rank from adapters_latest order by rank, start_us"
    ids = [row["adapter_sha256"] for row in opened.sql(sql).to_pylist()]
    ranks = [row["rank"] for row in opened.sql(sql).to_pylist()]
    assert ranks == [1, 1, RANK, RANK, RANK]

    # Composed: the sum of all updates, the bias once.
    parts = [adapter_from_bytes(opened.lake.adapters.get(sha256)) for sha256 in ids]
    composed = opened.compose(ids)
    expected = with_bias(concat(parts), opened.model.bias())
    assert composed.rank == sum(ranks) + RANK
    assert torch.equal(composed.factors["down_proj"].b, expected.factors["down_proj"].b)

    # Asked: in one batch of ranks 8 and 4 as one by one.
    adapters = [opened.adapter(name) for name in ("long.mp4", "short.mp4")]
    assert [adapter.rank for adapter in adapters] == [3 * RANK + RANK, 2 + RANK]
    vlm = opened.model.vlm
    together = answer(vlm, [QUESTION, QUESTION], adapters=adapters, max_new_tokens=4)
    alone = [answer(vlm, [QUESTION], adapters=one, max_new_tokens=4)[0] for one in adapters]
    assert [one.text for one in together] == [one.text for one in alone]

    # Routed: over segments of both ranks.
    routed = answer_over_segments(
        opened.model, QUESTION, parts, strategy="route-compose", max_new_tokens=2
    )
    assert routed.relevance is not None
    assert len(routed.relevance) == len(parts)

    # Exported: each, and proven equal to the native path.
    opened.export(tmp_path / "out", adapters=ids)
    found = verify_export(tmp_path / "out", opened.lake, opened.config)
    assert [entry.faults for entry in found] == [()] * len(ids)
    assert sorted(entry.rank for entry in found) == sorted(rank + RANK for rank in ranks)
