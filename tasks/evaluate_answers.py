"""The answers that the modes are compared by."""

from collections.abc import Callable, Sequence

from configs.evaluate_schema import EvaluateConfig
from configs.schema import ModelConfig
from storage.lake import Lake
from tasks.evaluate_ask import Asking
from tasks.evaluate_comparison import CONTROL, Said
from tasks.evaluate_corpus import EvaluatedVideo, Watched, decoded
from tasks.models import LoadedModel
from tasks.question_set import SetQuestion
from video2lora_core.adapter import adapter_from_bytes
from video2lora_core.answer import Answer, answer
from video2lora_core.answer_prefix import answer_from_prefix, read_video


def answers_in_modes(
    lake: Lake,
    videos: Sequence[EvaluatedVideo],
    model: LoadedModel,
    model_config: ModelConfig,
    config: EvaluateConfig,
    *,
    recipe_id: str,
) -> dict[str, list[Said]]:
    """Ask every question in every mode."""
    asking = Asking(model=model, max_new_tokens=config.max_new_tokens)
    ways = _ways(asking)
    said: dict[str, list[Said]] = {mode: [] for mode in config.modes}
    for video in videos:
        watched = _stored(lake, video, model_config, recipe_id)
        for mode, listed in said.items():
            listed += _said(watched, ways[mode])
    if config.has_control and len(videos) > 1:
        said[CONTROL] = control(lake, videos, asking, recipe_id=recipe_id)
    return said


def control(
    lake: Lake, videos: Sequence[EvaluatedVideo], asking: Asking, *, recipe_id: str
) -> list[Said]:
    """Ask every video's questions of the next video's adapters: what the questions give away."""
    said = []
    for place, video in enumerate(videos):
        other = videos[(place + 1) % len(videos)]
        adapters = _adapters(lake, other, recipe_id)
        swapped = Watched(video=video, frames=(), adapters=adapters, decode_s=0, internalize_s=0)
        everything = range(len(adapters))
        texts = [question.question for question in video.questions]
        given = asking.routed(swapped, everything, texts)
        said += _paired(video, video.questions, given)
    return said


Way = Callable[[Watched, Sequence[int], list[str]], list[Answer]]


def _ways(asking: Asking) -> dict[str, Way]:
    vlm, most = asking.model.vlm, asking.max_new_tokens

    def blind(_: Watched, __: Sequence[int], texts: list[str]) -> list[Answer]:
        return answer(vlm, texts, max_new_tokens=most)

    def from_cache(watched: Watched, places: Sequence[int], texts: list[str]) -> list[Answer]:
        pixels, times_us = watched.pixels(places), watched.times_us(places)
        prefix = read_video(vlm, pixels, times_us, duration_us=watched.video.duration_us)
        return answer_from_prefix(vlm, prefix, texts, max_new_tokens=most)

    return {
        "adapter": asking.routed,
        "in-context": asking.in_context,
        "in-context-kv-cache": from_cache,
        "blind": blind,
    }


def _said(watched: Watched, way: Way) -> list[Said]:
    groups: dict[tuple[int, ...], list[SetQuestion]] = {}
    for question in watched.video.questions:
        groups.setdefault(watched.positions(question), []).append(question)
    said = []
    for places, questions in groups.items():
        given = way(watched, places, [question.question for question in questions])
        said += _paired(watched.video, questions, given)
    return said


def _paired(
    video: EvaluatedVideo, questions: Sequence[SetQuestion], given: Sequence[Answer]
) -> list[Said]:
    return [
        Said(
            question_id=question.question_id,
            video_id=video.video_id,
            question=question.question,
            references=question.references,
            question_type=question.question_type,
            text=one.text,
            num_prompt_tokens=one.num_prompt_tokens,
            num_visual_tokens=one.num_visual_tokens,
        )
        for question, one in zip(questions, given, strict=False)
    ]


def _stored(
    lake: Lake, video: EvaluatedVideo, model_config: ModelConfig, recipe_id: str
) -> Watched:
    frames, decode_s = decoded(video, model_config)
    adapters = _adapters(lake, video, recipe_id)
    return Watched(
        video=video, frames=frames, adapters=adapters, decode_s=decode_s, internalize_s=0.0
    )


def _adapters(lake: Lake, video: EvaluatedVideo, recipe_id: str):  # type: ignore[no-untyped-def]
    rows = lake.adapters_for(video.video_id, recipe_id)
    return tuple(adapter_from_bytes(lake.adapters.get(row["adapter_sha256"])) for row in rows)
