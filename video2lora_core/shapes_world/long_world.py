"""Long videos of the shapes world: more scenes than there are things to tell apart.

A video of 31 scenes cannot give every scene a pair of shape and colour of its own. Some pairs come
once, and only those are asked about; the others come again and again and are what an answer can be
confused by; a few never come, for questions whose right answer is "no". One thing a scene.
"""

import random
from collections import Counter

from video2lora_core.shapes_world.questions import Question
from video2lora_core.shapes_world.world import SEEN_PAIRS, World, draw_scene

NUM_UNIQUE, NUM_ABSENT = 12, 2


def sample_long_world(seed: int, *, num_scenes: int) -> World:
    """Draw the long video of a seed.

    `NUM_UNIQUE` pairs come in one scene each (fewer where there are fewer scenes), the scenes
    between them repeat the rest, and `NUM_ABSENT` pairs never come.
    """
    rng = random.Random(f"long/{seed}")
    pairs = rng.sample(SEEN_PAIRS, k=len(SEEN_PAIRS))
    unique, repeated = pairs[:NUM_UNIQUE], pairs[NUM_UNIQUE + NUM_ABSENT :]
    shown = [rng.choice(repeated) for _ in range(num_scenes)]
    places = rng.sample(range(num_scenes), k=min(NUM_UNIQUE, num_scenes))
    for place, pair in zip(places, unique, strict=False):
        shown[place] = pair
    return World(seed=seed, scenes=tuple(draw_scene(rng, [pair]) for pair in shown))


def ask_long(
    world: World, *, num_scenes: int, seed: int, num_things: int = 3, num_absent: int = 2
) -> list[Question]:
    """List questions about the first scenes of a long video, each with one right answer.

    Motion and existence of things that come once in the whole video and are in its first
    `num_scenes`, and the existence of pairs that never come.
    """
    rng = random.Random(f"{world.seed}/{num_scenes}/{seed}")
    things = [scene.things[0] for scene in world.scenes]
    count = Counter(thing.pair for thing in things)
    once = [place for place, thing in enumerate(things[:num_scenes]) if count[thing.pair] == 1]
    questions = []
    for place in sorted(rng.sample(once, k=min(num_things, len(once)))):
        name, motion = things[place].name, things[place].motion
        move, exist = f"How does the {name} move?", f"Is there a {name}?"
        questions.append(Question(kind="motion", text=move, answer=motion, scene=place))
        questions.append(Question(kind="exist", text=exist, answer="yes", scene=place))
    absent = [pair for pair in SEEN_PAIRS if pair not in count]
    for shape, colour in rng.sample(absent, k=min(num_absent, len(absent))):
        text = f"Is there a {colour} {shape}?"
        questions.append(Question(kind="exist", text=text, answer="no", scene=None))
    return questions
