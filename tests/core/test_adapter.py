"""Adapters and their bytes."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from tests.core.adapter_factory import DOWN, SHA256, random_adapter, random_bias
from video2lora_core.adapter import (
    Adapter,
    AdapterBatch,
    Factors,
    adapter_bytes,
    adapter_from_bytes,
)
from video2lora_core.compose import stack, with_bias
from video2lora_core.errors import AdapterError
from video2lora_core.tensor_file import tensor_bytes

GOLDEN = Path(__file__).parents[1] / "golden" / "adapter_v1"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_what_is_written_reads_back(dtype):
    adapter = random_adapter(rank=5, layers=(0, 2, 7))
    read = adapter_from_bytes(adapter_bytes(adapter, dtype=dtype))
    assert (read.layers, read.scaling, read.rank) == ((0, 2, 7), 4.0, 5)
    assert (read.checkpoint_sha256, read.has_bias) == (SHA256, False)
    assert sorted(read.factors) == ["down_proj", "gate_proj"]
    for name, factors in adapter.factors.items():
        assert torch.equal(read.factors[name].a, factors.a.to(dtype))
        assert torch.equal(read.factors[name].b, factors.b.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8])
def test_equal_adapters_give_equal_bytes(dtype):
    written = {adapter_bytes(random_adapter(seed=4), dtype=dtype) for _ in range(20)}
    assert len(written) == 1


def counted(*shape, step):
    """Numbers that bfloat16 holds exactly, the same on every machine."""
    count = torch.arange(torch.Size(shape).numel()) * step
    return (count % 97 - 48).reshape(shape) / 16


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_an_adapter_written_before_int8_reads_and_is_still_written_the_same(dtype):
    written = (GOLDEN / f"{dtype}.safetensors").read_bytes()
    adapter = adapter_from_bytes(written)
    assert (adapter.layers, adapter.scaling, adapter.checkpoint_sha256) == ((0, 2), 4.0, SHA256)
    down, gate = adapter.factors["down_proj"], adapter.factors["gate_proj"]
    assert torch.equal(down.a.float(), counted(2, 3, 24, step=5))
    assert torch.equal(down.b.float(), counted(2, 3, 16, step=7))
    assert torch.equal(gate.a.float(), counted(2, 3, 16, step=11))
    assert torch.equal(gate.b.float(), counted(2, 3, 24, step=13))
    assert adapter_bytes(adapter, dtype=getattr(torch, dtype)) == written


def test_bytes_are_a_safetensors_file_any_reader_opens(tmp_path):
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(adapter_bytes(random_adapter(rank=3)))
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == ["down_proj.A", "down_proj.B", "gate_proj.A", "gate_proj.B"]
        assert file.get_slice("down_proj.A").get_shape() == [2, 3, 24]
        assert file.get_slice("down_proj.B").get_dtype() == "BF16"
        assert file.metadata() == {
            "format": "video2lora-adapter",
            "format_version": "1",
            "bias": "excluded",
            "checkpoint_sha256": SHA256,
            "layers": "[0, 2]",
            "rank": "3",
            "scaling": "4.0",
        }


def test_a_segment_adapter_of_the_published_shape_has_the_published_size():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(32, 16, 2560, generator=generator), torch.zeros(32, 16, 960)
    adapter = Adapter(
        factors={"down_proj": Factors(a=a, b=b)},
        layers=tuple(range(32)),
        scaling=128.0,
        checkpoint_sha256=SHA256,
    )
    assert 3_604_480 < len(adapter_bytes(adapter)) < 3_604_480 + 1024


def test_the_bias_is_never_stored():
    adapter = random_adapter()
    with pytest.raises(AdapterError, match=r"adapter_bytes: .*contains the bias"):
        adapter_bytes(with_bias(adapter, random_bias(adapter)))


def test_truncated_and_foreign_bytes_are_refused():
    data = adapter_bytes(random_adapter())
    for broken in (b"", data[:5], data[:100], data[:-1], b"not safetensors at all, but long"):
        with pytest.raises(AdapterError, match="not a whole safetensors file"):
            adapter_from_bytes(broken)
    with pytest.raises(
        AdapterError, match=r"expected \('video2lora-adapter', '1 or 2', 'excluded'\)"
    ):
        adapter_from_bytes(safetensors.torch.save({"x": torch.zeros(1)}))


def test_a_future_format_and_unpaired_tensors_are_refused():
    metadata = {"format": "video2lora-adapter", "format_version": "1", "bias": "excluded"}
    future = tensor_bytes({}, metadata={**metadata, "format_version": "3"})
    with pytest.raises(AdapterError, match="read it with the release that wrote it"):
        adapter_from_bytes(future)
    whole = {**metadata, "layers": "[0]", "scaling": "1.0", "checkpoint_sha256": SHA256}
    half = tensor_bytes({"down_proj.A": torch.zeros(1, 1, 1)}, metadata=whole)
    with pytest.raises(AdapterError, match=r"expected \.A and \.B"):
        adapter_from_bytes(half)


def test_missing_metadata_is_refused():
    metadata = {"format": "video2lora-adapter", "format_version": "1", "bias": "excluded"}
    zeros = torch.zeros(1, 1, 1)
    data = tensor_bytes({"down_proj.A": zeros, "down_proj.B": zeros}, metadata=metadata)
    with pytest.raises(AdapterError, match="metadata lacks"):
        adapter_from_bytes(data)


def test_metadata_is_read_without_the_tensors():
    data = adapter_bytes(random_adapter())
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"]["rank"] == "3"


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3, 24), (2, 4, 16)), ((3, 3, 24), (3, 3, 16)), ((3, 24), (3, 16)), ((2, 24), (2, 3, 16))],
)
def test_factors_that_do_not_belong_together_are_refused(a, b):
    with pytest.raises((AdapterError, TypeError), match=r"Adapter|Factors|type-check"):
        Adapter(
            factors={"down_proj": Factors(a=torch.zeros(a), b=torch.zeros(b))},
            layers=(0, 2),
            scaling=1.0,
            checkpoint_sha256=SHA256,
        )


def test_an_adapter_without_modules_is_refused():
    with pytest.raises(AdapterError, match="Adapter: factors are"):
        Adapter(factors={}, layers=(0,), scaling=1.0, checkpoint_sha256=SHA256)


def test_adapters_and_batches_move_and_cast():
    adapter = random_adapter(modules=(DOWN,)).to(dtype=torch.bfloat16, device="cpu")
    assert adapter.factors["down_proj"].a.dtype == torch.bfloat16
    batch = stack([adapter, adapter]).to(dtype=torch.float32)
    assert isinstance(batch, AdapterBatch)
    assert (batch.num_rows, batch.rank) == (2, 3)
    assert batch.factors["down_proj"].b.dtype == torch.float32
