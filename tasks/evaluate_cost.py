"""What an answer costs: time to first token, prompt tokens, and what preparing a video adds.

The ways are timed in turns in one warm process and medians are reported, so that they compare; the
seconds themselves hold for the machine that they were measured on. A video of more frames is cut
into more segments, as the product does, so its adapter has more ranks.
"""

import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean, median
from typing import Any

from configs.evaluate_schema import CostConfig, EvaluateConfig
from configs.schema import ModelConfig
from tasks.evaluate_corpus import EvaluatedVideo, Watched, watch, watchable
from tasks.evaluate_figures import Figure
from tasks.models import LoadedModel
from video2lora_core.adapter import Adapter, adapter_bytes, adapter_from_bytes
from video2lora_core.answer import Answer, answer, answer_in_context
from video2lora_core.answer_prefix import answer_from_prefix, read_video
from video2lora_core.compose import concat, with_bias
from video2lora_core.errors import PromptError
from video2lora_core.segments import Segment

PART = "cost"
ADAPTER, IN_CONTEXT, KV_CACHE = "adapter", "in-context", "in-context-kv-cache"
FIRST_TOKEN, PROMPT_TOKENS, ANSWER = "time_to_first_token_s", "num_prompt_tokens", "answer_s"
FASTER, PER_QUESTION, BREAK_EVEN = "times_faster", "seconds_per_question", "break_even_questions"
_NUM_WATCHED = 3
"""Times that a video is decoded and internalized, after one that warms up."""

# What each way does once per video, before its first question.
PREPARED = {
    ADAPTER: ("decode_s", "internalize_s", "load_s", "compose_s"),
    IN_CONTEXT: ("decode_s",),
    KV_CACHE: ("decode_s", "read_video_s"),
}

Times = dict[tuple[str, str], list[float]]
"""Measured values by way and by what was measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What is timed, and how often."""

    model: LoadedModel
    max_new_tokens: int
    how: CostConfig


def measure_cost(
    videos: Sequence[EvaluatedVideo],
    model: LoadedModel,
    config: ModelConfig,
    settings: EvaluateConfig,
) -> list[Figure]:
    """Time every way at every number of frames, on the longest videos."""
    how = settings.cost or CostConfig()
    timing = Timing(model=model, max_new_tokens=settings.max_new_tokens, how=how)
    longest = sorted(videos, key=lambda video: -video.duration_us)[: how.num_videos]
    by_frames: dict[int, list[Figure]] = {}
    for num_frames in how.num_frames:
        times: Times = defaultdict(list)
        for watched in _watched(longest, timing, config, num_frames, times):
            _time_answers(watched, timing, times)
        shown = _num_shown(num_frames, config)
        by_frames[shown] = _medians(times, num_frames=shown, num_videos=len(longest))
    figures = [figure for listed in by_frames.values() for figure in listed]
    figures += _speedups(figures)
    base = config.segments.num_frames
    return figures + amortised(by_frames.get(base) or next(iter(by_frames.values())), how)


def amortised(figures: Sequence[Figure], how: CostConfig) -> list[Figure]:
    """Spread what each way does once per video over its questions."""
    once, each = {}, {}
    for way, parts in PREPARED.items():
        found = {f.metric: f for f in figures if f.condition == way}
        if ANSWER in found and all(part in found for part in parts):
            once[way] = sum(found[part].value for part in parts)
            each[way] = found[ANSWER]
    spread = [
        _alike(
            each[way],
            metric=PER_QUESTION,
            value=once[way] / count + each[way].value,
            detail={"questions_per_video": count},
        )
        for way in once
        for count in how.num_questions
    ]
    return spread + [
        _alike(
            each[ADAPTER],
            metric=BREAK_EVEN,
            value=max(0.0, (once[ADAPTER] - once[way]) / (each[way].value - each[ADAPTER].value)),
            baseline=way,
        )
        for way in once
        if ADAPTER in once and each[way].value > each[ADAPTER].value
    ]


