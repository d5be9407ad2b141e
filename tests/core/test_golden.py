"""The released code's own outputs, made on CPU in float32 (tests/golden/*/meta.json): 2e-5."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, SmolVLMForConditionalGeneration

from tests.core.golden_files import load_parts, released_checkpoint
from video2lora_core.adapter import Adapter, AdapterBatch, Factors
from video2lora_core.compose import batch_from_factors, concat, stack, with_bias
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig, TargetModule
from video2lora_core.inject import adapted

GOLDEN = Path(__file__).parents[1] / "golden"
MODULE = "down_proj"
GROUPS = {"n3": [[0, 1, 2]], "n1_2": [[0], [1, 2]], "n1_1_1": [[0], [1], [2]]}


def golden_config(**changes):
    settings = {
        "d_model": 64,
        "layers": (0, 1, 2, 3),
        "modules": (TargetModule(name=MODULE, d_in=96, d_out=64),),
        "rank": 4,
        "scaling": 16.0,
        "d_latent": 16,
        "num_cross_blocks": 3,
    }
    return HypernetworkConfig(**{**settings, **changes})


def load_strictly(config, state):
    hypernetwork = Hypernetwork(config, device="meta")
    hypernetwork.load_state_dict(state, strict=True, assign=True)
    return hypernetwork.requires_grad_(False)


@pytest.fixture(scope="module")
def hypernetwork():
    return load_strictly(golden_config(), load_parts("hyper_down/hypernet"))


@pytest.fixture(scope="module")
def io():
    return load_file(GOLDEN / "hyper_down/io.safetensors")


@pytest.fixture(scope="module")
def raw(hypernetwork, io):
    return hypernetwork(io["features"], io["attention_mask"])


def assert_golden(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def test_embeddings_and_flat_factors_equal_the_reference(hypernetwork, io):
    for layer in range(4):
        e0 = hypernetwork.embed(io["features"][:, layer], io["attention_mask"])
        assert_golden(e0, io["lora_emb"][:, layer])
    assert_golden(hypernetwork.flat_factors(io["lora_emb"], slice(None)), io["flat_loras"])


def test_raw_factors_equal_the_reference(raw, io):
    assert_golden(raw[MODULE].a, io["raw.down_proj.A"])
    assert_golden(raw[MODULE].b, io["raw.down_proj.B"])


@pytest.mark.parametrize("padding", ["left", "both"])
def test_padding_elsewhere_gives_the_same_factors(hypernetwork, io, padding):
    mask = io["attention_mask"]
    shifts = [12 - int(n) if padding == "left" else (12 - int(n)) // 2 for n in mask.sum(1)]
    rolled = torch.stack([f.roll(n, 1) for f, n in zip(io["features"], shifts, strict=True)])
    moved = torch.stack([m.roll(n) for m, n in zip(mask, shifts, strict=True)])
    assert_golden(hypernetwork(rolled, moved)[MODULE].a, io["raw.down_proj.A"])


@pytest.mark.parametrize("tag", GROUPS)
def test_compositions_with_bias_equal_the_reference(hypernetwork, raw, io, tag):
    composed = batch_from_factors(
        raw,
        groups=GROUPS[tag],
        layers=(0, 1, 2, 3),
        scaling=16.0,
        bias=hypernetwork.bias_factors(),
    )
    assert_golden(composed.factors[MODULE].a, io[f"combined.{tag}.bias.down_proj.A"])
    assert_golden(composed.factors[MODULE].b, io[f"combined.{tag}.bias.down_proj.B"])


@pytest.mark.parametrize("tag", ["n3", "n1_2"])
def test_compositions_without_bias_equal_the_reference(raw, io, tag):
    """The reference leaves zero rows where the bias would stand."""
    composed = batch_from_factors(
        raw, groups=GROUPS[tag], layers=(0, 1, 2, 3), scaling=16.0, bias=None
    )
    rank = composed.rank
    for side, ours in (("A", composed.factors[MODULE].a), ("B", composed.factors[MODULE].b)):
        theirs = io[f"combined.{tag}.nobias.down_proj.{side}"]
        assert_golden(ours, theirs[:, :, :rank])
        assert theirs[:, :, rank:].count_nonzero() == 0


def test_a_stack_of_composed_adapters_equals_the_reference(hypernetwork, raw, io):
    bias = hypernetwork.bias_factors()
    stacked = stack(
        [with_bias(concat([segment(raw, i) for i in group]), bias) for group in GROUPS["n1_2"]]
    )
    assert_golden(stacked.factors[MODULE].a, io["combined.n1_2.bias.down_proj.A"])
    assert_golden(stacked.factors[MODULE].b, io["combined.n1_2.bias.down_proj.B"])


def segment(raw, index):
    factors = {MODULE: Factors(a=raw[MODULE].a[index], b=raw[MODULE].b[index])}
    return Adapter(factors=factors, layers=(0, 1, 2, 3), scaling=16.0, checkpoint_sha256="golden")


@pytest.fixture(scope="module")
def model():
    config = AutoConfig.from_pretrained(GOLDEN / "vlm_tiny")
    made = SmolVLMForConditionalGeneration(config)
    made.load_state_dict(load_parts("vlm_tiny/model"), strict=True)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(("tag", "rows"), [("n3", [0]), ("n1_2", [0, 1, 1])])
def test_logits_with_composed_adapters_equal_the_reference(model, io, attention, tag, rows):
    golden = load_file(GOLDEN / "vlm_tiny/lora_forward.safetensors")
    a, b = (io[f"combined.{tag}.bias.down_proj.{side}"][rows] for side in "AB")
    batch = AdapterBatch(
        factors={MODULE: Factors(a=a, b=b)}, layers=(0, 1, 2, 3), scaling=16.0, has_bias=True
    )
    inputs = {key: golden[key][: len(rows)] for key in ("input_ids", "attention_mask")}
    model.set_attn_implementation(attention)
    with adapted(model, batch):
        assert_golden(model(**inputs).logits, golden[f"logits.{tag}"])
    assert_golden(model(**inputs).logits, golden["logits_base"][: len(rows)])


def test_features_of_the_tiny_vlm_give_the_references_factors(hypernetwork):
    golden = load_file(GOLDEN / "vlm_tiny/features.safetensors")
    factors = hypernetwork(golden["features"], golden["feature_mask"])[MODULE]
    assert_golden(factors.a, golden["raw.down_proj.A"])
    assert_golden(factors.b, golden["raw.down_proj.B"])


class Record:
    """Stands for every class of the reference that its pickle names."""

    def __init__(self, *args):
        pass


def tensors_of_released_pickle(path):
    names = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    records = [(type("Record", (Record,), {}), name) for name in names]
    with torch.serialization.safe_globals(records):
        state = torch.load(path, weights_only=True, map_location="cpu")
    return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


def test_a_checkpoint_of_the_released_format_gives_the_references_factors():
    golden = load_file(GOLDEN / "checkpoint_tiny/io.safetensors")
    state = tensors_of_released_pickle(released_checkpoint())
    hypernetwork = load_strictly(golden_config(d_latent=8, num_cross_blocks=1), state)
    factors = hypernetwork(golden["features"], golden["attention_mask"])[MODULE]
    assert_golden(factors.a, golden["raw.down_proj.A"])
    assert_golden(factors.b, golden["raw.down_proj.B"])
