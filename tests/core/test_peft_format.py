"""PEFT as oracle: what we write it computes as we do, and what we compose it composes too."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import SmolVLMForConditionalGeneration

from tests.core.adapter_factory import random_adapter, updates
from tests.core.tiny_vlm import D_FF, D_MODEL, tiny_config
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.compose import bias_only, concat, svd, with_bias
from video2lora_core.errors import AdapterError
from video2lora_core.hypernetwork import TargetModule
from video2lora_core.inject import adapted
from video2lora_core.peft_format import (
    CONFIG_FILE,
    VLLM_RANKS,
    WEIGHTS_FILE,
    adapter_from_peft,
    peft_files,
    peft_keys,
    peft_origin,
    vllm_rank,
)
from video2lora_core.tensor_file import read_tensor_bytes, tensor_bytes

DOWN = TargetModule(name="down_proj", d_in=D_FF, d_out=D_MODEL)
QUERY = TargetModule(name="q_proj", d_in=D_MODEL, d_out=D_MODEL)
LAYERS = (0, 2)
IDS = torch.tensor([[2, 9, 10, 11], [2, 12, 13, 9], [2, 14, 9, 10]])
BIAS_RANK = 3
# peft 0.21 reads an attribute that transformers 5 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = SmolVLMForConditionalGeneration(tiny_config(vocab_size=64, image_token_id=6))
    return made.eval().requires_grad_(False)


def segment(seed=0, *, rank=3, modules=(DOWN,)):
    adapter = random_adapter(seed, rank=rank, layers=LAYERS, modules=modules)
    return replace(adapter, scaling=0.02)


def bias(modules=(DOWN,)):
    return segment(99, rank=BIAS_RANK, modules=modules).factors


def written(tmp_path, adapter, name="adapter", **options):
    directory = tmp_path / name
    directory.mkdir()
    files = peft_files(adapter, base_model="tiny", bias_rank=BIAS_RANK, **options)
    for file, data in files.items():
        (directory / file).write_bytes(data)
    return directory


def native_logits(model, adapter):
    with torch.no_grad(), adapted(model, adapter):
        return model(input_ids=IDS).logits.float()


def peft_logits(model, *directories):
    peft_model = PeftModel.from_pretrained(model, str(directories[0]), adapter_name="0")
    for number, directory in enumerate(directories[1:], 1):
        peft_model.load_adapter(str(directory), adapter_name=str(number))
    peft_model.base_model.set_adapter([str(number) for number in range(len(directories))])
    with torch.no_grad():
        return peft_model.eval()(input_ids=IDS).logits.float()


def assert_parity(ours, theirs, plain, *, part):
    effect = (ours - plain).abs().max()
    assert effect > 0.05
    assert (ours - theirs).abs().max() <= part * effect


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_segments", "rank"), [(0, 3), (1, 3), (2, 1), (8, 4), (31, 2)])
def test_peft_computes_segments_bias_and_compositions_as_we_do(
    model, tmp_path, num_segments, rank, dtype
):
    model.to(dtype)
    with torch.no_grad():
        plain = model(input_ids=IDS).logits.float()
    if num_segments:
        whole = concat([segment(seed, rank=rank) for seed in range(num_segments)])
        adapter = with_bias(whole, bias())
    else:
        adapter = bias_only(bias(), layers=LAYERS, scaling=0.02, checkpoint_sha256="a" * 64)
    adapter = adapter.to(dtype=dtype)
    ours = native_logits(model, adapter)
    directory = written(tmp_path, adapter, bias_only=not num_segments, dtype=dtype)
    part = 1e-4 if dtype == torch.float32 else 0.1
    assert_parity(ours, peft_logits(model, directory), plain, part=part)


def test_several_modules_and_padded_ranks_compute_the_same(model, tmp_path):
    modules = (DOWN, QUERY)
    adapter = with_bias(segment(1, modules=modules), bias(modules))
    plain = model(input_ids=IDS).logits
    ours = native_logits(model, adapter)
    directory = written(tmp_path, adapter, rank=8)
    assert json.loads((directory / CONFIG_FILE).read_text())["r"] == 8
    assert_parity(ours, peft_logits(model, directory), plain, part=1e-4)


def test_raw_segments_and_one_bias_directory_add_up(model, tmp_path):
    raw = concat([segment(seed) for seed in range(3)])
    alone = bias_only(bias(), layers=LAYERS, scaling=0.02, checkpoint_sha256="a" * 64)
    plain = model(input_ids=IDS).logits
    ours = native_logits(model, with_bias(raw, bias()))
    directories = [written(tmp_path, raw, "raw"), written(tmp_path, alone, "bias", bias_only=True)]
    assert_parity(ours, peft_logits(model, *directories), plain, part=1e-4)


def peft_combined(model, tmp_path, segments, kind, weights, **options):
    """PEFT's own composition of our exports, as dense updates by layer."""
    directories = [written(tmp_path, s, f"s{i}") for i, s in enumerate(segments)]
    peft_model = PeftModel.from_pretrained(model, str(directories[0]), adapter_name="0")
    for number, directory in enumerate(directories[1:], 1):
        peft_model.load_adapter(str(directory), adapter_name=str(number))
    names = [str(number) for number in range(len(segments))]
    peft_model.base_model.add_weighted_adapter(
        names, weights, "all", combination_type=kind, **options
    )
    blocks = peft_model.base_model.model.model.text_model.layers
    return torch.stack([blocks[i].mlp.down_proj.get_delta_weight("all") for i in LAYERS])


