"""Released checkpoints: the golden one gives the golden outputs; what we cannot do is refused."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, SmolVLMForConditionalGeneration

from tests.core.adapter_factory import DOWN, QUERY, config_of, random_hypernetwork
from tests.core.golden_files import load_parts, released_checkpoint
from tests.core.released_factory import write_released
from tests.core.test_golden import (
    GOLDEN,
    GROUPS,
    assert_golden,
    golden_config,
    load_strictly,
)
from video2lora_core.adapter import Adapter, AdapterBatch, Factors
from video2lora_core.checkpoint import load_checkpoint, save_checkpoint
from video2lora_core.compose import batch_from_factors, concat, with_bias
from video2lora_core.errors import CheckpointError
from video2lora_core.inject import adapted
from video2lora_core.released_checkpoint import read_released_checkpoint

TINY = GOLDEN / "checkpoint_tiny"
MODULE = "down_proj"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory):
    """The golden checkpoint after the whole way: pickle, our files, and read again."""
    released = read_released_checkpoint(released_checkpoint())
    directory = tmp_path_factory.mktemp("imported")
    save_checkpoint(directory, released.hypernetwork, info={})
    return load_checkpoint(directory)


@pytest.fixture(scope="module")
def golden():
    return load_file(TINY / "io.safetensors")


def test_the_golden_checkpoint_says_what_it_is():
    released = read_released_checkpoint(released_checkpoint())
    config = released.hypernetwork.config
    assert (config.scaling, config.rank, config.d_latent, config.d_model) == (16.0, 4, 8, 64)
    assert (config.layers, config.modules[0].name) == ((0, 1, 2, 3), MODULE)
    assert released.base_model == "tiny/SmolVLM2-golden"
    assert len(released.file_sha256) == 64


def test_the_imported_golden_checkpoint_gives_the_references_factors(imported, golden):
    made = imported.hypernetwork(golden["features"], golden["attention_mask"])[MODULE]
    assert_golden(made.a, golden["raw.down_proj.A"])
    assert_golden(made.b, golden["raw.down_proj.B"])


def composed_by_hand(golden, hypernetwork, rows):
    """METHOD's A* = [A_1; ..; A_n; bias_A] of the reference's own factors, [layer, rank, d]."""
    state = hypernetwork.state_dict()
    return tuple(
        torch.cat([*golden[f"raw.{MODULE}.{side}"][rows], state[f"bias_{side}.{MODULE}"]], dim=1)
        for side in "AB"
    )


def composed_by_us(golden, imported, rows):
    made = imported.hypernetwork(golden["features"], golden["attention_mask"])[MODULE]
    adapters = [
        Adapter(
            factors={MODULE: Factors(a=made.a[row], b=made.b[row])},
            layers=imported.hypernetwork.config.layers,
            scaling=imported.hypernetwork.config.scaling,
            checkpoint_sha256=imported.sha256,
        )
        for row in rows
    ]
    return with_bias(concat(adapters), imported.hypernetwork.bias_factors())


@pytest.mark.parametrize("rows", GROUPS["n3"] + GROUPS["n1_2"])
def test_its_compositions_are_the_references_factors_with_the_bias_once(imported, golden, rows):
    a, b = composed_by_hand(golden, imported.hypernetwork, rows)
    ours = composed_by_us(golden, imported, rows).factors[MODULE]
    assert_golden(ours.a, a)
    assert_golden(ours.b, b)


@torch.no_grad()
@pytest.mark.parametrize("rows", GROUPS["n3"] + GROUPS["n1_2"])
def test_its_logits_are_those_of_the_references_factors_added_to_the_weights(
    imported, golden, rows
):
    prompts = load_file(GOLDEN / "vlm_tiny/lora_forward.safetensors")
    inputs = {key: prompts[key] for key in ("input_ids", "attention_mask")}
    adapter = composed_by_us(golden, imported, rows)
    model = tiny_model()
    with adapted(model, adapter):
        ours = model(**inputs).logits
    a, b = composed_by_hand(golden, imported.hypernetwork, rows)
    for layer, block in enumerate(model.model.text_model.layers):
        block.mlp.down_proj.weight += adapter.scaling * b[layer].double().mT @ a[layer].double()
    # The factors agree to 6e-6, and these move the logits by up to 4: an error relative to that.
    moved = (ours - prompts["logits_base"]).abs().max()
    assert (ours - model(**inputs).logits).abs().max() < 5e-5 * moved
    assert moved > 1


@torch.no_grad()
@pytest.mark.parametrize(("tag", "rows", "atol"), [("n3", [0], 2e-5), ("n1_2", [0, 1, 1], 5e-5)])
def test_another_imported_checkpoint_gives_the_references_logits(tmp_path, tag, rows, atol):
    """Of the golden set hyper_down, whose logits were recorded, written as the authors write.

    With the reference's own factors all logits agree to 2e-5 (test_golden); with ours, which differ
    in their last bits, 4 of the 3,840 of n1_2 are up to 3.5e-5 away. Against a perceiver and a
    model in float64 the recorded logits are off by 5.5e-5 there, ours by 2.0e-5.
    """
    given = load_strictly(golden_config(), load_parts("hyper_down/hypernet"))
    read = read_released_checkpoint(write_released(tmp_path / "down.pt", given)).hypernetwork
    io = load_file(GOLDEN / "hyper_down/io.safetensors")
    composed = batch_from_factors(
        read(io["features"], io["attention_mask"]),
        groups=GROUPS[tag],
        layers=read.config.layers,
        scaling=read.config.scaling,
        bias=read.bias_factors(),
    )
    factors = composed.factors[MODULE]
    batch = AdapterBatch(
        factors={MODULE: Factors(a=factors.a[rows], b=factors.b[rows])},
        layers=composed.layers,
        scaling=composed.scaling,
        has_bias=True,
    )
    golden = load_file(GOLDEN / "vlm_tiny/lora_forward.safetensors")
    inputs = {key: golden[key][: len(rows)] for key in ("input_ids", "attention_mask")}
    model = tiny_model().float()
    with adapted(model, batch):
        ours = model(**inputs).logits
    torch.testing.assert_close(ours, golden[f"logits.{tag}"], atol=atol, rtol=0)


def tiny_model():
    model = SmolVLMForConditionalGeneration(AutoConfig.from_pretrained(GOLDEN / "vlm_tiny"))
    model.load_state_dict(load_parts("vlm_tiny/model"), strict=True)
    return model.double().eval().requires_grad_(False)  # the order of sums alone is 2e-5 in fp32


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"num_cross_blocks": 3}, {}),
        ({"num_cross_blocks": 2, "num_self_per_block": 2}, {}),
        ({"num_cross_blocks": 3, "num_self_per_block": 1, "shared_weights": True}, {}),
        ({"modules": (DOWN, QUERY)}, {}),
        ({"num_residual_mlps": 4}, {"without": ("num_pre_head_layers",)}),
        ({}, {"prefix": "_orig_mod."}),
        ({}, {"dtype": torch.bfloat16}),
        ({}, {"dtype": torch.float16}),
    ],
)
def test_every_shape_of_the_format_comes_back_tensor_by_tensor(tmp_path, options, kept):
    hypernetwork = random_hypernetwork(config_of(**options))
    path = write_released(tmp_path / "released.pt", hypernetwork, **kept)
    read = read_released_checkpoint(path).hypernetwork
    assert read.config == hypernetwork.config
    dtype = kept.get("dtype", torch.float32)
    for name, tensor in hypernetwork.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor.to(dtype).float()), name


@pytest.mark.parametrize(
    ("record", "option", "value"),
    [
        ("hypernet", "per_layer_processing", True),
        ("hypernet", "use_light_weight_lora", True),
        ("hypernet", "use_token_mixing", True),
        ("hypernet", "extra_modules", ["norm"]),
        ("hypernet", "per_rank_gen", False),
        ("hypernet", "use_per_rank_bias", True),
        ("hypernet", "use_bias", False),
        ("perceiver", "layer_to_layer_ctx_encoder", False),
        ("perceiver", "aggregator_type", "pooler"),
        ("perceiver", "num_extra_modules", 1),
        ("lora", "use_dora", True),
        ("lora", "rank_pattern", {"down_proj": 2}),
        ("encoder", "ctx_encoder_type", "early_exit"),
    ],
)
def test_an_option_we_do_not_implement_is_refused_by_its_name(tmp_path, record, option, value):
    path = write_released(
        tmp_path / "released.pt",
        random_hypernetwork(config_of()),
        changes={record: {option: value}},
    )
    with pytest.raises(CheckpointError, match=rf"not implemented here: .*\.{option} = "):
        read_released_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hypernet": {"latent_size": 24}}, r"\(16,\) \(expected \(24,\)\)"),
        ({"perceiver": {"num_blocks": 3}}, r"is missing \(expected"),
        ({"perceiver": {"num_blocks": 1}}, r"\(expected none such\)"),
        ({"lora": {"r": 5}}, r"\(expected \(1, 3, 5, 1\)\)|\(expected \(3, 5, 24\)\)"),
        ({"hypernet": {"layer_indices": torch.arange(2)}}, r"\(3, 3, 24\) \(expected \(2, 3, 24\)"),
        (
            {"hypernet": {"feature_sizes": ({"v_proj": 1}, {"v_proj": 1})}},
            r"\['v_proj'\].*down_pro",
        ),
        ({"perceiver": {"num_blocks": 10**9}}, "1000000000 blocks"),
        ({"hypernet": {"layer_indices": torch.zeros(1).expand(10**9)}}, "1000000000 layers"),
        ({"hypernet": {"layer_indices": None}}, "make no hypernetwork"),
        ({"lora": {"r": "four"}}, "make no hypernetwork"),
    ],
)
def test_settings_that_do_not_fit_the_tensors_are_refused_with_both(tmp_path, changes, said):
    path = write_released(
        tmp_path / "released.pt", random_hypernetwork(config_of()), changes=changes
    )
    with pytest.raises(CheckpointError, match=said):
        read_released_checkpoint(path)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.full((4, 16), float("nan")), "NaN or infinity"),
        (torch.zeros(4, 16, dtype=torch.int64), "torch.int64"),
        (torch.zeros(1).expand(4, 16), "memory bomb"),
    ],
)
def test_tensors_that_are_not_what_they_seem_are_refused(tmp_path, tensor, said):
    path = write_released(
        tmp_path / "released.pt",
        random_hypernetwork(config_of()),
        tensors={"aggregator.perceiver.encoder.latents_q": tensor},
    )
    with pytest.raises(CheckpointError, match=said):
        read_released_checkpoint(path)


def test_shared_layers_that_differ_are_refused(tmp_path):
    hypernetwork = random_hypernetwork(config_of(num_cross_blocks=3, shared_weights=True))
    name = "aggregator.perceiver.encoder.layers.1.self_attn.q_proj.weight"
    other = hypernetwork.state_dict()[name] + 1
    path = write_released(tmp_path / "released.pt", hypernetwork, tensors={name: other})
    with pytest.raises(CheckpointError, match="shared_weights is set, but tensors"):
        read_released_checkpoint(path)


def test_a_file_of_other_tensors_is_refused_for_its_missing_settings(tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="it has no hypernet_config"):
        read_released_checkpoint(tmp_path / "other.pt")
