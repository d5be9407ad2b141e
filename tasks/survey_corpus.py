"""Where a run's sources come from, laid against the catalog: a corpus, its rejects, or all videos.

`catalog:rejects` and `catalog:videos` stand where a corpus is named: a run that tries rejects again
and one that follows to a new recipe are runs like any other, in every engine.
"""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from configs.schema import CATALOG, REJECTS, InternalizeConfig
from storage.lake import Lake, open_lake
from storage.manifest import Source, list_sources, look_at
from storage.plans import PlannedSource, Retry
from storage.schemas import TABLES
from storage.survey import Survey, SurveyedSource, SurveyRule
from tasks.recipe import Recipe


def list_corpus(config: InternalizeConfig) -> Iterable[Source]:
    """Start to list the corpus; what comes from the catalog is listed by the survey.

    Raises:
        ManifestError: the corpus is missing or lists no video.
        LakeError: the catalog is asked for and there is no lake.
    """
    if is_of_catalog(config):
        open_lake(config.lake)
        return ()
    return list_sources(config.corpus)


def is_of_catalog(config: InternalizeConfig) -> bool:
    """Say whether the sources come from the lake's own catalog."""
    return config.corpus in (REJECTS, CATALOG)


def retry_of(config: InternalizeConfig) -> Retry | None:
    """Return what a run tries again; None for an ordinary run."""
    if config.corpus != REJECTS:
        return None
    return Retry(reasons=tuple(sorted({str(reason) for reason in config.retry_reasons})))


@contextmanager
def survey_corpus(
    sources: Iterable[Source], config: InternalizeConfig, recipe: Recipe, lake: Lake | None
) -> Iterator[Survey]:
    """Survey what `list_corpus` gave; without a lake everything is still to do."""
    rule = SurveyRule(
        recipe_id=recipe.recipe_id,
        segment_us=recipe.model.segments.segment_us,
        min_tail_us=recipe.model.segments.min_tail_us,
        retry=retry_of(config),
    )
    with _open(lake, rule) as survey:
        if config.corpus == REJECTS:
            survey.take(survey.rejected(rule.retry.reasons if rule.retry else ()))
        elif config.corpus == CATALOG:
            with _open(lake, rule) as first:
                first.take(first.catalog_sources())
                survey.take(itertools.chain(first.settled(), _one_per_video(first)))
        else:
            survey.take(sources)
        yield survey


def planned_sources(survey: Survey, config: InternalizeConfig) -> Iterator[PlannedSource]:
    """Stream what is to do, sorted for a plan, with the share of a shard that each source fills."""
    for surveyed in survey.todo():
        yield PlannedSource(source=surveyed.source, cost=shard_share(surveyed.source, config))


def shard_share(source: Source, config: InternalizeConfig) -> float:
    """Return how much of a shard a source fills.

    Only what the listing says counts, never what the catalog has learnt since: an attempt that
    comes later must cut the same shards.
    """
    return max(
        (source.size_bytes or 0) / config.shard_bytes,
        (source.duration_us or 0) / (config.shard_hours * 3.6e9),
        1 / config.shard_videos,
    )


def _open(lake: Lake | None, rule: SurveyRule) -> Survey:
    return lake.survey(rule) if lake else Survey(dict.fromkeys(TABLES, ()), rule=rule)


def _one_per_video(survey: Survey) -> Iterator[Source]:
    """Of the files that hold one video take one that is unchanged, or else any: it is rejected."""
    found, asked = itertools.tee(survey.todo(order="video_id"))
    now = look_at(item.source for item in asked)
    for _, group in itertools.groupby(zip(found, now, strict=True), key=_video_of):
        seen = list(group)
        yield next((now for item, now in seen if now == item.source), seen[0][1])


def _video_of(pair: tuple[SurveyedSource, Source]) -> str:
    return pair[0].video_id or pair[0].source.uri
