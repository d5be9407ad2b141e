"""Learn the bounds of a checkpoint's norms on validation segments and write them into its JSON."""

import functools
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from configs.schema import ModelConfig
from storage.manifest import list_sources
from tasks.exam import decoded_segments
from tasks.models import LoadedModel, forget_model, load_model, pixel_spec
from tasks.progress import report
from tasks.source_file import SourceFile
from video2lora_core import quality
from video2lora_core.checkpoint import save_bounds
from video2lora_core.errors import UsageError, VideoError
from video2lora_core.frames import SegmentFrames, decode, probe
from video2lora_core.internalize import internalize
from video2lora_core.pixels import prepare
from video2lora_core.quality import QualityBounds
from video2lora_core.segments import tile
from video2lora_core.shapes_world import sample_world
from video2lora_core.shapes_world.world import HELD_OUT_PAIRS, SEEN_PAIRS

logger = logging.getLogger(__name__)

FIRST_SEED = 800_000_000_000_000  # training seeds stay below 2^46, the exam's begin at 9 * 10^14
MAX_SCENES = 4
SEGMENTS_PER_VIDEO = 8
"""At most: one long video must not speak for all."""

_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What was learned, and where it stands now."""

    checkpoint: Path
    """The directory whose JSON holds the bounds."""
    checkpoint_sha256: str
    """The same before and after."""
    bounds: QualityBounds
    num_left_out: int
    """Adapters that were not finite."""


def calibrate(
    config: ModelConfig, *, corpus: str | None = None, num_segments: int = 256
) -> Calibration:
    """Internalize validation segments, learn the bounds of their norms, and write these down.

    Args:
        config: the model whose checkpoint is calibrated.
        corpus: validation videos; a checkpoint of the shapes world renders its own without it.
        num_segments: how many segments; of a corpus all, where it has fewer.

    Raises:
        UsageError: a corpus is needed and not given, or it has too few segments.
        CheckpointError: the checkpoint's JSON cannot be written.
    """
    model = load_model(config)
    segments = corpus_segments(corpus, config) if corpus else _world_segments(model, config)
    figures, num_left_out = _measure(model, itertools.islice(segments, num_segments), config)
    bounds = quality.learn_bounds(figures)
    save_bounds(config.checkpoint, bounds)
    forget_model()
    logger.info("%s: bounds learned on %d segments", config.checkpoint, len(figures))
    return Calibration(
        checkpoint=config.checkpoint,
        checkpoint_sha256=model.checkpoint.sha256,
        bounds=bounds,
        num_left_out=num_left_out,
    )


def rendered_segments(config: ModelConfig, *, first_seed: int) -> Iterator[SegmentFrames]:
    """Render videos of one to four scenes, every shape in every colour, and decode them: no end."""
    for number in itertools.count():
        world = sample_world(
            first_seed + number,
            num_scenes=1 + number % MAX_SCENES,
            pairs=SEEN_PAIRS + HELD_OUT_PAIRS,
        )
        yield from decoded_segments(world, config, seed=number)


def corpus_segments(corpus: str, config: ModelConfig) -> Iterator[SegmentFrames]:
    """Decode up to `SEGMENTS_PER_VIDEO` segments of each video, spread over its length.

    What cannot be used is left out with a warning.
    """
    cut, spec = config.segments, pixel_spec(config)
    for source in list_sources(corpus):
        try:
            with SourceFile(source) as file:
                duration_us = probe(file.path()).duration_us
                planned = tile(duration_us, segment_us=cut.segment_us, min_tail_us=cut.min_tail_us)
                found = decode(
                    file.path(),
                    _spread(planned, SEGMENTS_PER_VIDEO),
                    num_frames=cut.num_frames,
                    prepare=functools.partial(prepare, spec=spec),
                )
                yield from (one for one in found if isinstance(one, SegmentFrames))
        except VideoError as error:
            logger.warning("%s: left out: %s", source.uri, error)


def _world_segments(model: LoadedModel, config: ModelConfig) -> Iterator[SegmentFrames]:
    if "training" not in model.checkpoint.info:
        raise UsageError(
            f"calibrate: model {config.name} was not trained on rendered videos, so none can stand "
            "for what it will see (found no corpus); give validation videos with --videos"
        )
    return rendered_segments(config, first_seed=FIRST_SEED)


def _measure(
    model: LoadedModel, segments: Iterator[SegmentFrames], config: ModelConfig
) -> tuple[list[dict[str, float]], int]:
    """Return the figures of each segment's adapter, and how many adapters were not finite."""
    figures, num_left_out = [], 0
    while batch := list(itertools.islice(segments, config.batch_segments)):
        for adapter in internalize(
            model.vlm, model.hypernetwork, batch, checkpoint_sha256=model.checkpoint.sha256
        ):
            squares = quality.squared_norms(adapter)
            if quality.check(adapter, None, squares) is None:
                figures.append(quality.log_norms(adapter.layers, squares))
            else:
                num_left_out += 1
        report("segments", len(batch))
    return figures, num_left_out


def _spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """Return at most `count` items, evenly spaced over all."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * place + 1) * len(items) // (2 * count)] for place in range(count)]
