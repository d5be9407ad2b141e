"""Stage 2: features, answers and losses of a training step are those of the product."""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.embedded_model import LAYERS, build_hypernetwork, schooled_vlm
from video2lora_core.adapter import Adapter, Factors
from video2lora_core.answer import answer
from video2lora_core.compose import concat, with_bias
from video2lora_core.encoder import stream_features
from video2lora_core.hypernetwork import Hypernetwork
from video2lora_core.internalize import internalize
from video2lora_core.segments import Segment
from video2lora_core.shapes_world import SCENE_US, Question, sample_world
from video2lora_core.shapes_world.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES
from video2lora_core.training.batches import NUM_FRAMES, Films, shoot, training_worlds
from video2lora_core.training.hypernetwork_stage import (
    GROUP_SIZE,
    HypernetworkStage,
    Subset,
    read_down_proj,
)
from video2lora_core.training.readout import SegmentReadout, read_embeddings, segment_targets
from video2lora_core.training.rows import Block, PackedRows, pack
from video2lora_core.vlm import internalization_ids


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmedSegment:
    """One scene's frames as the decoder would hand them on."""

    segment: Segment
    pixels: np.ndarray
    times_us: tuple[int, ...]


def segments_of(films: Films) -> list[FilmedSegment]:
    times_us = tuple(SCENE_US * (2 * frame + 1) // (2 * NUM_FRAMES) for frame in range(NUM_FRAMES))
    return [
        FilmedSegment(
            segment=Segment(start_us=0, end_us=SCENE_US), pixels=frames.numpy(), times_us=times_us
        )
        for frames in films.frames.unflatten(0, (-1, NUM_FRAMES))
    ]


def new_stage(hypernetwork: Hypernetwork, **changed: object) -> HypernetworkStage:
    vlm = schooled_vlm()
    sizes = {"groups": 1, "rows_per_group": 6, "questions_per_row": 4, **changed}
    return HypernetworkStage(
        vlm.model,
        hypernetwork,
        vlm.tokenizer,
        internalization_prompt=vlm.layout.internalization_prompt,
        seed=3,
        **sizes,
    )


def films_of(stage: HypernetworkStage, step: int) -> Films:
    worlds = training_worlds(
        seed=stage.seed, step=step, count=stage.groups, num_scenes=GROUP_SIZE, two_things=0.5
    )
    return shoot(worlds, seed=step)


def test_features_are_those_of_the_encoder() -> None:
    vlm, stage = schooled_vlm(), new_stage(build_hypernetwork())
    films = shoot([sample_world(seed, num_scenes=2) for seed in range(2)], seed=0)
    segments = segments_of(films)
    prompt = internalization_ids(vlm, segments[0].times_us, SCENE_US)
    taken: dict[int, Tensor] = {}
    stream_features(
        vlm,
        pixels=films.frames.unflatten(0, (-1, NUM_FRAMES)),
        input_ids=torch.tensor([prompt] * 4),
        layers=LAYERS,
        consume=taken.__setitem__,
    )
    expected = torch.stack([taken[layer] for layer in LAYERS], dim=1)
    found = stage.features(films)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5, rtol=1e-5)


