"""Loading a VLM: what is refused, what identifies it, what its prompts become."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, normalizers
from transformers import SmolVLMForConditionalGeneration

from tests.core.tiny_vlm import (
    COMPACT,
    PIXELS,
    TIMED,
    build_tokenizer,
    load_tiny_vlm,
    write_tiny_vlm,
)
from video2lora_core.errors import ModelMismatchError, PromptError, UsageError
from video2lora_core.pixels import PixelSpec
from video2lora_core.vlm import (
    Vlm,
    in_context_ids,
    internalization_ids,
    load_vlm,
    processor_sha256,
    query_ids,
    target_ids,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vlm(tmp_path_factory.mktemp("vlm") / "tiny")


@pytest.fixture(scope="module")
def vlm(saved: Path) -> Vlm:
    return load_vlm(saved, layout=COMPACT, pixel_spec=PIXELS)


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copied"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_loaded_vlm_is_frozen_and_knows_itself(vlm: Vlm, saved: Path):
    assert not vlm.model.training
    assert not any(parameter.requires_grad for parameter in vlm.model.parameters())
    assert (vlm.name, vlm.revision) == ("tiny", None)
    assert (vlm.num_layers, vlm.d_model, vlm.image_tokens_per_frame) == (4, 64, 4)
    assert (vlm.dtype, vlm.device.type, vlm.max_tokens) == (torch.float32, "cpu", 512)
    assert vlm.weights_sha256 == sha256(saved / "model.safetensors")
    assert vlm.tokenizer_sha256 == sha256(saved / "tokenizer.json")


def test_weights_in_several_files_are_hashed_in_the_order_of_their_names(
    saved: Path, tmp_path: Path
):
    model = SmolVLMForConditionalGeneration.from_pretrained(saved)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    shutil.copy(saved / "tokenizer.json", tmp_path / "sharded")
    files = sorted((tmp_path / "sharded").glob("*.safetensors"))
    assert len(files) > 1
    loaded = load_vlm(tmp_path / "sharded", layout=COMPACT, pixel_spec=PIXELS)
    together = b"".join(file.read_bytes() for file in files)
    assert loaded.weights_sha256 == hashlib.sha256(together).hexdigest()


def test_other_safetensors_in_the_directory_do_not_change_the_hash(copied: Path, vlm: Vlm):
    save_file({"x": torch.zeros(1)}, copied / "hypernetwork.safetensors")
    loaded = load_vlm(copied, layout=COMPACT, pixel_spec=PIXELS)
    assert loaded.weights_sha256 == vlm.weights_sha256


def test_the_processor_hash_changes_with_layout_and_pixels_only(vlm: Vlm):
    assert vlm.processor_sha256 == processor_sha256(PIXELS, COMPACT)
    others = {
        processor_sha256(PIXELS, TIMED),
        processor_sha256(PIXELS, replace(COMPACT, internalization_prompt="Other.")),
        processor_sha256(replace(PIXELS, resize="pil"), COMPACT),
        vlm.processor_sha256,
    }
    assert len(others) == 4


def test_dtype_and_attention_are_the_callers(saved: Path):
    loaded = load_vlm(saved, layout=COMPACT, dtype=torch.bfloat16, attention="eager")
    assert loaded.dtype == torch.bfloat16
    assert loaded.model.config.text_config._attn_implementation == "eager"
    assert loaded.pixel_spec == PixelSpec(longest_edge_px=32, size_px=32, resize="torch")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named_with_the_command_that_fetches_it(copied: Path, missing: str):
    (copied / missing).unlink()
    stem = missing.split(".")[0]
    with pytest.raises(UsageError, match=rf"no {stem}.*hf download"):
        load_vlm(copied)


def test_a_hub_model_that_is_not_there_is_one_error_with_the_command():
    with pytest.raises(UsageError, match="hf download someone/no-such-model --revision v1"):
        load_vlm("someone/no-such-model", revision="v1")


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "nowhere", Path("no/where")])
def test_a_path_that_does_not_exist_is_never_asked_of_the_hub(source: str | Path):
    with pytest.raises(UsageError, match="is not a directory"):
        load_vlm(source)


def test_a_revision_of_a_directory_is_refused(saved: Path):
    with pytest.raises(UsageError, match="revision 'v1' was given for the directory"):
        load_vlm(saved, revision="v1")


def test_a_hub_model_in_the_cache_is_known_by_its_commit(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(saved, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    loaded = load_vlm("someone/tiny", layout=COMPACT, pixel_spec=PIXELS)
    assert (loaded.name, loaded.revision) == ("someone/tiny", commit)


def test_another_architecture_is_refused(copied: Path):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(UsageError, match="type 'llama' \\(expected 'smolvlm'\\)"):
        load_vlm(copied)


def test_unreadable_weights_are_refused(copied: Path):
    (copied / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(UsageError, match="cannot be read"):
        load_vlm(copied)


def test_a_missing_tensor_is_an_error_not_random_weights(copied: Path):
    tensors = load_file(copied / "model.safetensors")
    name = "model.text_model.layers.2.mlp.down_proj.weight"
    del tensors[name]
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelMismatchError, match=re.escape(name)):
        load_vlm(copied)


def test_a_tensor_of_another_shape_is_an_error(copied: Path):
    tensors = load_file(copied / "model.safetensors")
    name = "model.connector.modality_projection.proj.weight"
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelMismatchError, match=re.escape(name)):
        load_vlm(copied)


def test_layout_tokenizer_pixels_and_model_must_fit_each_other(copied: Path):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["surplus"])
    tokenizer.save(str(copied / "tokenizer.json"))
    layout = replace(COMPACT, image_token="<video>", end_token="<stop>")
    with pytest.raises(ModelMismatchError) as caught:
        load_vlm(copied, layout=layout, pixel_spec=replace(PIXELS, size_px=48))
    for fault in ("<video> has id None", "<stop> is not", "largest token id", "made 48 px"):
        assert fault in str(caught.value)


def test_prompts_become_the_ids_of_their_text(vlm: Vlm):
    def ids(text: str) -> list[int]:
        return vlm.tokenizer.encode(text, add_special_tokens=False)

    frame = "<image><image><image><image><fake_token_around_image>"
    turn = f"<|im_start|>User:{frame}{frame}"
    assert internalization_ids(vlm, (0, 1_000_000), 2_000_000) == ids(
        f"{turn}Internalize this video for later captioning.<end_of_utterance>"
    )
    assert query_ids(vlm, "How many?") == ids(
        "<|im_start|>User: How many?<end_of_utterance>Assistant:"
    )
    assert in_context_ids(vlm, (0, 1_000_000), 2_000_000, "How many?") == ids(
        f"{turn}How many?<end_of_utterance>Assistant:"
    )
    assert target_ids(vlm, "red ball") == ids("red ball<end_of_utterance>")


@pytest.mark.parametrize("text", ["", "\t", "<image>", "a<|im_start|>b", "say <unk>"])
def test_text_with_special_tokens_or_none_at_all_is_refused(vlm: Vlm, text: str):
    for tokenise in (query_ids, target_ids):
        with pytest.raises(PromptError):
            tokenise(vlm, text)
    with pytest.raises(PromptError):
        in_context_ids(vlm, (0,), 1, text)


def test_unknown_words_are_allowed(vlm: Vlm):
    assert vlm.tokenizer.convert_tokens_to_ids("<unk>") in query_ids(vlm, "zebra crossing?")


def test_text_that_a_normaliser_turns_into_a_special_token_is_refused(copied: Path):
    tokenizer = build_tokenizer()
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_tokens([AddedToken("<image>", special=False, normalized=True)])
    tokenizer.save(str(copied / "tokenizer.json"))
    loaded = load_vlm(copied, layout=COMPACT, pixel_spec=PIXELS)
    with pytest.raises(PromptError, match="becomes the special tokens"):
        query_ids(loaded, "what is \uff1cimage\uff1e?")


def test_two_vlms_of_one_seed_are_equal(saved: Path, tmp_path: Path, vlm: Vlm):
    assert load_tiny_vlm(tmp_path / "again").weights_sha256 == vlm.weights_sha256
