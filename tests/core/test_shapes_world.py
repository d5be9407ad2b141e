"""The shapes world: what is drawn by a seed, where things are, how they look."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from video2lora_core.shapes_world import World, sample_world
from video2lora_core.shapes_world.long_world import (
    NUM_ABSENT,
    NUM_UNIQUE,
    ask_long,
    sample_long_world,
)
from video2lora_core.shapes_world.render import RGB, draw, frame_fractions, is_visible, position
from video2lora_core.shapes_world.world import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_PAIRS,
    MOTIONS,
    SCENE_US,
    SEEN_PAIRS,
    SHAPES,
    Scene,
    Thing,
)

PX = 144  # three pixels per world unit
WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}

# What a video is drawn from: its seed, its number of scenes, the share of scenes with two things.
orders = st.tuples(st.integers(0, 2**60), st.integers(1, 8), st.sampled_from([0.0, 0.5, 1.0]))
Order = tuple[int, int, float]


def world_of(order: Order) -> World:
    return sample_world(order[0], num_scenes=order[1], two_things=order[2])


def resting(shape: str, colour: str = "red", **changed: object) -> Thing:
    """A thing in the middle of the picture, there from the start."""
    thing = Thing(
        shape=shape, colour=colour, motion="still", x=24.0, y=24.0, dx=0.0, dy=0.0, appears=0.0
    )
    return replace(thing, **changed)


def scene_of(*things: Thing, background: str = "black", brightness: float = 1.0) -> Scene:
    return Scene(background=background, things=things, brightness=brightness)


def picture(scene: Scene, fraction: float, px: int = PX) -> Tensor:
    """One drawn frame [channel, height, width]."""
    return draw([scene], [[fraction]], width_px=px, height_px=px)[0]


def covered(scene: Scene, thing: Thing, fraction: float) -> Tensor:
    """The pixels that show a thing's own colour, nothing mixed in, as [pixel, (x, y)] units."""
    rgb = torch.tensor(RGB[thing.colour]) * scene.brightness
    same = (picture(scene, fraction) - rgb.clamp_max(255)[:, None, None]).abs().amax(0) < 1.0
    return (same.nonzero().flip(1) + 0.5) * 48.0 / PX


@given(orders)
def test_a_video_names_each_pair_once_and_never_a_held_out_one(order: Order) -> None:
    pairs = [thing.pair for scene in world_of(order).scenes for thing in scene.things]
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) <= set(SEEN_PAIRS)
    assert not set(pairs) & set(HELD_OUT_PAIRS)


@given(orders)
def test_two_things_of_a_scene_differ_in_shape_and_colour_and_appear_in_order(order: Order) -> None:
    for scene in world_of(order).scenes:
        assert len(scene.things) in {1, 2}
        assert scene.things[0].appears == 0.0
        if len(scene.things) == 2:
            first, second = scene.things
            assert first.shape != second.shape
            assert first.colour != second.colour
            assert first.appears < second.appears < 1.0


@given(st.integers(0, 2**60), st.integers(1, 8))
def test_a_seed_decides_the_video(seed: int, num_scenes: int) -> None:
    world = sample_world(seed, num_scenes=num_scenes)
    assert world == sample_world(seed, num_scenes=num_scenes)
    assert world != sample_world(seed + 1, num_scenes=num_scenes)
    assert len(world.scenes) == num_scenes
    assert world.duration_us == num_scenes * SCENE_US


def test_seen_and_held_out_pairs_are_all_pairs_and_each_shape_misses_one_colour() -> None:
    every = {(shape, colour) for shape in SHAPES for colour in COLOURS}
    assert set(SEEN_PAIRS) | set(HELD_OUT_PAIRS) == every
    assert not set(SEEN_PAIRS) & set(HELD_OUT_PAIRS)
    assert sorted(shape for shape, _ in HELD_OUT_PAIRS) == sorted(SHAPES)


@given(st.integers(0, 2**60))
def test_held_out_pairs_can_be_asked_for(seed: int) -> None:
    world = sample_world(seed, num_scenes=2, pairs=HELD_OUT_PAIRS)
    assert {thing.pair for s in world.scenes for thing in s.things} <= set(HELD_OUT_PAIRS)