def _watched(
    videos: Sequence[EvaluatedVideo],
    timing: Timing,
    config: ModelConfig,
    num_frames: int,
    times: Times,
) -> Iterator[Watched]:
    """Watch each video several times and note the seconds; the first time only warms up."""
    num_segments = max(1, num_frames // config.segments.num_frames)
    segments = config.segments.model_copy(update={"num_frames": num_frames // num_segments})
    cell = config.model_copy(update={"segments": segments})
    for video in videos:
        see = functools.partial(
            watch, model=timing.model, config=cell, segments=_equal_spans(video, num_segments)
        )
        found = list(watchable([video] * (1 + _NUM_WATCHED), see))
        for watched in found[1:]:
            for way in PREPARED:
                times[way, "decode_s"].append(watched.decode_s)
            times[ADAPTER, "internalize_s"].append(watched.internalize_s)
        yield from found[-1:]


def _time_answers(watched: Watched, timing: Timing, times: Times) -> None:
    """Ask a video's first question in every way, in turns; the first turn only warms up."""
    question = watched.video.questions[0].question
    stored = [adapter_bytes(adapter) for adapter in watched.adapters]
    ways: dict[str, Callable[[], dict[str, float]]] = {
        ADAPTER: functools.partial(_ask_adapter, timing, stored, question),
        IN_CONTEXT: functools.partial(_ask_in_context, timing, watched, question),
        KV_CACHE: functools.partial(_ask_kv_cache, timing, watched, question),
    }
    for turn in range(1 + timing.how.repeats):
        for way, ask in list(ways.items()):
            try:
                found = ask()
            except PromptError:  # too many frames for the model's positions
                ways.pop(way)
                continue
            for metric, value in found.items() if turn else ():
                times[way, metric].append(value)


def _ask_adapter(timing: Timing, stored: Sequence[bytes], question: str) -> dict[str, float]:
    adapters, load_s = _timed(lambda: [adapter_from_bytes(data) for data in stored])
    ready, compose_s = _timed(lambda: _ready(timing.model, adapters))
    vlm, most = timing.model.vlm, timing.max_new_tokens
    said, answer_s = _timed(lambda: answer(vlm, [question], adapters=ready, max_new_tokens=most))
    return {"load_s": load_s, "compose_s": compose_s, **_facts(said[0], answer_s)}


def _ask_in_context(timing: Timing, watched: Watched, question: str) -> dict[str, float]:
    everything = range(len(watched.frames))
    said, answer_s = _timed(
        lambda: answer_in_context(
            timing.model.vlm,
            watched.pixels(everything),
            watched.times_us(everything),
            [question],
            duration_us=watched.video.duration_us,
            max_new_tokens=timing.max_new_tokens,
        )
    )
    return _facts(said[0], answer_s)


def _ask_kv_cache(timing: Timing, watched: Watched, question: str) -> dict[str, float]:
    everything = range(len(watched.frames))
    vlm, most = timing.model.vlm, timing.max_new_tokens
    prefix, read_s = _timed(
        lambda: read_video(
            vlm,
            watched.pixels(everything),
            watched.times_us(everything),
            duration_us=watched.video.duration_us,
        )
    )
    said, answer_s = _timed(
        lambda: answer_from_prefix(vlm, prefix, [question], max_new_tokens=most)
    )
    return {
        "read_video_s": read_s,
        "prepared_bytes": float(prefix.size_bytes),
        **_facts(said[0], answer_s),
    }


def _ready(model: LoadedModel, adapters: Sequence[Adapter]) -> Adapter:
    return with_bias(concat([a.to(device=model.vlm.device) for a in adapters]), model.bias())


def _facts(said: Answer, answer_s: float) -> dict[str, float]:
    return {
        FIRST_TOKEN: said.time_to_first_token_s,
        PROMPT_TOKENS: float(said.num_prompt_tokens),
        ANSWER: answer_s,
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    made = work()
    return made, time.perf_counter() - started


def _equal_spans(video: EvaluatedVideo, count: int) -> tuple[Segment, ...]:
    ends = [video.duration_us * place // count for place in range(count + 1)]
    return tuple(Segment(start_us=a, end_us=b) for a, b in itertools.pairwise(ends))


def _num_shown(num_frames: int, config: ModelConfig) -> int:
    """Return the frames really shown: a whole number in each segment."""
    num_segments = max(1, num_frames // config.segments.num_frames)
    return num_segments * (num_frames // num_segments)


def _medians(times: Times, *, num_frames: int, num_videos: int) -> list[Figure]:
    return [
        Figure(
            part=PART,
            condition=way,
            metric=metric,
            value=median(values),
            num_questions=len(values),
            num_videos=num_videos,
            num_frames=num_frames,
        )
        for (way, metric), values in times.items()
    ]


def _speedups(figures: Sequence[Figure]) -> list[Figure]:
    """Return how many times sooner an adapter's first token comes, and the geometric mean."""
    first = {(f.condition, f.num_frames): f for f in figures if f.metric == FIRST_TOKEN}
    found = []
    for baseline in (IN_CONTEXT, KV_CACHE):
        pairs = [
            (figure, first[baseline, frames].value / figure.value)
            for (way, frames), figure in first.items()
            if way == ADAPTER and (baseline, frames) in first
        ]
        found += [_alike(f, metric=FASTER, value=v, baseline=baseline) for f, v in pairs]
        if pairs:
            mean = exp(fmean(log(value) for _, value in pairs))
            of_all = _alike(pairs[0][0], metric=FASTER, value=mean, baseline=baseline)
            found.append(_without_frames(of_all))
    return found


def _alike(figure: Figure, **changed: Any) -> Figure:
    kept = {
        "part": PART,
        "condition": figure.condition,
        "num_questions": figure.num_questions,
        "num_videos": figure.num_videos,
        "num_frames": figure.num_frames,
    }
    return Figure(**{**kept, **changed})


def _without_frames(figure: Figure) -> Figure:
    return _alike(
        figure,
        metric=figure.metric,
        value=figure.value,
        baseline=figure.baseline,
        num_frames=None,
        detail={"mean": "geometric"},
    )