def test_factors_are_those_that_internalizing_gives() -> None:
    vlm, hypernetwork = schooled_vlm(), build_hypernetwork(strength=0.5)
    stage = new_stage(hypernetwork)
    films = shoot([sample_world(1, num_scenes=3)], seed=0)
    with torch.no_grad():
        factors = hypernetwork(stage.features(films))["down_proj"]
    adapters = internalize(vlm, hypernetwork, segments_of(films), checkpoint_sha256="")
    for segment, adapter in enumerate(adapters):
        stored = adapter.factors["down_proj"]
        assert torch.allclose(factors.a[segment], stored.a, atol=1e-5, rtol=1e-4)
        assert torch.allclose(factors.b[segment], stored.b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("strength", [0.0, 0.4])
def test_a_steps_exact_match_is_that_of_the_products_answers(strength: float) -> None:
    hypernetwork, step = build_hypernetwork(strength=strength), 2
    stage = new_stage(hypernetwork)
    metrics = stage.step(step).metrics
    films = films_of(stage, step)
    adapters = internalize(
        schooled_vlm(), hypernetwork, segments_of(films), checkpoint_sha256="any"
    )
    hits: dict[str, list[bool]] = defaultdict(list)
    for subset in stage._subsets(films.worlds, step):
        for question, text in said(subset, adapters, hypernetwork):
            name = f"right_{len(subset.segments)}_{question.kind}"
            hits[name].append(text == question.answer)
    right = {name: value for name, value in metrics.items() if name.startswith("right_")}
    assert right == {name: sum(values) / len(values) for name, values in hits.items()}
    assert 0 < sum(map(sum, hits.values())) < sum(map(len, hits.values()))


def said(
    subset: Subset, adapters: list[Adapter], hypernetwork: Hypernetwork
) -> list[tuple[Question, str]]:
    """What the product answers from the composition of a subset."""
    composition = concat([adapters[segment] for segment in subset.segments])
    ready = with_bias(composition, hypernetwork.bias_factors())
    texts = [question.text for question in subset.questions]
    answers = answer(schooled_vlm(), texts, adapters=ready)
    return [(q, a.text) for q, a in zip(subset.questions, answers, strict=True)]


def test_a_step_teaches_the_hypernetwork_and_leaves_the_vlm_alone() -> None:
    hypernetwork = build_hypernetwork(strength=0.05)
    readout = SegmentReadout(num_layers=len(LAYERS), rank=2, d_latent=32)
    stage = new_stage(hypernetwork, readout=readout)
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    result = stage.step(0)
    result.loss.backward()
    assert result.loss.isfinite()
    parts = result.metrics
    total = parts["answer_loss"] + 0.25 * parts["ownership"] + 0.5 * parts["readout"]
    assert result.loss.item() == pytest.approx(total, rel=1e-5)
    for module in (hypernetwork, readout):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in stage.model.parameters())
    assert all(torch.equal(before[n], value) for n, value in stage.model.state_dict().items())


def test_a_subset_is_asked_about_exactly_its_segments() -> None:
    stage = new_stage(build_hypernetwork(), groups=3)
    worlds = films_of(stage, 0).worlds
    subsets = stage._subsets(worlds, 0)
    assert len(subsets) == 3 * 6
    for number, subset in enumerate(subsets):
        group = number // 6
        assert sorted(set(subset.segments)) == list(subset.segments)
        assert {segment // GROUP_SIZE for segment in subset.segments} == {group}
        assert len(subset.questions) == 4
        shown = [worlds[group].scenes[segment % GROUP_SIZE] for segment in subset.segments]
        for question in subset.questions:
            if question.kind in {"colour", "shape", "motion"} and question.scene is not None:
                words = {w for t in shown[question.scene].things for w in (t.colour, t.shape)}
                assert words & set(question.text.rstrip("?").split())


def test_at_first_every_segment_is_asked_about_alone() -> None:
    stage = new_stage(build_hypernetwork(), solo_steps=2)
    worlds = films_of(stage, 1).worlds
    alone = [subset.segments for subset in stage._subsets(worlds, 1)]
    assert alone == [(segment,) for segment in range(GROUP_SIZE)]
    assert {len(s.segments) for step in range(2, 9) for s in stage._subsets(worlds, step)} > {1}


def question(scene: int | None) -> Question:
    return Question(kind="motion", text="", answer="", scene=scene)


def owned_rows() -> tuple[list[Subset], PackedRows]:
    """Three compositions of segments 0 to 4 with two questions each, and their rows."""
    subsets = [
        Subset(segments=(0, 2, 3), questions=(question(2), question(0))),
        Subset(segments=(4,), questions=(question(0), question(0))),
        Subset(segments=(1, 4), questions=(question(None), question(1))),
    ]
    block = Block(prompt_ids=(3, 4), target_ids=(5,))
    return subsets, pack([[block, block] for _ in subsets], pad_id=0)


def random_factors(seed: int, *, b_scale: Tensor | None = None) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    b = torch.randn(5, 2, 3, 6, generator=generator)
    scale = torch.ones(5) if b_scale is None else b_scale
    return Factors(a=torch.randn(5, 2, 3, 4, generator=generator), b=b * scale[:, None, None, None])


def inputs_for(rows: PackedRows) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    return [torch.randn(*rows.ids.shape, 4, generator=generator) for _ in range(2)]


def test_ownership_is_the_cross_entropy_of_the_owners_update_energy() -> None:
    subsets, rows = owned_rows()
    factors, inputs = random_factors(1), inputs_for(rows)
    losses, block = [], 0
    for row, subset in enumerate(subsets):
        for asked in subset.questions:
            column = int(rows.answer_column[block])
            block += 1
            if asked.scene is None or len(subset.segments) == 1:
                continue
            energies = [
                sum(
                    float((factors.b[s, layer].T @ (factors.a[s, layer] @ x[row, column])).norm())
                    ** 2
                    for layer, x in enumerate(inputs)
                )
                for s in subset.segments
            ]
            losses.append(-math.log(energies[asked.scene] / sum(energies)))
    assert len(losses) == 3
    found = new_stage(build_hypernetwork())._ownership_loss(inputs, factors, rows, subsets)
    assert found.item() == pytest.approx(sum(losses) / 3, rel=1e-4)


def test_ownership_is_nothing_when_only_the_owner_speaks() -> None:
    _, rows = owned_rows()
    subsets = [Subset(segments=(0, 1, 2), questions=(question(1), question(1)))] * 3
    only_segment_1 = random_factors(1, b_scale=torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0]))
    stage = new_stage(build_hypernetwork())
    assert stage._ownership_loss(inputs_for(rows), only_segment_1, rows, subsets).item() < 1e-6