def test_a_video_of_more_things_than_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sample_world: 5 things need .* \(found 4\); ask for"):
        sample_world(0, num_scenes=5, two_things=0.0, pairs=HELD_OUT_PAIRS)


def test_motions_colours_shapes_and_backgrounds_are_equally_likely() -> None:
    scenes = [scene for seed in range(500) for scene in sample_world(seed, num_scenes=4).scenes]
    things = [thing for scene in scenes for thing in scene.things]
    held_out_once = {"red", "green", "blue", "yellow"}  # three shapes left, the others have four
    assert chi_square([thing.motion for thing in things], dict.fromkeys(MOTIONS, 1.0)) < 40
    assert chi_square([thing.shape for thing in things], dict.fromkeys(SHAPES, 1.0)) < 30
    colours = {name: 3.0 if name in held_out_once else 4.0 for name in COLOURS}
    assert chi_square([thing.colour for thing in things], colours) < 40
    backgrounds = [scene.background for scene in scenes]
    assert chi_square(backgrounds, dict.fromkeys(BACKGROUNDS, 1.0)) < 30
    assert 0.46 < sum(len(scene.things) - 1 for scene in scenes) / len(scenes) < 0.54


def chi_square(found: list[str], shares: dict[str, float]) -> float:
    counts, total = Counter(found), sum(shares.values())
    assert set(counts) == set(shares)
    expected = {name: len(found) * share / total for name, share in shares.items()}
    return sum((counts[name] - e) ** 2 / e for name, e in expected.items())


@given(orders)
def test_a_moving_thing_goes_its_way_over_half_of_the_picture_and_the_others_rest(
    order: Order,
) -> None:
    for thing in (thing for scene in world_of(order).scenes for thing in scene.things):
        (x0, y0), (x1, y1) = position(thing, thing.appears), position(thing, 1.0)
        way = WAYS.get(thing.motion, (0, 0))
        assert (x0, y0) == (thing.x, thing.y)
        assert ((x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)) == way
        if thing.motion in WAYS:
            assert abs(x1 - x0) + abs(y1 - y0) >= 24.0
        assert all(3.0 <= place <= 45.0 for place in (x0, y0, x1, y1))


@given(orders, st.floats(0.0, 0.999))
def test_a_thing_is_drawn_where_its_position_says(order: Order, fraction: float) -> None:
    scene = world_of(order).scenes[0]
    for thing in scene.things:
        found, (x, y) = covered(scene, thing, fraction), position(thing, fraction)
        if not is_visible(thing, fraction):
            assert len(found) == 0
        elif all(11.5 < place < 36.5 for place in (x, y)):  # wholly inside the picture
            assert found.mean(0).tolist() == pytest.approx([x, y], abs=0.34)


@given(st.integers(0, 2**60), st.sampled_from(frame_fractions(8)))
def test_two_things_never_cover_each_other(seed: int, fraction: float) -> None:
    scene = sample_world(seed, num_scenes=1, two_things=1.0).scenes[0]
    first, second = (
        _mask(replace(scene, things=(replace(thing, motion="still", appears=0.0),)), thing)
        for thing in _placed(scene, fraction)
    )
    assert not (first & second).any()


def _placed(scene: Scene, fraction: float) -> list[Thing]:
    """The scene's things at rest where they are at this fraction."""
    places = [position(thing, fraction) for thing in scene.things]
    return [
        replace(thing, x=x, y=y, dx=0.0, dy=0.0)
        for thing, (x, y) in zip(scene.things, places, strict=True)
    ]


def _mask(scene: Scene, thing: Thing) -> Tensor:
    """Where a thing alone changes more than half of a pixel."""
    alone = replace(scene, things=(replace(thing, motion="still", appears=0.0),), brightness=1.0)
    colour, ground = (torch.tensor(RGB[name]).float() for name in (thing.colour, scene.background))
    change = (picture(alone, 0.0).float() - ground[:, None, None]).abs().sum(0)
    return change > 0.5 * (colour - ground).abs().sum()