def test_our_concat_is_pefts_cat(model, tmp_path):
    segments, weights = [segment(seed) for seed in range(4)], [1.0, 0.5, 2.0, 1.0]
    theirs = peft_combined(model, tmp_path, segments, "cat", weights)
    ours = updates(concat(segments, coefficients=weights))["down_proj"].float()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank", [2, 6])
def test_our_svd_is_pefts_svd(model, tmp_path, rank):
    segments = [segment(seed) for seed in range(4)]
    theirs = peft_combined(model, tmp_path, segments, "svd", [1.0] * 4, svd_rank=rank)
    ours = updates(svd(concat(segments), rank=rank)[0])["down_proj"].float()
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path` was renamed")
def test_the_config_names_the_covered_layers_and_nothing_else(model, tmp_path):
    directory = written(tmp_path, segment(modules=(DOWN, QUERY)))
    config = LoraConfig.from_pretrained(str(directory))
    assert config.lora_alpha == pytest.approx(0.02 * config.r)
    assert not any([config.use_rslora, config.use_dora, config.lora_bias, config.modules_to_save])
    peft_model = get_peft_model(model, config)
    found = {
        name.replace(".default", "") for name, _ in peft_model.named_parameters() if "lora_" in name
    }
    assert found == peft_keys(LAYERS, ["down_proj", "q_proj"])


def test_equal_adapters_give_equal_files():
    files = [peft_files(segment(4), base_model="tiny", bias_rank=3) for _ in range(5)]
    assert all(other == files[0] for other in files)


def assert_same(found: Adapter, expected: Adapter):
    assert (found.layers, found.scaling) == (expected.layers, expected.scaling)
    assert (found.has_bias, found.checkpoint_sha256) == (
        expected.has_bias,
        expected.checkpoint_sha256,
    )
    for name, f in expected.factors.items():
        assert torch.equal(found.factors[name].a, f.a)
        assert torch.equal(found.factors[name].b, f.b)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("rank", [None, 16])
def test_what_is_exported_imports_back_unchanged(has_bias, rank):
    raw = segment(2, modules=(DOWN, QUERY))
    adapter = with_bias(raw, bias((DOWN, QUERY))) if has_bias else raw
    files = peft_files(adapter, base_model="tiny", bias_rank=BIAS_RANK, rank=rank)
    assert_same(adapter_from_peft(files), adapter)
    assert adapter_from_peft(files, is_padding_kept=True).rank == (rank or adapter.rank)
    if has_bias:
        assert_same(adapter_from_peft(files, is_bias_kept=False), raw)
    assert peft_origin(files[WEIGHTS_FILE]).bias == ("included" if has_bias else "excluded")


def test_a_bias_of_zero_rows_is_no_padding():
    raw = segment(2)
    zero = {n: Factors(a=f.a, b=torch.zeros_like(f.b)) for n, f in bias().items()}
    files = peft_files(with_bias(raw, zero), base_model="tiny", bias_rank=BIAS_RANK, rank=8)
    assert adapter_from_peft(files).rank == 3 + BIAS_RANK
    assert_same(adapter_from_peft(files, is_bias_kept=False), raw)


def foreign(files):
    """The same tensors without our metadata, as PEFT would save them."""
    tensors, _ = read_tensor_bytes(files[WEIGHTS_FILE])
    return {**files, WEIGHTS_FILE: tensor_bytes(tensors, metadata={"format": "pt"})}


def test_a_strangers_directory_must_say_whether_the_bias_is_in():
    raw = segment(2)
    files = foreign(peft_files(raw, base_model="x", bias_rank=BIAS_RANK, rank=8))
    with pytest.raises(AdapterError, match="has_bias=True or False"):
        adapter_from_peft(files)
    found = adapter_from_peft(files, has_bias=False)
    assert found.rank == raw.rank
    assert found.checkpoint_sha256.startswith("peft:")
    with pytest.raises(AdapterError, match="cannot be taken off"):
        adapter_from_peft(files, has_bias=True, is_bias_kept=False)


def test_has_bias_may_not_contradict_the_file():
    files = peft_files(segment(), base_model="x", bias_rank=BIAS_RANK)
    with pytest.raises(AdapterError, match="has_bias=True was given, the file says False"):
        adapter_from_peft(files, has_bias=True)


@pytest.mark.parametrize(
    "changed",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"down_proj": 2}},
        {"alpha_pattern": {"down_proj": 2}},
        {"peft_type": "IA3"},
        {"lora_alpha": 0},
    ],
)
def test_options_that_change_what_peft_computes_are_refused(changed):
    files = peft_files(segment(), base_model="x", bias_rank=3)
    config = json.loads(files[CONFIG_FILE]) | changed
    with pytest.raises(AdapterError, match="expected a plain LoRA"):
        adapter_from_peft({**files, CONFIG_FILE: json.dumps(config).encode()})


def test_missing_layers_other_ranks_and_garbled_files_are_refused():
    files = peft_files(segment(), base_model="x", bias_rank=3)
    tensors, metadata = read_tensor_bytes(files[WEIGHTS_FILE])
    fewer = {key: t for key, t in tensors.items() if "layers.2.mlp.down_proj.lora_B" not in key}
    with pytest.raises(AdapterError, match="do not cover whole layers"):
        adapter_from_peft({**files, WEIGHTS_FILE: tensor_bytes(fewer, metadata=metadata)})
    config = json.loads(files[CONFIG_FILE]) | {"r": 4}
    with pytest.raises(AdapterError, match=r"ranks are \[3\] \(expected 4"):
        adapter_from_peft({**files, CONFIG_FILE: json.dumps(config).encode()})
    with pytest.raises(AdapterError, match="not a whole safetensors file"):
        adapter_from_peft({**files, WEIGHTS_FILE: files[WEIGHTS_FILE][:-1]})
    with pytest.raises(AdapterError, match="not a PEFT config"):
        adapter_from_peft({**files, CONFIG_FILE: b"[]"})


def test_a_module_outside_the_blocks_and_a_rank_too_small_are_refused():
    odd = segment(modules=(TargetModule(name="lm_head", d_in=8, d_out=8),))
    with pytest.raises(AdapterError, match=r"modules \['lm_head'\] are unknown"):
        peft_files(odd, base_model="x", bias_rank=3)
    with pytest.raises(AdapterError, match="rank 3 is above 2"):
        peft_files(segment(), base_model="x", bias_rank=3, rank=2)


def test_ranks_are_padded_to_what_vllm_serves_and_refused_beyond():
    assert [vllm_rank(rank) for rank in (1, 2, 9, 32, 257, 321, 512)] == [
        1, 8, 16, 32, 320, 512, 512,
    ]  # fmt: skip
    assert VLLM_RANKS == (1, 8, 16, 32, 64, 128, 256, 320, 512)
    with pytest.raises(AdapterError, match=r"expected at most 512\); reduce it first"):
        vllm_rank(513)
