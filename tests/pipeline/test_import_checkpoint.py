"""`video2lora import-checkpoint`: a released pickle becomes safetensors and JSON, once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks.import_checkpoint import import_checkpoint
from tests.core.adapter_factory import config_of, random_hypernetwork
from tests.core.golden_files import released_checkpoint
from tests.core.released_factory import write_released
from tests.core.test_released_archive import Calls
from video2lora_core.checkpoint import load_checkpoint
from video2lora_core.errors import UsageError

RELEASED = released_checkpoint()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flows.cli", "import-checkpoint", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_golden_checkpoint_imports_and_loads_without_a_pickle(tmp_path: Path) -> None:
    done = run(str(RELEASED), "--to", str(tmp_path / "ours"), "--json")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    loaded = load_checkpoint(tmp_path / "ours", expected_sha256=shown["sha256"])
    assert loaded.info["released"]["file"] == "step-000001.pt"
    assert "captioning" in loaded.info["internalization_prompt"]
    assert (shown["rank"], shown["scaling"], shown["layers"]) == (4, 16.0, 4)
    assert {path.suffix for path in (tmp_path / "ours").iterdir()} == {".json", ".safetensors"}


def test_a_hostile_file_ends_as_one_line_and_writes_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "executed"
    torch.save({"x": Calls(os.system, f"touch {victim}")}, tmp_path / "hostile.pt")
    done = run(str(tmp_path / "hostile.pt"), "--to", str(tmp_path / "ours"))
    assert done.returncode == 1
    assert "wants to call posix.system" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not victim.exists()
    assert not (tmp_path / "ours").exists()


def test_importing_again_changes_nothing_and_another_one_is_refused(tmp_path: Path) -> None:
    first = import_checkpoint(RELEASED, tmp_path / "ours")
    again = import_checkpoint(RELEASED, tmp_path / "ours")
    assert (first.is_new, again.is_new) == (True, False)
    assert first.sha256 == again.sha256
    other = write_released(tmp_path / "other.pt", random_hypernetwork(config_of()))
    with pytest.raises(UsageError, match="holds another checkpoint"):
        import_checkpoint(other, tmp_path / "ours")
    assert load_checkpoint(tmp_path / "ours").sha256 == first.sha256


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        import_checkpoint(RELEASED, tmp_path / "file")


def test_the_prompt_it_was_trained_with_can_be_told(tmp_path: Path) -> None:
    import_checkpoint(RELEASED, tmp_path / "ours", internalization_prompt="Watch.")
    assert load_checkpoint(tmp_path / "ours").info["internalization_prompt"] == "Watch."