def test_every_shape_has_a_silhouette_of_its_own() -> None:
    masks = {shape: _mask(scene_of(resting(shape)), resting(shape)) for shape in SHAPES}
    for one in SHAPES:
        for other in SHAPES:
            union, common = masks[one] | masks[other], masks[one] & masks[other]
            overlap = common.sum() / union.sum()
            assert overlap == 1.0 if one == other else overlap < 0.65
    assert torch.equal(masks["bar"], masks["pole"].T)


def test_a_ball_has_the_area_of_its_circle() -> None:
    area = _mask(scene_of(resting("ball")), resting("ball")).sum() / 9
    assert area == pytest.approx(torch.pi * 7.5**2, rel=0.01)


def test_a_blinking_thing_is_seen_in_every_other_frame_of_eight() -> None:
    scene = scene_of(resting("cross", motion="blinking"))
    frames = draw([scene], [frame_fractions(8)], width_px=48, height_px=48)
    empty = torch.tensor(RGB["black"], dtype=torch.uint8)[:, None, None].expand(3, 48, 48)
    assert [not torch.equal(frame, empty) for frame in frames] == [True, False] * 4


def test_a_late_thing_is_not_seen_before_it_appears() -> None:
    thing = resting("bar", appears=0.5)
    assert not is_visible(thing, 0.49)
    assert is_visible(thing, 0.5)


@given(orders)
def test_a_picture_drawn_twice_as_large_averages_to_the_small_one(order: Order) -> None:
    world = world_of(order)
    fractions = [frame_fractions(2)] * len(world.scenes)
    small = draw(world.scenes, fractions, width_px=48, height_px=48).float()
    large = draw(world.scenes, fractions, width_px=96, height_px=96).float()
    difference = (torch.nn.functional.avg_pool2d(large, 2) - small).abs()
    assert difference.mean() < 0.25
    assert difference.max() < 64  # a quarter of a pixel, at the inner corners of a cross


def test_the_square_world_is_stretched_to_the_picture() -> None:
    scene = scene_of(resting("ball", x=12.0))
    wide = draw([scene], [[0.0]], width_px=192, height_px=96)[0, 0]
    rows, columns = (wide > 128).nonzero().float().T + 0.5
    assert columns.mean().item() == pytest.approx(12.0 * 4, abs=0.5)
    assert rows.mean().item() == pytest.approx(24.0 * 2, abs=0.5)
    assert (columns.max() - columns.min()) / (rows.max() - rows.min()) == pytest.approx(2, rel=0.1)


def test_scenes_are_drawn_one_after_the_other_with_their_brightness() -> None:
    dark, light = (scene_of(resting("ball"), brightness=value) for value in (0.92, 1.08))
    frames = draw([dark, light], [[0.1, 0.2], [0.3]], width_px=48, height_px=48)
    assert frames.shape == (3, 3, 48, 48)
    middle = frames[:, :, 24, 24].tolist()
    assert middle == [[207, 41, 41], [207, 41, 41], [243, 49, 49]]


@pytest.mark.parametrize("num_scenes", [1, 8, 31])
def test_a_long_world_is_asked_only_about_what_comes_once_or_never(num_scenes: int) -> None:
    for seed in range(20):
        world = sample_long_world(seed, num_scenes=31)
        assert world == sample_long_world(seed, num_scenes=31)
        count = Counter(scene.things[0].name for scene in world.scenes)
        for question in ask_long(world, num_scenes=num_scenes, seed=0):
            named = [name for name in count if f" {name}" in question.text]
            if question.scene is None:
                assert (named, question.answer) == ([], "no")
            else:
                (name,) = named
                assert count[name] == 1
                assert question.scene < num_scenes
                thing = world.scenes[question.scene].things[0]
                assert thing.name == name
                assert question.answer in ("yes", thing.motion)


def test_a_long_world_repeats_what_it_does_not_ask_about() -> None:
    world = sample_long_world(3, num_scenes=31)
    count = Counter(scene.things[0].pair for scene in world.scenes)
    assert sorted(count.values())[:NUM_UNIQUE] == [1] * NUM_UNIQUE
    assert max(count.values()) > 1
    assert len(set(SEEN_PAIRS) - set(count)) >= NUM_ABSENT
