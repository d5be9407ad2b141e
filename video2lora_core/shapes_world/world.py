"""The shapes world: short films of coloured shapes, drawn by rule, deterministic by seed.

A video is a row of scenes, one after the other, each `SCENE_US` long. A scene has a dark
background and one or two things; each thing has a shape, a colour, a motion and a moment when it
appears. Over a whole video no (shape, colour) pair comes twice, so a question that names a pair
means one thing only.

Choices, each of which a small model needs (found by training without them):
* shapes differ in their silhouette at the size of a vision patch; backgrounds are dark and colours
  bright;
* a moving thing travels at least half of the picture while it can be seen;
* two things keep to two lanes, so they never cover each other.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

SHAPES = ("ball", "bar", "pole", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "cyan")
BACKGROUNDS = ("black", "navy", "maroon", "olive")
MOTIONS = ("left", "right", "up", "down", "still", "blinking")

# One pair per shape is never shown in training: the "unseen attribute combinations" of the model
# card.
HELD_OUT_PAIRS = (("pole", "red"), ("cross", "green"), ("ball", "blue"), ("bar", "yellow"))
SEEN_PAIRS = tuple(
    (shape, colour)
    for shape in SHAPES
    for colour in COLOURS
    if (shape, colour) not in HELD_OUT_PAIRS
)

SCENE_US = 4_000_000
WORLD_SIZE = 48.0  # a scene is 48 x 48 world units; a thing is 15 to 22 of them across
# A blinking thing is shown for an eighth of the scene, then hidden for an eighth, and so on.
BLINKS_PER_SCENE = 4

_STEP = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_AXIS_MOTIONS = {"horizontal": ("left", "right"), "vertical": ("up", "down")}


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One coloured shape of a scene.

    `x, y` is its centre when it appears and `dx, dy` its whole travel, in world units; `appears`
    is the fraction of the scene, in [0, 1), at which it is first seen.
    """

    shape: str
    colour: str
    motion: str
    x: float
    y: float
    dx: float
    dy: float
    appears: float

    @property
    def pair(self) -> tuple[str, str]:
        """The (shape, colour) that names this thing within a video."""
        return self.shape, self.colour

    @property
    def name(self) -> str:
        """The words that name this thing, such as `red ball`."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A background and its things, as they appear; `brightness` multiplies every colour."""

    background: str
    things: tuple[Thing, ...]
    brightness: float


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A whole video as a description: its scenes one after the other, each `SCENE_US` long."""

    seed: int
    scenes: tuple[Scene, ...]

    @property
    def duration_us(self) -> int:
        """Length of the video in microseconds."""
        return len(self.scenes) * SCENE_US


def sample_world(
    seed: int,
    *,
    num_scenes: int,
    two_things: float = 0.5,
    pairs: Sequence[tuple[str, str]] = SEEN_PAIRS,
) -> World:
    """Draw the video of a seed.

    Args:
        seed: decides everything; the same seed and arguments give the same video.
        num_scenes: at least 1; every thing of the video has a (shape, colour) of its own, so
            `pairs` must suffice.
        two_things: the probability that a scene holds two things instead of one.
        pairs: the (shape, colour) pairs to draw from.

    Raises:
        ValueError: the video needs more pairs than there are.
    """
    rng = random.Random(seed)
    counts = [2 if rng.random() < two_things else 1 for _ in range(num_scenes)]
    if sum(counts) > len(pairs):
        raise ValueError(
            f"sample_world: {sum(counts)} things need as many (shape, colour) pairs (found "
            f"{len(pairs)}); ask for fewer scenes or a lower two_things"
        )
    groups = _draw_groups(rng, counts, pairs)
    return World(seed=seed, scenes=tuple(draw_scene(rng, group) for group in groups))


def _draw_groups(
    rng: random.Random, counts: Sequence[int], pairs: Sequence[tuple[str, str]]
) -> list[list[tuple[str, str]]]:
    """Deal distinct pairs to the scenes; two things of one scene differ in shape and in colour."""
    while True:  # a deal fails only when the last pairs left clash; a few tries always suffice
        deck = rng.sample(list(pairs), k=len(pairs))
        groups = [_deal(deck, count) for count in counts]
        if all(len(group) == count for group, count in zip(groups, counts, strict=True)):
            return groups


def _deal(deck: list[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    group = [deck.pop()]
    if count == 2:
        for index, (shape, colour) in enumerate(deck):
            if shape != group[0][0] and colour != group[0][1]:
                group.append(deck.pop(index))
                break
    return group


def draw_scene(rng: random.Random, group: Sequence[tuple[str, str]]) -> Scene:
    """Draw a scene that shows these (shape, colour) pairs, one or two."""
    axis = rng.choice(("horizontal", "vertical"))
    lanes = _lanes(rng, len(group))
    return Scene(
        background=rng.choice(BACKGROUNDS),
        things=tuple(
            _draw_thing(rng, pair, axis=axis, lane=lane, late=index > 0)
            for index, (pair, lane) in enumerate(zip(group, lanes, strict=True))
        ),
        brightness=rng.uniform(0.92, 1.08),
    )


def _lanes(rng: random.Random, num_things: int) -> list[float]:
    if num_things == 1:
        return [rng.uniform(14.0, 34.0)]
    lanes = [13.0 + rng.uniform(-1.0, 1.0), 35.0 + rng.uniform(-1.0, 1.0)]
    rng.shuffle(lanes)
    return lanes


def _draw_thing(
    rng: random.Random, pair: tuple[str, str], *, axis: str, lane: float, late: bool
) -> Thing:
    motion = _draw_motion(rng, axis)
    step_x, step_y = _STEP.get(motion, (0, 0))
    travel = rng.uniform(24.0, 30.0)
    moving = motion in _STEP
    along = 24.0 + (rng.uniform(-3.0, 3.0) if moving else rng.uniform(-10.0, 10.0))
    x, y = (along, lane) if axis == "horizontal" else (lane, along)
    return Thing(
        shape=pair[0],
        colour=pair[1],
        motion=motion,
        x=x - step_x * travel / 2,
        y=y - step_y * travel / 2,
        dx=step_x * travel,
        dy=step_y * travel,
        appears=rng.choice((0.375, 0.5)) if late else 0.0,
    )


def _draw_motion(rng: random.Random, axis: str) -> str:
    """Draw a motion along the scene's axis; over both axes the six motions are equally likely."""
    kind = rng.randrange(6)
    if kind < 4:
        return _AXIS_MOTIONS[axis][kind % 2]
    return ("still", "blinking")[kind - 4]
