"""The loss of a hypernetwork over a frozen model, against the same thing done step by step."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.core.tiny_vlm import D_FF, D_MODEL, load_tiny_vlm
from video2lora_core.answer import answer_in_context
from video2lora_core.compose import concat, with_bias
from video2lora_core.errors import UsageError
from video2lora_core.frames import SegmentFrames
from video2lora_core.hypernetwork import Hypernetwork, HypernetworkConfig, TargetModule
from video2lora_core.inject import adapted
from video2lora_core.internalize import internalize
from video2lora_core.segments import Segment, frame_times
from video2lora_core.training.corpus_stage import (
    NO_ANSWER,
    CorpusStage,
    Example,
    LossWeights,
    plain_target,
    shown,
)
from video2lora_core.vlm import Vlm, query_ids, target_ids

NUM_FRAMES = 2


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return load_tiny_vlm(tmp_path_factory.mktemp("vlm"))


@pytest.fixture
def network() -> Hypernetwork:
    made = Hypernetwork(
        HypernetworkConfig(
            d_model=D_MODEL,
            layers=(0, 2),
            modules=(TargetModule(name="down_proj", d_in=D_FF, d_out=D_MODEL),),
            rank=2,
            scaling=5.0,
            d_latent=16,
            num_latents=4,
            num_cross_blocks=1,
        )
    )
    for name, parameter in made.named_parameters():
        if name.startswith(("scaler_B", "bias_B")):  # an untrained one is an exact no-op
            torch.nn.init.constant_(parameter, 0.3)
    return made


def segment(seed: int, start_s: int = 0) -> SegmentFrames:
    span = Segment(start_us=start_s * 1_000_000, end_us=(start_s + 4) * 1_000_000)
    pixels = np.random.default_rng(seed).integers(0, 256, (NUM_FRAMES, 3, 32, 32), dtype=np.uint8)
    return SegmentFrames(
        segment=span,
        pixels=pixels,
        times_us=frame_times(span, num_frames=NUM_FRAMES),
        num_unique_frames=NUM_FRAMES,
        num_corrupt_frames=0,
    )


A, B, C = segment(1), segment(2, 4), segment(3, 8)
EXAMPLES = (
    Example(segments=(A,), num_asked=1, question="What is the colour?", target="red"),
    Example(segments=(A, B, C), num_asked=2, question="How many?", target="three ball"),
)


def stage_of(vlm: Vlm, network: Hypernetwork, **changed: object) -> CorpusStage:
    weights = changed.pop("weights", LossWeights())
    return CorpusStage(vlm, network, lambda _: EXAMPLES, weights=weights, **changed)


def student_logits(vlm: Vlm, network: Hypernetwork, example: Example) -> torch.Tensor:
    """One example alone: internalize, compose, inject, transformers' own forward."""
    made = internalize(vlm, network, example.segments, checkpoint_sha256="0" * 64)
    composition = with_bias(concat(made), network.bias_factors())
    prompt, target = query_ids(vlm, example.question), target_ids(vlm, example.target)
    with torch.no_grad(), adapted(vlm.model, composition):
        logits = vlm.model(input_ids=torch.tensor([prompt + target])).logits[0]
    return logits[len(prompt) - 1 : -1]


def test_the_loss_is_that_of_each_example_done_alone(vlm: Vlm, network: Hypernetwork) -> None:
    found = stage_of(vlm, network).step(0)
    expected = [
        F.cross_entropy(
            student_logits(vlm, network, example), torch.tensor(target_ids(vlm, example.target))
        )
        for example in EXAMPLES
    ]
    assert found.loss.item() == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)
    assert found.metrics["num_segments"] == 1.5  # A is internalized once for both


