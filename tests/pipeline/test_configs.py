"""Config files: what is wrong with one is said in a line that names the key."""

from pathlib import Path
from typing import Any

import pytest

from configs.load import load_internalize_config, load_model_config, validate
from configs.schema import InternalizeConfig, ModelConfig
from tasks.models import prompt_layout
from video2lora_core.errors import UsageError


def fault_of(changed: dict[str, Any]) -> str:
    values = load_model_config("tiny").model_dump() | changed
    with pytest.raises(UsageError) as caught:
        validate(values, ModelConfig, where="model.yaml")
    return str(caught.value)


def test_the_embedded_model_config_loads_and_its_paths_are_absolute() -> None:
    config = load_model_config("tiny")
    assert config.checkpoint.is_absolute()
    assert Path(config.vlm.path or "").is_absolute()
    assert "{question}" in prompt_layout(config).query


def test_an_unknown_key_is_named() -> None:
    message = fault_of({"colour": 1})
    assert message.startswith("model.yaml: unknown key `colour`")
    assert "batch_segments" in message


def test_an_unknown_nested_key_is_named_with_its_place() -> None:
    pixels = {"longest_edge_px": 48, "size_px": 48, "sise": 1}
    message = fault_of({"pixels": pixels})
    assert "unknown key `pixels.sise`" in message
    assert "longest_edge_px, resize, size_px" in message


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"segments": {"segment_s": 0}}, "key `segments.segment_s` is wrong (found 0"),
        ({"segments": {"segment_s": 4, "min_tail_s": 5}}, "`min_tail_s` must not exceed"),
        ({"vlm": {}}, "exactly one of `path` and `hub_id`"),
        ({"vlm": {"hub_id": "owner/name"}}, "`hub_id` needs `revision`"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_found(changed: dict[str, Any], said: str) -> None:
    message = fault_of(changed)
    assert said in message
    assert "\n" not in message


def test_flags_win_over_the_run_config(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("corpus: videos\nlake: there\nunit_segments: 8\n")
    config = load_internalize_config(path, {"lake": "here", "model": None})
    assert (config.corpus, config.lake, config.unit_segments) == ("videos", "here", 8)
    assert config.model == "tiny"


def test_the_example_run_config_shows_the_defaults() -> None:
    shown = load_internalize_config(Path("configs/internalize.yaml"), {})
    assert shown == InternalizeConfig(corpus=shown.corpus, lake=shown.lake)


def test_a_unit_has_at_most_64_segments() -> None:
    with pytest.raises(UsageError, match="unit_segments"):
        load_internalize_config(None, {"corpus": "a", "lake": "b", "unit_segments": 65})


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), ("- a\n", "expected a mapping"), ("a: [\n", "cannot be read as YAML")],
)
def test_a_file_that_is_no_config_says_so(tmp_path: Path, content: str | None, said: str) -> None:
    path = tmp_path / "run.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=said):
        load_internalize_config(path, {})


def test_an_unknown_model_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"known: smolvlm2-2.2b, smolvlm2-500m, tiny"):
        load_model_config("huge")
