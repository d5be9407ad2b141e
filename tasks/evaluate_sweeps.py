"""What is varied beside the modes: segments composed, ranks kept, frames and resolution.

Every video of a measurement is watched once for each way that it is looked at; the ways are asked
the same questions, so their figures differ by the way alone.
"""

import functools
from collections.abc import Callable, Iterable, Sequence

from configs.evaluate_schema import CompositionConfig, EvaluateConfig, RanksConfig, SweepConfig
from configs.schema import ModelConfig
from tasks.evaluate_ask import Ask, Asking, scores_of
from tasks.evaluate_corpus import EvaluatedVideo, Watched, watch, watchable
from tasks.evaluate_figures import Figure, Score, mean_figure
from tasks.models import LoadedModel
from video2lora_core.adapter import Adapter
from video2lora_core.compose import concat, svd
from video2lora_core.rank_slices import CHOICES, Choice, choose_slices
from video2lora_core.segments import Segment

SHOWN_METRIC = "token_f1"
ALL_RANKS = "all ranks"


def measure_composition(
    videos: Sequence[EvaluatedVideo],
    model: LoadedModel,
    config: ModelConfig,
    settings: EvaluateConfig,
) -> list[Figure]:
    """Measure accuracy against the number of segments, over types that every number is asked."""
    how = settings.composition or CompositionConfig()
    asking = Asking(model=model, max_new_tokens=settings.max_new_tokens)
    ways: dict[str, Ask] = {
        "sum": asking.from_adapters(),
        "route-compose": asking.routed,
        f"sum, svd to rank {how.svd_rank}": asking.from_adapters(
            lambda adapters: svd(concat(adapters), rank=how.svd_rank)[0]
        ),
        "in-context": asking.in_context,
    }
    chosen = {
        count: [video for video in videos if video.num_segments == count][: how.num_videos]
        for count in how.num_segments
    }
    common = _common_types([listed for listed in chosen.values() if listed])
    figures = []
    for count, listed in chosen.items():
        kept = [_only(video, common) for video in listed]
        scores = _scored(kept, ways, functools.partial(watch, model=model, config=config))
        figures += _means("composition", scores, settings, num_segments=count)
    return figures


def measure_ranks(
    videos: Sequence[EvaluatedVideo],
    model: LoadedModel,
    config: ModelConfig,
    settings: EvaluateConfig,
) -> list[Figure]:
    """Measure accuracy with some slices of every segment's rank kept or taken away."""
    how = settings.ranks or RanksConfig()
    asking = Asking(model=model, max_new_tokens=settings.max_new_tokens)
    rank = model.hypernetwork.config.rank
    counts = [count for count in how.num_ranks if count < rank]
    see = functools.partial(watch, model=model, config=config)
    watched = list(watchable(_shortest(videos)[: how.num_videos], see))

    def figures_of(name: str, count: int, ask: Ask) -> list[Figure]:
        scores = {name: [score for one in watched for score in scores_of(one, ask)]}
        return _means("ranks", scores, settings, rank=count)

    figures = figures_of(ALL_RANKS, rank, asking.from_adapters())
    for choice in CHOICES:
        for count in counts:
            compose = functools.partial(_sliced, choice=choice, count=count, seed=how.seed)
            figures += figures_of(choice, count, asking.from_adapters(compose))
    return figures


def measure_sweep(
    videos: Sequence[EvaluatedVideo],
    model: LoadedModel,
    config: ModelConfig,
    settings: EvaluateConfig,
) -> list[Figure]:
    """Measure accuracy, as adapter and in context, in every cell of frames x resolution."""
    how = settings.sweep or SweepConfig()
    asking = Asking(model=model, max_new_tokens=settings.max_new_tokens)
    ways: dict[str, Ask] = {"adapter": asking.routed, "in-context": asking.in_context}
    figures = []
    for num_frames in how.num_frames:
        for edge_px in how.longest_edge_px:
            cell = _cell(config, num_frames=num_frames, edge_px=edge_px)
            see = functools.partial(_watch_cell, model=model, config=cell, how=how)
            scores = _scored(videos[: how.num_videos], ways, see)
            figures += _means("sweep", scores, settings, num_frames=num_frames, size_px=edge_px)
    return figures


def _cell(config: ModelConfig, *, num_frames: int, edge_px: int) -> ModelConfig:
    pixels = config.pixels.model_copy(update={"longest_edge_px": edge_px})
    segments = config.segments.model_copy(update={"num_frames": num_frames})
    return config.model_copy(update={"pixels": pixels, "segments": segments})


def _watch_cell(
    video: EvaluatedVideo, *, model: LoadedModel, config: ModelConfig, how: SweepConfig
) -> Watched:
    whole = (Segment(start_us=0, end_us=video.duration_us),) if how.is_single_pass else None
    return watch(video, model, config, segments=whole)


def _scored(
    videos: Iterable[EvaluatedVideo],
    ways: dict[str, Ask],
    see: Callable[[EvaluatedVideo], Watched],
) -> dict[str, list[Score]]:
    """Ask every video in every way; one video's frames are held at a time."""
    scores: dict[str, list[Score]] = {name: [] for name in ways}
    for watched in watchable(videos, see):
        for name, ask in ways.items():
            scores[name] += scores_of(watched, ask)
    return scores


def _means(
    part: str, scores: dict[str, list[Score]], settings: EvaluateConfig, **columns: int
) -> list[Figure]:
    found = [
        mean_figure(
            listed,
            part=part,
            condition=name,
            metric=metric,
            resamples=settings.num_resamples,
            **columns,
        )
        for name, listed in scores.items()
        for metric in (SHOWN_METRIC, "exact_match")
    ]
    return [figure for figure in found if figure is not None]


def _sliced(adapters: Sequence[Adapter], *, choice: Choice, count: int, seed: int) -> Adapter:
    return concat(
        [
            choose_slices(adapter, choice, count=count, seed=seed + place)
            for place, adapter in enumerate(adapters)
        ]
    )


def _shortest(videos: Sequence[EvaluatedVideo]) -> list[EvaluatedVideo]:
    return sorted(videos, key=lambda video: video.num_segments)


def _common_types(groups: Sequence[Sequence[EvaluatedVideo]]) -> set[str | None]:
    types = [{q.question_type for video in group for q in video.questions} for group in groups]
    return set.intersection(*types) if types else set()


def _only(video: EvaluatedVideo, types: set[str | None]) -> EvaluatedVideo:
    kept = tuple(q for q in video.questions if q.question_type in types)
    return EvaluatedVideo(
        video_id=video.video_id,
        source=video.source,
        duration_us=video.duration_us,
        num_segments=video.num_segments,
        questions=kept,
    )
