"""A batch of one shape asks the device nothing, and gives transformers' own bits."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.core.test_encoder import noise, padded, prompts, watched
from tests.core.tiny_vlm import D_FF, D_MODEL, PIXELS, load_tiny_vlm
from video2lora_core.encoder import embed, look, stream_blocks, stream_features
from video2lora_core.errors import UsageError
from video2lora_core.factor_stream import FactorStream
from video2lora_core.fixed_shape import is_fixed_shape, see
from video2lora_core.graphs import RecordedBatch, batch_factors
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig, TargetModule
from video2lora_core.pixels import normalise
from video2lora_core.random_model import random_hypernetwork
from video2lora_core.vlm import Vlm

LAYERS = (0, 1, 2)
# Each makes the host wait for the device, or a shape depend on values.
QUESTIONS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "aten.item", "aten.equal")


class Watch(TorchDispatchMode):
    """Notes which operations ask what a tensor holds."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.num_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_operations += 1
        is_indexed = str(func).startswith("aten.index.") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if is_indexed or any(word in str(func) for word in QUESTIONS):
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return load_tiny_vlm(tmp_path_factory.mktemp("vlm"))


def small_hypernetwork() -> Hypernetwork:
    down = TargetModule(name="down_proj", d_in=D_FF, d_out=D_MODEL)
    config = HypernetworkConfig(
        d_model=D_MODEL,
        layers=LAYERS,
        modules=(down,),
        rank=2,
        scaling=1.0,
        d_latent=32,
        num_cross_blocks=2,
    )
    return random_hypernetwork(config, seed=0)


def asked_by_the_device_part(vlm: Vlm, mask: torch.Tensor | None, ids: torch.Tensor) -> list[str]:
    hypernetwork = small_hypernetwork()
    with torch.no_grad(), Watch() as watch:
        stream_features(
            vlm,
            pixels=noise(),
            input_ids=ids,
            attention_mask=mask,
            layers=LAYERS,
            consume=lambda layer, x: hypernetwork.layer_factors(layer, x, mask) and None,
        )
    assert watch.num_operations > 100
    return watch.asked


def test_from_frames_to_factors_nothing_is_asked_where_nothing_is_padded(vlm: Vlm) -> None:
    assert asked_by_the_device_part(vlm, None, prompts(vlm)) == []


def test_the_watch_sees_what_transformers_asks_where_something_is(vlm: Vlm) -> None:
    ids, mask = padded(prompts(vlm), side="right")
    assert "aten._local_scalar_dense.default" in asked_by_the_device_part(vlm, mask, ids)


def test_the_towers_bits_are_those_of_transformers(vlm: Vlm) -> None:
    pixel_values = normalise(noise().flatten(0, 1))
    with torch.no_grad():
        expected = vlm.model.model.vision_model(pixel_values=pixel_values).last_hidden_state
        assert torch.equal(see(vlm, pixel_values), expected)


def test_the_decoders_bits_are_those_of_transformers(vlm: Vlm) -> None:
    expected = watched(vlm, noise(), prompts(vlm), None)
    found: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        embeddings = embed(vlm, pixels=noise(), input_ids=prompts(vlm))
        stream_blocks(vlm, embeddings, layers=(0, 2, 3), consume=found.__setitem__)
    assert is_fixed_shape(vlm)
    assert list(found) == [0, 2, 3]
    assert all(torch.equal(found[layer], expected[layer]) for layer in found)


def test_frames_go_to_the_device_as_bytes(vlm: Vlm) -> None:
    """What is uploaded is uint8 at the encoder's size: a quarter of float32, and no mask at all."""
    sent: list[tuple[torch.dtype, int]] = []

    class Sent(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if "_to_copy" in str(func) and kwargs.get("device") == torch.device("meta"):
                sent.append((args[0].dtype, args[0].nbytes))
            return func(*args, **kwargs)

    pixels = torch.from_numpy(np.zeros((1, 3, 3, PIXELS.size_px, PIXELS.size_px), dtype=np.uint8))
    with Sent():
        values = normalise(pixels.to("meta").flatten(0, 1), dtype=torch.bfloat16)
    assert sent == [(torch.uint8, pixels.nbytes)]
    assert values.dtype == torch.bfloat16
    with torch.no_grad():
        assert look(vlm, normalise(pixels[0])).shape[0] == 3


def test_a_graph_is_refused_where_there_is_no_cuda_device(vlm: Vlm) -> None:
    with pytest.raises(UsageError, match="the model is on cpu"):
        RecordedBatch(vlm, small_hypernetwork(), noise(), prompts(vlm))


def test_what_a_graph_would_record_asks_nothing_and_gives_the_streamed_factors(vlm: Vlm) -> None:
    hypernetwork = small_hypernetwork()
    stream = FactorStream(hypernetwork, mask=None)
    with torch.no_grad():
        with Watch() as watch:
            found = batch_factors(vlm, hypernetwork, noise(), prompts(vlm))
        inputs = {"pixels": noise(), "input_ids": prompts(vlm), "layers": LAYERS}
        stream_features(vlm, **inputs, consume=stream.take)
    assert watch.asked == []
    assert torch.equal(found["down_proj"].a, stream.finish()["down_proj"].a)
