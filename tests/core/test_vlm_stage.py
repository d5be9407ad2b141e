"""Stages 0 and 1: what is asked of the VLM while it learns, against plain readings of the same."""

import math

import pytest
import torch
from torch import Tensor, nn

from tests.core.embedded_model import school_films, schooled_vlm
from video2lora_core.encoder import look
from video2lora_core.pixels import normalise
from video2lora_core.shapes_world import sample_world
from video2lora_core.shapes_world.render import is_visible, position
from video2lora_core.shapes_world.tokenizer import IMAGE, build_tokenizer, vocabulary
from video2lora_core.shapes_world.world import BACKGROUNDS, COLOURS, MOTIONS, SHAPES
from video2lora_core.training import vlm_stage
from video2lora_core.training.batches import BlockWriter, choose_questions, shoot
from video2lora_core.training.embedded_vlm import (
    IMAGE_TOKENS,
    TrainingHeads,
    build_vlm,
    embed,
    last_frame_columns,
    run_decoder,
    scene_columns,
    visual_tokens,
)
from video2lora_core.training.rows import pack
from video2lora_core.training.vlm_stage import (
    GUIDED_BLOCKS,
    GUIDED_HEADS,
    MANY_SCENES_SHARES,
    VlmStage,
    frame_targets,
    right_by_kind,
)