def test_the_kl_is_that_of_each_example_done_alone(vlm: Vlm, network: Hypernetwork) -> None:
    weights = LossWeights(cross_entropy=0.0, kl=1.0, temperature=2.0)
    stage = stage_of(vlm, network, weights=weights)
    expected = []
    for example in EXAMPLES:
        teacher = stage.teacher_logits(example, example.target)
        student = student_logits(vlm, network, example)
        divergence = F.kl_div(
            (student / 2).log_softmax(-1), (teacher / 2).softmax(-1), reduction="batchmean"
        )
        expected.append(4 * divergence)
    found = stage.step(0).loss.item()
    assert found == pytest.approx(float(torch.stack(expected).mean()), rel=1e-3)


def test_the_teacher_sees_the_asked_frames_and_no_distractor(
    vlm: Vlm, network: Hypernetwork
) -> None:
    example = EXAMPLES[1]
    pixels, times_us, duration_us = shown(example)
    assert len(pixels) == 2 * NUM_FRAMES
    assert (times_us[0], duration_us) == (1_000_000, 8_000_000)
    said = answer_in_context(
        vlm, pixels, times_us, [example.question], duration_us=duration_us, max_new_tokens=1
    )
    logits = stage_of(vlm, network).teacher_logits(example, example.target)
    first = vlm.tokenizer.decode([logits[0].argmax()], skip_special_tokens=True).strip()
    assert first == said[0].text


def test_only_the_hypernetwork_learns_and_all_of_it(vlm: Vlm, network: Hypernetwork) -> None:
    stage_of(vlm, network).step(0).loss.backward()
    still = [
        name
        for name, p in network.named_parameters()
        if p.grad is None or not bool(p.grad.abs().sum())
    ]
    assert still == []
    assert all(p.grad is None for p in vlm.model.parameters())


def gradients(stage: CorpusStage) -> list[torch.Tensor]:
    stage.hypernetwork.zero_grad()
    stage.step(0).loss.backward()
    return [p.grad.clone() for p in stage.hypernetwork.parameters() if p.grad is not None]


def test_recomputing_the_perceiver_changes_no_gradient(vlm: Vlm, network: Hypernetwork) -> None:
    plain = gradients(stage_of(vlm, network))
    for a, b in zip(plain, gradients(stage_of(vlm, network, is_recomputed=True)), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_under_autocast_the_loss_is_near_and_the_gradients_are_float32(
    vlm: Vlm, network: Hypernetwork
) -> None:
    plain = stage_of(vlm, network).step(0).loss.item()
    stage = stage_of(vlm, network, is_bfloat16=True)
    assert stage.step(0).loss.item() == pytest.approx(plain, rel=0.02)
    assert stage.step(0).loss.item() != plain
    assert {gradient.dtype for gradient in gradients(stage)} == {torch.float32}
    assert {f.a.dtype for f in stage.factors([A]).values()} == {torch.float32}


def test_without_a_target_the_teacher_is_asked_now(vlm: Vlm, network: Hypernetwork) -> None:
    weights = LossWeights(cross_entropy=0.0, kl=1.0)
    stage = stage_of(vlm, network, weights=weights, max_new_tokens=2)
    example = EXAMPLES[0]
    pixels, times_us, duration_us = shown(example)
    said = answer_in_context(
        vlm, pixels, times_us, [example.question], duration_us=duration_us, max_new_tokens=2
    )
    blank = Example(segments=(A,), num_asked=1, question=example.question, target=None)
    told = Example(
        segments=(A,),
        num_asked=1,
        question=example.question,
        target=plain_target(said[0].text, vlm),
    )
    assert stage.loss_of([blank]).loss.item() == stage.loss_of([told]).loss.item()


def test_a_teacher_that_says_nothing_is_unable_to_determine(vlm: Vlm) -> None:
    assert plain_target("  ", vlm) == NO_ANSWER == "Unable to determine."
    assert plain_target("<image>", vlm) == NO_ANSWER
    assert plain_target(" a <end_of_utterance> red\nball ", vlm) == "a red ball"


def test_a_batch_of_nothing_is_refused(vlm: Vlm, network: Hypernetwork) -> None:
    with pytest.raises(UsageError, match="without examples"):
        stage_of(vlm, network).loss_of([])
