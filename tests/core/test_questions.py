"""Questions about shapes-world videos: each is read again by rule and answered from the world."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from video2lora_core.shapes_world import Question, World, ask_all, caption, sample_world
from video2lora_core.shapes_world.questions import MANY_SCENES_TYPES, SINGLE_SCENE_TYPES
from video2lora_core.shapes_world.world import HELD_OUT_PAIRS, Scene, Thing

MOTION = {"stays still": "still", "blinks": "blinking"}


@pytest.fixture(scope="module")
def asked() -> list[tuple[World, Question]]:
    """Every question about a thousand videos of one to four scenes."""
    worlds = [sample_world(seed, num_scenes=1 + seed % 4) for seed in range(1000)]
    return [(world, question) for world in worlds for question in ask_all(world, seed=1)]


def things(world: World) -> list[Thing]:
    return [thing for scene in world.scenes for thing in scene.things]


def meant(world: World, words: str) -> list[Thing]:
    """What `red ball`, `ball`, `red object` could mean in this video."""
    named = set(words.split()) - {"object"}
    return [thing for thing in things(world) if named <= {thing.colour, thing.shape}]


def read_motion(verb: str) -> str:
    return MOTION.get(verb) or verb.removeprefix("moves ")


def answer_by_rule(world: World, text: str) -> str:
    """Answer a question from its words alone; fail where they do not name one thing."""
    if found := re.fullmatch(r"What colour is the (ball|bar|pole|cross)\?", text):
        (thing,) = meant(world, found[1])
        return thing.colour
    if found := re.fullmatch(r"What shape is the (\w+ object)\?", text):
        (thing,) = meant(world, found[1])
        return thing.shape
    if found := re.fullmatch(r"How does the (.+) move\?", text):
        (thing,) = meant(world, found[1])
        return thing.motion
    if found := re.fullmatch(r"Is there a (\w+ \w+)\?", text):
        return "yes" if meant(world, found[1]) else "no"
    return answer_about_scene(world, text)


def answer_about_scene(world: World, text: str) -> str:
    (scene,) = world.scenes
    by_time = sorted(scene.things, key=lambda thing: thing.appears)
    return {
        "How many objects are there?": {1: "one", 2: "two"}[len(scene.things)],
        "What colour is the background?": scene.background,
        "Which object appears first?": f"{by_time[0].colour} {by_time[0].shape}",
        "Which object appears last?": f"{by_time[-1].colour} {by_time[-1].shape}",
        "Describe the video.": caption(scene),
    }[text]


def test_every_answer_is_the_one_that_the_video_gives(asked: list[tuple[World, Question]]) -> None:
    for world, question in asked:
        assert question.answer == answer_by_rule(world, question.text), question


def test_a_question_knows_the_scene_of_the_thing_it_names(
    asked: list[tuple[World, Question]],
) -> None:
    for world, question in asked:
        named = re.search(r"(?:is|does|Is there) (?:the|a) (.+?)(?: move)?\?$", question.text)
        if question.scene is None:
            assert question.answer == "no"
        elif question.kind in MANY_SCENES_TYPES and named is not None:
            scene = World(seed=0, scenes=(world.scenes[question.scene],))
            assert meant(scene, named[1]) == meant(world, named[1])


def test_one_scene_is_asked_everything_and_several_only_about_their_things(
    asked: list[tuple[World, Question]],
) -> None:
    kinds = {
        is_single: {q.kind for world, q in asked if (len(world.scenes) == 1) == is_single}
        for is_single in (True, False)
    }
    assert kinds == {True: set(SINGLE_SCENE_TYPES), False: set(MANY_SCENES_TYPES)}


def test_a_caption_says_all_that_a_scene_holds_in_order(
    asked: list[tuple[World, Question]],
) -> None:
    for scene in (scene for world, _ in asked[:500] for scene in world.scenes):
        assert read_caption(caption(scene)) == (
            [(t.colour, t.shape, t.motion) for t in scene.things],
            scene.background,
        )


def read_caption(text: str) -> tuple[list[tuple[str, str, str]], str]:
    body, background = re.fullmatch(r"(.+) on a (\w+) background", text).groups()  # type: ignore[union-attr]
    clauses = [clause.split(" ", 3) for clause in body.split(" and ")]
    assert all(clause[0] == "a" for clause in clauses)
    return [(colour, shape, read_motion(verb)) for _, colour, shape, verb in clauses], background


def test_a_video_is_asked_for_one_pair_it_has_and_one_it_has_not(
    asked: list[tuple[World, Question]],
) -> None:
    by_world = Counter(
        (world.seed, question.answer) for world, question in asked if question.kind == "exist"
    )
    assert by_world == {(seed, says): 1 for seed in range(1000) for says in ("yes", "no")}


def test_the_words_of_an_existence_question_do_not_betray_its_answer(
    asked: list[tuple[World, Question]],
) -> None:
    exist = [question for _, question in asked if question.kind == "exist"]
    total = Counter(question.text for question in exist)
    yes = Counter(question.text for question in exist if question.answer == "yes")
    assert len(total) == 20
    assert all(0.33 < yes[text] / total[text] < 0.67 for text in total)


def test_half_of_the_noes_ask_for_a_shape_and_a_colour_that_are_both_there() -> None:
    worlds = [sample_world(seed, num_scenes=1, two_things=1.0) for seed in range(400)]
    noes = [q for w in worlds for q in ask_all(w, seed=0) if q.answer == "no"]
    hard = 0
    for world, question in zip(worlds, noes, strict=True):
        colour, shape = question.text.removesuffix("?").split()[-2:]
        hard += bool(meant(world, colour) and meant(world, shape))
    assert 0.4 < hard / len(noes) < 0.65


def test_held_out_pairs_are_never_named(asked: list[tuple[World, Question]]) -> None:
    names = [f"{colour} {shape}" for shape, colour in HELD_OUT_PAIRS]
    told = {text for _, question in asked for text in (question.text, question.answer)}
    assert not [text for text in told for name in names if name in text]


@given(st.integers(0, 2**60))
def test_held_out_videos_are_asked_about_held_out_pairs_only(seed: int) -> None:
    world = sample_world(seed, num_scenes=1, pairs=HELD_OUT_PAIRS)
    names = {f"Is there a {colour} {shape}?" for shape, colour in HELD_OUT_PAIRS}
    questions = ask_all(world, seed=0, pairs=HELD_OUT_PAIRS)
    assert {q.text for q in questions if q.kind == "exist"} <= names
    assert all(q.answer == answer_by_rule(world, q.text) for q in questions)


def test_the_seed_of_the_asking_decides_which_thing_is_meant() -> None:
    world = sample_world(1, num_scenes=4, two_things=1.0)
    assert ask_all(world, seed=5) == ask_all(world, seed=5)
    assert len({tuple(q.text for q in ask_all(world, seed=seed)) for seed in range(5)}) == 5


def test_a_motion_is_asked_of_every_thing_by_each_name_that_fits() -> None:
    ball = Thing(shape="ball", colour="red", motion="up", x=0.0, y=0.0, dx=0.0, dy=0.0, appears=0.0)
    world = World(seed=0, scenes=(Scene(background="navy", things=(ball,), brightness=1.0),))
    texts = {q.text for seed in range(30) for q in ask_all(world, seed=seed) if q.kind == "motion"}
    assert texts == {f"How does the {name} move?" for name in ("red ball", "ball", "red object")}
