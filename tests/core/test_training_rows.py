"""Packed rows: many questions in one forward, each as if it were asked alone by the product."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.core.embedded_model import school_films, school_questions, schooled_vlm
from video2lora_core.answer import answer, answer_in_context
from video2lora_core.encoder import look, place
from video2lora_core.pixels import normalise
from video2lora_core.shapes_world import Question, ask_all, sample_world
from video2lora_core.training.batches import NUM_FRAMES, BlockWriter, Films, shoot
from video2lora_core.training.embedded_vlm import (
    IMAGE_TOKENS,
    embed,
    label_logits,
    run_decoder,
    visual_tokens,
)
from video2lora_core.training.rows import Block, PackedRows, answer_loss, pack
from video2lora_core.vlm import in_context_ids, internalization_ids, query_ids, target_ids

TIMES_US = tuple(250_000 + 500_000 * frame for frame in range(NUM_FRAMES))
DURATION_US = 4_000_000

ids = st.lists(st.integers(1, 40), min_size=1, max_size=4).map(tuple)
outlines = st.tuples(ids, ids, st.booleans())
rows_of_outlines = st.lists(st.lists(outlines, min_size=1, max_size=3), min_size=1, max_size=3)
prefixes = st.lists(st.integers(1, 40), max_size=4)
Outline = tuple[tuple[int, ...], tuple[int, ...], bool]


def blocks_of(outlined: list[list[Outline]]) -> list[list[Block]]:
    return [
        [
            Block(prompt_ids=prompt, target_ids=target, is_blind=blind)
            for prompt, target, blind in row
        ]
        for row in outlined
    ]


def writer() -> BlockWriter:
    return BlockWriter(schooled_vlm().tokenizer)


def questions_of(films: Films) -> list[list[Question]]:
    return [school_questions(world) for world in films.worlds]


@torch.no_grad()
def logits_of(rows: PackedRows, films: Films) -> Tensor:
    model = schooled_vlm().model
    visual = visual_tokens(model, films.frames).flatten(0, 1)
    return label_logits(model, run_decoder(model, embed(model, rows.ids, visual), rows), rows)


@given(rows_of_outlines, prefixes)
def test_a_token_sees_its_block_and_a_sighted_one_the_prefix_too(
    outlined: list[list[Outline]], prefix: list[int]
) -> None:
    rows = blocks_of(outlined)
    packed = pack(rows, prefix_ids=prefix, pad_id=0)
    for row, listed in enumerate(rows):
        owners = [0] * len(prefix)
        for number, block in enumerate(listed, start=1):
            owners += [number] * len(block.prompt_ids + block.target_ids)
        owners += [-1] * (packed.ids.shape[1] - len(owners))
        for token, owner in enumerate(owners):
            sees_prefix = owner > 0 and not listed[owner - 1].is_blind
            expected = [
                earlier <= token and (of == owner or (of == 0 and sees_prefix))
                for earlier, of in enumerate(owners)
            ]
            assert packed.mask[row, 0, token].tolist() == expected


@given(rows_of_outlines, prefixes)
def test_ids_positions_and_labels_are_those_of_each_block_alone(
    outlined: list[list[Outline]], prefix: list[int]
) -> None:
    rows = blocks_of(outlined)
    packed = pack(rows, prefix_ids=prefix, pad_id=0)
    flat = [(row, block) for row, listed in enumerate(rows) for block in listed]
    assert packed.num_blocks == len(flat)
    for index, (row, block) in enumerate(flat):
        assert packed.block_row[index] == row
        opening = int(packed.answer_column[index])
        start = opening + 1 - len(block.prompt_ids)
        text = block.prompt_ids + block.target_ids
        span = slice(start, start + len(text))
        assert packed.ids[row, span].tolist() == list(text)
        first = 0 if block.is_blind else len(prefix)
        assert packed.positions[row, span].tolist() == list(range(first, first + len(text)))
        labels = (packed.label_block == index).nonzero()[:, 0]
        assert packed.label_id[labels].tolist() == list(block.target_ids)
        assert packed.label_row[labels].tolist() == [row] * len(labels)
        assert packed.label_column[labels].tolist() == list(range(opening, opening + len(labels)))


@pytest.mark.parametrize("is_blind", [False, True])
def test_a_packed_block_gives_the_logits_of_the_model_alone(is_blind: bool) -> None:
    vlm, films, write = schooled_vlm(), school_films(), writer()
    prefix = write.video(1, image_tokens=IMAGE_TOKENS)
    of_row = [
        [write.query(q) if (index % 2 == 0) == is_blind else write.in_context(q) for q in questions]
        for index, questions in enumerate(questions_of(films))
    ]
    rows = pack(of_row, prefix_ids=prefix, pad_id=0)
    packed = logits_of(rows, films)
    seen = look(vlm, normalise(films.frames, dtype=torch.float32)).unflatten(0, (-1, NUM_FRAMES))
    for index, (row, block) in enumerate(
        (row, block) for row, listed in enumerate(of_row) for block in listed
    ):
        text = [*(() if block.is_blind else prefix), *block.prompt_ids, *block.target_ids]
        visual = seen[row][: 0 if block.is_blind else None]
        with torch.no_grad():
            embeddings = place(vlm, torch.tensor([text]), visual)
            alone = vlm.model(inputs_embeds=embeddings).logits[0]
        expected = alone[-len(block.target_ids) - 1 : -1]
        assert torch.allclose(packed[rows.label_block == index], expected, atol=1e-5, rtol=1e-5)


def test_a_blind_block_sees_nothing_of_the_video() -> None:
    films, write = school_films(), writer()
    listed = [[write.query(q) for q in questions] for questions in questions_of(films)]
    prefix = write.video(1, image_tokens=IMAGE_TOKENS)
    behind_video = logits_of(pack(listed, prefix_ids=prefix, pad_id=0), films)
    other = shoot([sample_world(50 + k, num_scenes=1) for k in range(len(films.worlds))], seed=9)
    assert torch.equal(behind_video, logits_of(pack(listed, prefix_ids=prefix, pad_id=0), other))


@pytest.mark.parametrize("is_blind", [False, True])
def test_a_block_is_right_exactly_when_the_product_answers_so(is_blind: bool) -> None:
    vlm, write = schooled_vlm(), writer()
    new = [sample_world(60 + index, num_scenes=1) for index in range(2)]
    right, expected = [], []
    for films in (school_films(), shoot(new, seed=3)):
        chosen = [ask_all(world, seed=0) for world in films.worlds]
        listed = [
            [write.query(q) if is_blind else write.in_context(q) for q in qs] for qs in chosen
        ]
        rows = pack(listed, prefix_ids=write.video(1, image_tokens=IMAGE_TOKENS), pad_id=0)
        right += answer_loss(logits_of(rows, films), rows)[1].tolist()
        for index, questions in enumerate(chosen):
            texts = [question.text for question in questions]
            pixels = films.frames.unflatten(0, (-1, NUM_FRAMES))[index].numpy()
            given_answers = (
                answer(vlm, texts)
                if is_blind
                else answer_in_context(
                    vlm, np.asarray(pixels), TIMES_US, texts, duration_us=DURATION_US
                )
            )
            pairs = zip(given_answers, questions, strict=True)
            expected += [given.text == question.answer for given, question in pairs]
    assert right == expected
    assert 3 < sum(right) < len(right) - 3


@given(rows_of_outlines, prefixes, st.integers(0, 100))
def test_the_loss_is_the_mean_over_blocks_of_the_mean_over_their_tokens(
    outlined: list[list[Outline]], prefix: list[int], seed: int
) -> None:
    rows = blocks_of(outlined)
    packed = pack(rows, prefix_ids=prefix, pad_id=0)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(packed.label_id), 41, generator=generator)
    losses, is_right, label = [], [], 0
    for block in (block for listed in rows for block in listed):
        surprise, hits = [], []
        for target in block.target_ids:
            values = logits[label].tolist()
            surprise.append(math.log(sum(map(math.exp, values))) - values[target])
            hits.append(values.index(max(values)) == target)
            label += 1
        losses.append(sum(surprise) / len(surprise))
        is_right.append(all(hits))
    loss, right = answer_loss(logits, packed)
    assert loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert right.tolist() == is_right


def test_a_block_counts_as_right_only_if_all_its_tokens_are() -> None:
    rows = pack(
        [[Block(prompt_ids=(1,), target_ids=(2, 3)), Block(prompt_ids=(1,), target_ids=(2,))]],
        pad_id=0,
    )
    logits = torch.nn.functional.one_hot(torch.tensor([2, 1, 2]), 4).float()
    assert answer_loss(logits, rows)[1].tolist() == [False, True]


def test_blocks_are_written_with_the_ids_that_the_product_asks_with() -> None:
    vlm, write = schooled_vlm(), writer()
    for question in ask_all(sample_world(4, num_scenes=1), seed=0):
        query, sighted = write.query(question), write.in_context(question)
        assert list(query.prompt_ids) == query_ids(vlm, question.text)
        assert list(query.target_ids) == target_ids(vlm, question.answer)
        assert sighted.target_ids == query.target_ids
        prefix = write.video(1, image_tokens=IMAGE_TOKENS)
        in_context = in_context_ids(vlm, TIMES_US, DURATION_US, question.text)
        assert [*prefix, *sighted.prompt_ids] == in_context
        assert query.is_blind
        assert not sighted.is_blind


def test_a_video_starts_as_the_internalization_prompt_does() -> None:
    vlm, prefix = schooled_vlm(), writer().video(1, image_tokens=IMAGE_TOKENS)
    prompt = internalization_ids(vlm, TIMES_US, DURATION_US)
    assert prompt[: len(prefix)] == list(prefix)
