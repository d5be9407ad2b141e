"""Bounds live in the checkpoint's JSON and are no part of what the checkpoint is."""

import json
import shutil

import pytest

from configs.load import load_model_config
from tests.core.adapter_factory import config_of, random_hypernetwork
from video2lora_core.checkpoint import (
    DESCRIPTION_FILE,
    WEIGHTS_FILE,
    checkpoint_sha256,
    identity_files,
    load_checkpoint,
    save_bounds,
    save_checkpoint,
)
from video2lora_core.checkpoint_bounds import without_bounds
from video2lora_core.errors import CheckpointError
from video2lora_core.quality import Bound, QualityBounds

SHIPPED = "c6707e34210c19d958e8e798c491501b3a9680dcd3529cd80b3808d02cbc78c7"


def bounds_of(*, upper: float) -> QualityBounds:
    names = [f"down_proj.{layer}.{what}" for layer in (0, 2, 3) for what in ("A", "B", "update")]
    bound = Bound(lower=-1.5, upper=upper)
    return QualityBounds(log_norms=dict.fromkeys(names, bound), num_segments=64)


@pytest.fixture
def directory(tmp_path):
    save_checkpoint(tmp_path / "checkpoint", random_hypernetwork(config_of()), info={"x": 1})
    return tmp_path / "checkpoint"


def files_in(directory):
    return {name: (directory / name).read_bytes() for name in (DESCRIPTION_FILE, WEIGHTS_FILE)}


def test_learning_bounds_does_not_make_another_checkpoint(directory):
    before = load_checkpoint(directory)
    assert before.bounds is None
    original = files_in(directory)
    for upper in (2.0, 3.0):  # a second calibration takes the place of the first
        save_bounds(directory, bounds_of(upper=upper))
        after = load_checkpoint(directory, expected_sha256=before.sha256)
        assert after.bounds == bounds_of(upper=upper)
        assert (after.info, after.hypernetwork.config) == ({"x": 1}, before.hypernetwork.config)
        assert files_in(directory) != original
        assert identity_files(files_in(directory)) == original
    assert {path.name for path in directory.iterdir()} == {DESCRIPTION_FILE, WEIGHTS_FILE}


def test_everything_but_the_bounds_is_part_of_the_identity(directory):
    save_bounds(directory, bounds_of(upper=2.0))
    files = files_in(directory)
    description = json.loads(files[DESCRIPTION_FILE])
    description["info"]["x"] = 2
    other = {**files, DESCRIPTION_FILE: json.dumps(description).encode()}
    assert checkpoint_sha256(other) != checkpoint_sha256(files)


def test_bounds_in_a_description_edited_by_hand_are_refused(directory):
    path = directory / DESCRIPTION_FILE
    edited = json.dumps(json.loads(path.read_text()))
    path.write_text(edited)
    with pytest.raises(CheckpointError, match="bounds would change its sha256; save the checkp"):
        save_bounds(directory, bounds_of(upper=2.0))
    assert path.read_text() == edited


def test_a_checkpoint_that_cannot_be_written_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot be written .*a directory of yours"):
        save_bounds(tmp_path / "nowhere", bounds_of(upper=2.0))


def test_bounds_of_other_layers_are_refused_when_the_checkpoint_is_loaded(directory):
    path = directory / DESCRIPTION_FILE
    save_bounds(directory, bounds_of(upper=2.0))
    path.write_text(path.read_text().replace("down_proj.3.A", "down_proj.1.A"))
    with pytest.raises(CheckpointError, match=r"hypernetwork\.json: its bounds are for"):
        load_checkpoint(directory)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"bounds"', b'{"a": 1}'])
def test_what_holds_no_bounds_is_left_as_it_is(data):
    assert without_bounds(data) == data


def test_the_embedded_default_is_the_checkpoint_it_was_before_it_had_bounds(tmp_path):
    shipped = load_model_config("tiny").checkpoint
    assert load_checkpoint(shipped).sha256 == SHIPPED
    copied = shutil.copytree(shipped, tmp_path / "copy")
    description = json.loads((copied / DESCRIPTION_FILE).read_bytes())
    description.pop("bounds", None)
    text = json.dumps(description, indent=2, sort_keys=True) + "\n"
    (copied / DESCRIPTION_FILE).write_text(text)
    assert load_checkpoint(copied).sha256 == SHIPPED
