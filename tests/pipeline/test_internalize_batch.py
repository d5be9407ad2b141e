"""One device batch: what does not fit is halved, what is not finite is rejected."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.lake import open_lake
from tasks import internalize_batch
from tasks.summary import RunSummary
from tests.pipeline.conftest import write_model
from video2lora_core.checkpoint import load_checkpoint, save_checkpoint
from video2lora_core.internalize import internalize

Run = Callable[..., RunSummary]


class SmallDevice:
    """Stands for a device whose memory holds so many segments."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.batches: list[int] = []

    def internalize(self, vlm: Any, hypernetwork: Any, batch: Sequence[Any], **rest: Any) -> Any:
        self.batches.append(len(batch))
        if len(batch) > self.capacity:
            raise torch.OutOfMemoryError
        return internalize(vlm, hypernetwork, batch, **rest)


def test_a_batch_that_does_not_fit_is_halved(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    device = SmallDevice(capacity=2)
    monkeypatch.setattr(internalize_batch, "internalize", device.internalize)
    assert run().shards.num_rejects == 0
    assert device.batches == [4, 2, 2, 1]


def test_a_segment_that_never_fits_is_rejected_for_now(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(internalize_batch, "internalize", SmallDevice(capacity=0).internalize)
        assert run().shards.num_rejects == 5
    lake = open_lake(tmp_path / "lake")
    [row] = lake.query("select distinct reason, is_terminal from open_rejects").to_pylist()
    assert row == {"reason": "DEVICE_OOM", "is_terminal": False}
    assert run().shards.num_segments == 5
    assert lake.query("select * from open_rejects").num_rows == 0


def test_factors_that_are_not_finite_are_rejected(
    run: Run, model_dir: Path, tmp_path: Path
) -> None:
    path = write_model(model_dir, seed=9)
    hypernetwork = load_checkpoint(model_dir / "hypernetwork9").hypernetwork
    with torch.no_grad():
        hypernetwork.head.weight.fill_(torch.inf)
    save_checkpoint(model_dir / "hypernetwork9", hypernetwork, info={})
    assert run(model=str(path)).shards.num_rejects == 5
    rejects = open_lake(tmp_path / "lake").query("select distinct reason from rejects")
    assert rejects.to_pylist() == [{"reason": "NON_FINITE"}]
