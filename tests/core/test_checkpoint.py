"""Checkpoints: what is saved loads bit-equal; what is damaged or foreign is refused by name."""

import hashlib
import json
import subprocess
from dataclasses import replace

import pytest
import torch
from transformers import SmolVLMForConditionalGeneration

from tests.core.adapter_factory import DOWN, QUERY, config_of, random_hypernetwork
from tests.core.tiny_vlm import D_FF, D_MODEL, tiny_config
from video2lora_core.checkpoint import (
    Checkpoint,
    check_fits,
    checkpoint_files,
    checkpoint_from_files,
    checkpoint_sha256,
    load_checkpoint,
    save_checkpoint,
)
from video2lora_core.errors import CheckpointError, ModelMismatchError
from video2lora_core.hypernetwork import Hypernetwork, TargetModule

INFO = {"vlm_weights_sha256": "c" * 64, "internalization_prompt": "Internalize.", "norm": 1.5}


@pytest.fixture
def saved(tmp_path):
    directory = tmp_path / "checkpoint"
    sha256 = save_checkpoint(directory, random_hypernetwork(config_of()), info=INFO)
    return directory, sha256


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modules": (DOWN, QUERY), "num_residual_mlps": 2},
        {"num_cross_blocks": 3, "num_self_per_block": 1, "shared_weights": True},
    ],
)
def test_what_is_saved_loads_bit_equal(tmp_path, changes):
    hypernetwork = random_hypernetwork(config_of(**changes))
    sha256 = save_checkpoint(tmp_path, hypernetwork, info=INFO)
    loaded = load_checkpoint(tmp_path)
    assert (loaded.sha256, loaded.info) == (sha256, INFO)
    assert loaded.hypernetwork.config == hypernetwork.config
    state = loaded.hypernetwork.state_dict()
    assert all(torch.equal(state[name], t) for name, t in hypernetwork.state_dict().items())
    x = torch.randn(1, 3, 4, 16)
    assert torch.equal(loaded.hypernetwork(x)["down_proj"].b, hypernetwork(x)["down_proj"].b)


def test_a_loaded_checkpoint_can_be_trained_further(saved):
    hypernetwork = load_checkpoint(saved[0]).hypernetwork
    hypernetwork(torch.randn(1, 3, 4, 16))["down_proj"].a.sum().backward()
    assert hypernetwork.head.weight.grad is not None


def test_shared_tensors_stay_shared_after_loading(tmp_path):
    config = config_of(num_cross_blocks=3, shared_weights=True)
    save_checkpoint(tmp_path, random_hypernetwork(config), info={})
    loaded = load_checkpoint(tmp_path).hypernetwork
    assert sum(p.numel() for p in loaded.parameters()) == sum(
        p.numel() for p in Hypernetwork(config).parameters()
    )


def test_bf16_halves_the_file_and_loads_as_float32(tmp_path):
    hypernetwork = random_hypernetwork(config_of())
    save_checkpoint(tmp_path / "fp32", hypernetwork, info={})
    save_checkpoint(tmp_path / "bf16", hypernetwork, info={}, dtype=torch.bfloat16)
    sizes = [(tmp_path / d / "hypernetwork.safetensors").stat().st_size for d in ("fp32", "bf16")]
    assert sizes[1] < 0.55 * sizes[0]
    state = load_checkpoint(tmp_path / "bf16").hypernetwork.state_dict()
    for name, tensor in hypernetwork.state_dict().items():
        assert torch.equal(state[name], tensor.bfloat16().float())


def test_equal_checkpoints_have_equal_bytes_and_one_identity():
    made = [checkpoint_files(random_hypernetwork(config_of()), info=INFO) for _ in range(3)]
    assert made[0] == made[1] == made[2]
    other = checkpoint_files(random_hypernetwork(config_of()), info={**INFO, "norm": 2.0})
    assert checkpoint_sha256(other) != checkpoint_sha256(made[0])