def new_stage(**changed: float) -> VlmStage:
    torch.manual_seed(0)
    heads = TrainingHeads(
        num_shapes=len(SHAPES), num_colours=len(COLOURS), num_motions=len(MOTIONS)
    )
    return VlmStage(build_vlm(seed=1), heads, build_tokenizer(), seed=5, **changed)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two videos per step, whatever their length."""
    monkeypatch.setattr(vlm_stage, "ROWS", dict.fromkeys(vlm_stage.ROWS, 2))


def step_of(stage: VlmStage, num_scenes: int) -> int:
    return next(step for step in range(1000) if stage._num_scenes(step) == num_scenes)


def without_gradient(module: nn.Module) -> set[str]:
    """Parameters that a step did not reach; the bias of a key never matters to a softmax."""
    return {
        name
        for name, parameter in module.named_parameters()
        if not name.endswith("k_proj.bias")
        and (parameter.grad is None or not parameter.grad.abs().sum() > 0)
    }


def test_a_step_of_seeing_teaches_vision_and_its_read_outs_alone() -> None:
    stage = new_stage()
    result = stage.see(0)
    result.loss.backward()
    assert result.loss.isfinite()
    assert 0 <= result.metrics["frame_colour_right"] <= 1
    core = stage.model.model
    assert without_gradient(core.vision_model) == without_gradient(core.connector) == set()
    assert all(parameter.grad is None for parameter in core.text_model.parameters())
    assert {name.split(".")[0] for name in without_gradient(stage.heads)} == {"motion"}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("num_scenes", [1, 2])
def test_a_step_of_answering_teaches_everything(num_scenes: int) -> None:
    stage = new_stage()
    result = stage.answer(step_of(stage, num_scenes))
    result.loss.backward()
    assert result.loss.isfinite()
    assert without_gradient(stage.model) == without_gradient(stage.heads) == set()
    guidance = result.metrics[f"guidance_{num_scenes}"]
    assert (guidance == 0.0) == (num_scenes == 1)
    assert any(name.startswith(f"right_{num_scenes}_") for name in result.metrics)


@pytest.mark.usefixtures("small")
def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    stage = new_stage(frame_weight=0.25, motion_weight=2.0, guidance_weight=0.75)
    result = stage.answer(step_of(stage, 2))
    parts = result.metrics
    total = parts["answer_loss"] + 0.25 * parts["frame_loss"]
    total += 2.0 * parts["motion_loss"] + 0.75 * parts["guidance_2"]
    assert result.loss.item() == pytest.approx(total, rel=1e-5)


@pytest.mark.usefixtures("small")
def test_a_step_is_decided_by_seed_and_number() -> None:
    stage = new_stage()
    step = step_of(stage, 1)
    assert stage.answer(step).loss.item() == stage.answer(step).loss.item()


def test_videos_have_one_to_eight_scenes_in_their_shares() -> None:
    stage = new_stage()
    found = [stage._num_scenes(step) for step in range(2000)]
    for num_scenes, share in vlm_stage.SCENE_SHARES.items():
        assert found.count(num_scenes) / 2000 == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("num_scenes", [1, 3])
def test_scene_columns_are_where_the_image_tokens_stand(num_scenes: int) -> None:
    prefix = BlockWriter(build_tokenizer()).video(num_scenes, image_tokens=IMAGE_TOKENS)
    at_image = [column for column, token in enumerate(prefix) if token == vocabulary()[IMAGE]]
    columns = scene_columns(num_scenes)
    assert columns.flatten().tolist() == at_image
    assert torch.equal(last_frame_columns(num_scenes), columns[:, -IMAGE_TOKENS:])


def test_visual_tokens_are_those_of_the_product() -> None:
    vlm, frames = schooled_vlm(), school_films().frames
    with torch.no_grad():
        ours = visual_tokens(vlm.model, frames)
        theirs = look(vlm, normalise(frames, dtype=torch.float32))
    assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-5)


def test_frames_are_described_by_what_is_visible_in_them() -> None:
    films = shoot([sample_world(seed, num_scenes=2) for seed in range(4)], seed=0)
    targets = frame_targets(films)
    scenes = [scene for world in films.worlds for scene in world.scenes]
    frame = 0
    for scene, fractions in zip(scenes, films.fractions, strict=True):
        for fraction in fractions:
            expected = {
                thing.shape: (thing.colour, position(thing, fraction))
                for thing in scene.things
                if is_visible(thing, fraction)
            }
            for index, shape in enumerate(SHAPES):
                colour = int(targets.colour[frame, index])
                assert (colour > 0) == (shape in expected)
                if colour:
                    assert COLOURS[colour - 1] == expected[shape][0]
                    place = (targets.place[frame, index] * 48).tolist()
                    assert place == pytest.approx(expected[shape][1], abs=1e-3)
            assert BACKGROUNDS[int(targets.background[frame])] == scene.background
            frame += 1
    assert frame == len(targets.colour)


def eager_attention(rows_mask: Tensor, embeddings: Tensor, positions: Tensor) -> list[Tensor]:
    """The attention weights that transformers itself computes, block by block."""
    model = build_vlm(seed=1, attention="eager")
    mask = torch.zeros(rows_mask.shape).masked_fill(~rows_mask, torch.finfo(torch.float32).min)
    output = model.model.text_model(
        inputs_embeds=embeddings,
        attention_mask=mask,
        position_ids=positions,
        output_attentions=True,
        use_cache=False,
    )
    return list(output.attentions)


@torch.no_grad()
def test_guidance_is_the_attention_that_transformers_pays_to_the_scene_asked_about() -> None:
    num_scenes, stage = 3, new_stage()
    worlds = [sample_world(seed, num_scenes=num_scenes) for seed in range(2)]
    films = shoot(worlds, seed=0)
    chosen = [choose_questions(w, count=6, seed=0, shares=MANY_SCENES_SHARES) for w in worlds]
    write = stage.writer
    blocks = [
        [write.query(q) if index == 1 else write.in_context(q) for index, q in enumerate(questions)]
        for questions in chosen
    ]
    prefix = write.video(num_scenes, image_tokens=IMAGE_TOKENS)
    rows = pack(blocks, prefix_ids=prefix, pad_id=0)
    visual = visual_tokens(stage.model, films.frames).flatten(0, 1)
    embeddings = embed(stage.model, rows.ids, visual)
    trace = run_decoder(stage.model, embeddings, rows)
    attentions = eager_attention(rows.mask, embeddings, rows.positions)
    at_image = [column for column, token in enumerate(prefix) if token == vocabulary()[IMAGE]]
    per_scene = len(at_image) // num_scenes
    losses = []
    for index, (question, block) in enumerate(
        pair for qs, bs in zip(chosen, blocks, strict=True) for pair in zip(qs, bs, strict=True)
    ):
        if question.scene is None or block.is_blind:
            continue
        columns = at_image[question.scene * per_scene : (question.scene + 1) * per_scene]
        row, opening = int(rows.block_row[index]), int(rows.answer_column[index])
        for layer in GUIDED_BLOCKS:
            for head in range(GUIDED_HEADS):
                paid = attentions[layer][row, head, opening, columns].sum().item()
                losses.append(-math.log(paid))
    assert len(losses) > 20
    found = stage._guidance_loss(trace, rows, chosen, num_scenes).item()
    assert found == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@torch.no_grad()
def test_the_packed_forward_is_transformers_own() -> None:
    stage, films = new_stage(), shoot([sample_world(3, num_scenes=1)], seed=0)
    questions = choose_questions(films.worlds[0], count=3, seed=0, shares=MANY_SCENES_SHARES)
    prefix = stage.writer.video(1, image_tokens=IMAGE_TOKENS)
    rows = pack([[stage.writer.in_context(q) for q in questions]], prefix_ids=prefix, pad_id=0)
    visual = visual_tokens(stage.model, films.frames).flatten(0, 1)
    embeddings = embed(stage.model, rows.ids, visual)
    trace = run_decoder(stage.model, embeddings, rows)
    output = stage.model.model.text_model(
        inputs_embeds=embeddings,
        attention_mask=rows.mask,
        position_ids=rows.positions,
        output_hidden_states=True,
        use_cache=False,
    )
    *inputs, normed = output.hidden_states
    assert all(torch.equal(a, b) for a, b in zip(trace.block_inputs, inputs, strict=True))
    assert torch.equal(trace.output, normed)


def test_exact_match_is_averaged_by_type() -> None:
    world = sample_world(1, num_scenes=1)
    shares = {"count": 1.0, "background": 1.0}
    chosen = [choose_questions(world, count=4, seed=seed, shares=shares) for seed in (0, 1)]
    kinds = [question.kind for questions in chosen for question in questions]
    right = torch.tensor([kind == "count" for kind in kinds])
    assert set(kinds) == {"count", "background"}
    assert right_by_kind(chosen, right, 1) == {"right_1_count": 1.0, "right_1_background": 0.0}
