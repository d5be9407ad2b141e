"""A batch of rows with adapters of any ranks answers as its rows would one by one."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.test_answer import random_adapter
from tests.core.tiny_vlm import VOCABULARY, load_tiny_vlm
from video2lora_core.adapter import Adapter
from video2lora_core.answer import answer, answer_logits
from video2lora_core.compose import stack
from video2lora_core.errors import UsageError
from video2lora_core.inject import LowRankUpdate, adapted
from video2lora_core.row_groups import group_rows
from video2lora_core.vlm import Vlm

POOL = tuple(
    random_adapter(rank, seed=seed) for seed, rank in enumerate((1, 2, 3, 8, 8, 16, 40, 70))
)
WORDS = st.lists(st.sampled_from(VOCABULARY.split()[:30]), min_size=1, max_size=20).map(" ".join)
ASKED = ["How many?", "What is the colour of the ball?"] * len(POOL)
ASKED_FROM = list(POOL) * 2
ROWS = st.lists(st.tuples(WORDS, st.sampled_from(POOL)), min_size=2, max_size=6)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    """One whose answers end early in some rows and not in others: any word may end an answer."""
    loaded = load_tiny_vlm(tmp_path_factory.mktemp("vlm"))
    said = answer(loaded, ASKED, adapters=ASKED_FROM, max_new_tokens=10)
    commonest = Counter(i for one in said for i in set(one.new_ids)).most_common(1)[0][0]
    end = loaded.tokenizer.convert_ids_to_tokens(commonest)
    return replace(loaded, layout=replace(loaded.layout, end_token=end))


@given(rows=ROWS)
@settings(max_examples=12)
def test_mixed_ranks_and_lengths_answer_as_one_by_one(vlm: Vlm, rows: list[tuple[str, Adapter]]):
    questions, adapters = map(list, zip(*rows, strict=True))
    together = answer(vlm, questions, adapters=adapters, max_new_tokens=8)
    alone = [
        answer(vlm, [question], adapters=adapter, max_new_tokens=8)[0] for question, adapter in rows
    ]
    assert [one.new_ids for one in together] == [one.new_ids for one in alone]
    assert [one.text for one in together] == [one.text for one in alone]
    assert [one.prompt_ids for one in together] == [one.prompt_ids for one in alone]
    given_ids = [one.new_ids for one in alone]
    found = answer_logits(vlm, questions, given_ids, adapters=adapters)
    for logits, (question, adapter), ids in zip(found, rows, given_ids, strict=True):
        (wanted,) = answer_logits(vlm, [question], [ids], adapters=adapter)
        assert (logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_some_of_those_rows_end_early_and_some_do_not(vlm: Vlm):
    """Else nothing above would have shown that rows may be dropped."""
    said = answer(vlm, ASKED, adapters=ASKED_FROM, max_new_tokens=10)
    lengths = [one.num_new_tokens for one in said]
    assert min(lengths) < 4
    assert max(lengths) == 10
    assert len({one.new_ids for one in said}) > 4


def test_rows_that_have_ended_are_no_longer_computed(vlm: Vlm):
    sizes = []
    watching = vlm.model.model.text_model.layers[0].register_forward_hook(
        lambda module, args, output: sizes.append(args[0].shape[0])
    )
    try:
        said = answer(vlm, ASKED, adapters=ASKED_FROM, max_new_tokens=10)
    finally:
        watching.remove()
    assert sizes[0] == len(ASKED)
    assert sizes == sorted(sizes, reverse=True)
    for step, size in enumerate(sizes[1:], start=1):
        open_rows = sum(one.num_new_tokens >= step for one in said)
        assert open_rows <= size <= max(open_rows, 2 * open_rows - 1)
    assert len(set(sizes)) > 2


def test_adapters_that_rows_share_are_held_once(vlm: Vlm):
    wide = [POOL[0], POOL[1], POOL[0], POOL[0], POOL[1], POOL[0]]
    held = []

    def look(module: object, args: object, output: object) -> None:
        hooks = vlm.model.model.text_model.layers[0].mlp.down_proj._forward_hooks.values()
        held.append([hook.a.shape[0] for hook in hooks if isinstance(hook, LowRankUpdate)])

    watching = vlm.model.model.text_model.layers[1].register_forward_hook(look)
    try:
        answer(vlm, ["How many?"] * 6, adapters=wide, max_new_tokens=1)
    finally:
        watching.remove()
    # Width 3: four rows of one adapter take two slots, two rows of the other take one.
    assert held == [[3]]


@given(rows=st.lists(st.integers(0, 5), min_size=1, max_size=40))
def test_every_row_has_one_place_in_a_slot_of_its_adapter(rows: list[int]):
    groups = group_rows(rows)
    assert groups.row_adapters == tuple(rows)
    assert len(set(groups.row_places)) == len(rows)
    for row, place in enumerate(groups.row_places):
        assert groups.place_rows[place] == row
        assert groups.slot_adapters[place // groups.width] == rows[row]
    assert set(groups.slot_adapters) == set(rows)
    num_adapters = len(set(rows))
    assert len(groups.slot_adapters) < 2 * num_adapters or num_adapters == 1
    assert len(groups.place_rows) == len(groups.slot_adapters) * groups.width
    assert len(groups.place_rows) < 2 * (len(rows) + num_adapters)
    if rows == list(range(len(rows))):
        assert groups.is_plain


@given(
    rows=st.lists(st.integers(0, 3), min_size=1, max_size=8),
    keeping=st.lists(st.lists(st.booleans(), min_size=8, max_size=8), max_size=3),
)
@settings(max_examples=12)
def test_rows_keep_their_adapters_however_often_others_are_dropped(
    vlm: Vlm, rows: list[int], keeping: list[list[bool]]
):
    ids = torch.arange(3 * len(rows)).view(-1, 3) % 20 + 7
    expected = torch.empty(len(rows), 3, vlm.model.config.text_config.vocab_size)
    with torch.no_grad():
        for row, adapter in enumerate(rows):
            with adapted(vlm.model, POOL[adapter]):
                expected[row] = vlm.model(input_ids=ids[row : row + 1]).logits[0]
        with adapted(vlm.model, stack(POOL[:4]), row_adapters=rows) as injection:
            left = torch.arange(len(rows))
            for mask in keeping:
                chosen = torch.tensor([i for i in range(len(left)) if mask[i]], dtype=torch.long)
                if not len(chosen):
                    continue
                injection.keep_rows(chosen)
                left = left[chosen]
                found = vlm.model(input_ids=ids[left]).logits
                torch.testing.assert_close(found, expected[left], atol=1e-4, rtol=1e-5)


def test_a_row_without_an_adapter_of_the_batch_is_refused(vlm: Vlm):
    for rows in ([0, 4], [-1], []):
        with (
            pytest.raises(UsageError, match="numbers from 0 to 3"),
            adapted(vlm.model, stack(POOL[:4]), row_adapters=rows),
        ):
            pass
    with (
        pytest.raises(UsageError, match="row_adapters with a single adapter"),
        adapted(vlm.model, POOL[0], row_adapters=[0, 0]),
    ):
        pass


def test_rows_stay_where_the_caller_injected_an_adapter_for_each(vlm: Vlm):
    wanted = answer(vlm, ASKED, adapters=ASKED_FROM, max_new_tokens=6)
    with adapted(vlm.model, stack(ASKED_FROM)):
        found = answer(vlm, ASKED, max_new_tokens=6)
        again = answer(vlm, ASKED, max_new_tokens=6)
    ids = [one.new_ids for one in wanted]
    assert [one.new_ids for one in found] == [one.new_ids for one in again] == ids