def test_the_identity_is_what_sha256sum_prints(saved):
    directory, sha256 = saved
    command = "sha256sum hypernetwork.json hypernetwork.safetensors | sha256sum"
    printed = subprocess.run(
        command, shell=True, cwd=directory, capture_output=True, text=True, check=True
    )
    assert printed.stdout.split()[0] == sha256


def test_saving_leaves_no_partial_file(saved):
    names = {path.name for path in saved[0].iterdir()}
    assert names == {"hypernetwork.json", "hypernetwork.safetensors"}


@pytest.mark.parametrize("name", ["hypernetwork.json", "hypernetwork.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved[0] / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing; give the directory"):
        load_checkpoint(saved[0])


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:-1] + bytes([b[-1] ^ 1])])
def test_truncated_or_altered_weights_are_refused(saved, damage):
    path = saved[0] / "hypernetwork.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError, match=r"hypernetwork\.safetensors: .*truncated or altered"):
        load_checkpoint(saved[0])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "video2lora-checkpoint"}'])
def test_a_damaged_description_is_refused(saved, text):
    (saved[0] / "hypernetwork.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"\.json: not a checkpoint's description"):
        load_checkpoint(saved[0])


def test_an_altered_description_is_another_checkpoint(saved):
    directory, sha256 = saved
    path = directory / "hypernetwork.json"
    path.write_text(path.read_text().replace("Internalize.", "Watch."))
    assert load_checkpoint(directory).sha256 != sha256
    with pytest.raises(CheckpointError, match=f"expected {sha256}; use the checkpoint that made"):
        load_checkpoint(directory, expected_sha256=sha256)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format_version": 2}, "read it with the release that wrote it"),
        ({"config": {}}, "config and tensors do not make a hypernetwork"),
    ],
)
def test_a_description_of_another_format_is_refused(saved, changes, match):
    path = saved[0] / "hypernetwork.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(saved[0])


@pytest.mark.parametrize(
    "edit",
    [{"rank": 0}, {"rank": 4}, {"num_cross_blocks": 5}, {"unknown": 1}, {"layers": [3, 1]}],
)
def test_a_config_that_does_not_fit_its_tensors_is_refused(edit):
    files = checkpoint_files(random_hypernetwork(config_of()), info={})
    description = json.loads(files["hypernetwork.json"])
    description["config"].update(edit)
    edited = {**files, "hypernetwork.json": json.dumps(description).encode()}
    with pytest.raises(CheckpointError, match="here: config and tensors do not make"):
        checkpoint_from_files(edited, where="here")


def test_weights_that_are_no_safetensors_are_refused():
    files = checkpoint_files(random_hypernetwork(config_of()), info={})
    description = json.loads(files["hypernetwork.json"])
    description["weights_sha256"] = hashlib.sha256(b"junk").hexdigest()
    edited = {
        "hypernetwork.json": json.dumps(description).encode(),
        "hypernetwork.safetensors": b"junk",
    }
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        checkpoint_from_files(edited, where="here")


def fitting(**changes):
    settings = {
        "d_model": D_MODEL,
        "layers": (0, 3),
        "modules": (TargetModule(name="down_proj", d_in=D_FF, d_out=D_MODEL),),
    }
    hypernetwork = Hypernetwork(config_of(**{**settings, **changes}))
    return Checkpoint(hypernetwork=hypernetwork, sha256="a" * 64, info=INFO)


def test_a_checkpoint_is_checked_against_the_model():
    model = SmolVLMForConditionalGeneration(tiny_config(vocab_size=64, image_token_id=6))
    check_fits(fitting(), model)
    check_fits(fitting(), model, weights_sha256="c" * 64)
    check_fits(replace(fitting(), info={}), model, weights_sha256="d" * 64)
    with pytest.raises(ModelMismatchError, match="features are 64 wide, the checkpoint expects 32"):
        check_fits(fitting(d_model=32), model)
    with pytest.raises(ModelMismatchError, match="decoder layer 9 wanted"):
        check_fits(fitting(layers=(0, 9)), model)
    with pytest.raises(ModelMismatchError, match=r"was trained for c+"):
        check_fits(fitting(), model, weights_sha256="d" * 64)
