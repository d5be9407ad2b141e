"""A procedural video world with questions: the embedded default learns it, the demo shows it."""

from video2lora_core.shapes_world.questions import Question, ask_all, caption
from video2lora_core.shapes_world.world import SCENE_US, World, sample_world

__all__ = ["SCENE_US", "Question", "World", "ask_all", "caption", "sample_world"]
