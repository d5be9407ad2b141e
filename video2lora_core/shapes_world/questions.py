"""Questions about a shapes-world video, with their answers.

Two rules keep a question honest. It is asked only where its answer is unique in the whole video:
"What colour is the ball?" needs a single ball. And no answer can be guessed from the question:
existence is half yes and half no, half of the no's ask for a colour and a shape that are both
there, on different things. Pairs that training never shows are never asked about, or "no" would
betray them.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from video2lora_core.shapes_world.world import SEEN_PAIRS, Scene, Thing, World

SINGLE_SCENE_TYPES = (
    "count",
    "background",
    "colour",
    "shape",
    "motion",
    "order",
    "exist",
    "caption",
)
MANY_SCENES_TYPES = ("colour", "shape", "motion", "exist")
QUESTION_ANSWERING_TYPES = tuple(kind for kind in SINGLE_SCENE_TYPES if kind != "caption")

_MOTION_WORDS = {"still": "stays still", "blinking": "blinks"}
_NUMBER_WORDS = ("no", "one", "two")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question, its one right answer, and the scene of the thing it names (None: all scenes)."""

    kind: str
    text: str
    answer: str
    scene: int | None


def caption(scene: Scene) -> str:
    """Describe a scene in one sentence, things in the order of their appearance."""
    clauses = [
        f"a {thing.name} {_MOTION_WORDS.get(thing.motion, 'moves ' + thing.motion)}"
        for thing in scene.things
    ]
    return f"{' and '.join(clauses)} on a {scene.background} background"


def ask_all(
    world: World, *, seed: int, pairs: Sequence[tuple[str, str]] = SEEN_PAIRS
) -> list[Question]:
    """List the questions that this video can be asked, at most a few of each type.

    One scene gives all types of `SINGLE_SCENE_TYPES`; several scenes give `MANY_SCENES_TYPES`,
    whose questions name a thing. `seed` picks which thing is meant where there is a choice;
    existence comes as one yes and one no.
    """
    rng = random.Random(f"{world.seed}/{seed}")
    located = [(index, thing) for index, scene in enumerate(world.scenes) for thing in scene.things]
    questions = _about_things(rng, located) + _existence(rng, located, pairs)
    if len(world.scenes) == 1:
        questions += _about_scene(world.scenes[0])
    return questions


def _about_scene(scene: Scene) -> list[Question]:
    def question(kind: str, text: str, answer: str) -> Question:
        return Question(kind=kind, text=text, answer=answer, scene=0)

    questions = [
        question("count", "How many objects are there?", _NUMBER_WORDS[len(scene.things)]),
        question("background", "What colour is the background?", scene.background),
        question("caption", "Describe the video.", caption(scene)),
    ]
    if len(scene.things) == 2:
        first, last = scene.things
        questions.append(question("order", "Which object appears first?", first.name))
        questions.append(question("order", "Which object appears last?", last.name))
    return questions


def _about_things(rng: random.Random, located: Sequence[tuple[int, Thing]]) -> list[Question]:
    num_shape = Counter(thing.shape for _, thing in located)
    num_colour = Counter(thing.colour for _, thing in located)
    questions = []
    for scene, thing in rng.sample(list(located), k=len(located)):
        names = [thing.name]
        if num_shape[thing.shape] == 1:
            names.append(thing.shape)
            text = f"What colour is the {thing.shape}?"
            questions.append(Question(kind="colour", text=text, answer=thing.colour, scene=scene))
        if num_colour[thing.colour] == 1:
            names.append(f"{thing.colour} object")
            text = f"What shape is the {thing.colour} object?"
            questions.append(Question(kind="shape", text=text, answer=thing.shape, scene=scene))
        text = f"How does the {rng.choice(names)} move?"
        questions.append(Question(kind="motion", text=text, answer=thing.motion, scene=scene))
    return questions


def _existence(
    rng: random.Random, located: Sequence[tuple[int, Thing]], pairs: Sequence[tuple[str, str]]
) -> list[Question]:
    """Ask for one pair that is there and for one that is not."""
    scene, present = rng.choice(list(located))
    taken = {thing.pair for _, thing in located}
    absent = [pair for pair in pairs if pair not in taken]
    shapes = {thing.shape for _, thing in located}
    colours = {thing.colour for _, thing in located}
    hard = [pair for pair in absent if pair[0] in shapes and pair[1] in colours]
    shape, colour = rng.choice(hard if hard and rng.random() < 0.5 else absent)
    return [
        Question(kind="exist", text=f"Is there a {present.name}?", answer="yes", scene=scene),
        Question(kind="exist", text=f"Is there a {colour} {shape}?", answer="no", scene=None),
    ]