def test_ownership_is_the_log_of_the_number_when_all_speak_alike() -> None:
    _, rows = owned_rows()
    subsets = [Subset(segments=(0, 1, 2, 4), questions=(question(1), question(3)))] * 3
    one = random_factors(1)
    alike = Factors(a=one.a[:1].expand(5, -1, -1, -1), b=one.b[:1].expand(5, -1, -1, -1))
    found = new_stage(build_hypernetwork())._ownership_loss(inputs_for(rows), alike, rows, subsets)
    assert found.item() == pytest.approx(math.log(4), rel=1e-5)


def test_without_an_owner_there_is_no_ownership_loss() -> None:
    _, rows = owned_rows()
    subsets = [Subset(segments=(0, 1), questions=(question(None), question(None)))] * 3
    stage = new_stage(build_hypernetwork())
    assert stage._ownership_loss(inputs_for(rows), random_factors(1), rows, subsets).item() == 0.0


def test_hooks_are_gone_after_the_reading_also_when_it_fails() -> None:
    model, hypernetwork = schooled_vlm().model, build_hypernetwork()
    with pytest.raises(ZeroDivisionError), read_down_proj(model, LAYERS):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), read_embeddings(hypernetwork):
        raise ZeroDivisionError
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert not any(m._forward_hooks for m in hypernetwork.modules())


def test_the_read_out_is_told_what_each_segment_shows() -> None:
    scenes = [s for seed in range(20) for s in sample_world(seed, num_scenes=2).scenes]
    targets = segment_targets(scenes)
    assert targets.shape == (40, 3 * len(SHAPES) + 1)
    for scene, row in zip(scenes, targets.tolist(), strict=True):
        colours, motions, orders = row[:4], row[4:8], row[8:12]
        told = {
            shape: (COLOURS[colours[k] - 1], MOTIONS[motions[k] - 1], orders[k])
            for k, shape in enumerate(SHAPES)
            if orders[k]
        }
        assert told == {
            t.shape: (t.colour, t.motion, number) for number, t in enumerate(scene.things, start=1)
        }
        assert [bool(c) for c in colours] == [bool(m) for m in motions] == [bool(o) for o in orders]
        assert BACKGROUNDS[row[12]] == scene.background


def test_a_read_out_that_knows_nothing_loses_the_logs_of_its_choices() -> None:
    readout = SegmentReadout(num_layers=3, rank=2, d_latent=8)
    torch.nn.init.zeros_(readout.probe.weight)
    torch.nn.init.zeros_(readout.probe.bias)
    targets = segment_targets(sample_world(1, num_scenes=4).scenes)
    loss = readout(torch.randn(4, 3, 1, 2, 8), targets)
    choices = [len(COLOURS) + 1, len(MOTIONS) + 1, 3]
    expected = (sum(4 * math.log(n) for n in choices) + math.log(4)) / 13
    assert loss.item() == pytest.approx(expected, rel=1e-5)
