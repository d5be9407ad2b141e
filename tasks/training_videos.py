"""The videos that a hypernetwork learns from: where they are, how long, and how they are cut."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from configs.load import load_model_config
from configs.schema import CATALOG, DecodeConfig, ModelConfig
from configs.train_corpus_schema import CorpusTrainConfig
from storage.identity import canonical_json, sha256_hex
from storage.lake import Lake
from storage.manifest import Source, list_sources, look_at
from storage.teacher_store import FileFacts, get_facts, put_facts
from tasks.known import plan_segments
from tasks.source_file import SourceFile
from tasks.video_reader import InProcessReader
from video2lora_core.errors import UsageError, VideoError
from video2lora_core.segments import Segment

logger = logging.getLogger(__name__)

_LISTED = """
SELECT min(s.uri) AS uri, v.video_id
FROM videos AS v JOIN sources AS s USING (video_id) GROUP BY v.video_id
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainVideo:
    """A video and the tiles that its spans are made of."""

    video_id: str
    source: Source
    tiles: tuple[Segment, ...]


def training_videos(config: CorpusTrainConfig, lake: Lake) -> list[TrainVideo]:
    """List the videos in order of their ids; what cannot be opened is left out with a warning.

    A file is read once: what was found in it is kept in the lake, by URI, size and version.

    Raises:
        UsageError: fewer than two videos can be used, so none could be held out.
    """
    model = load_model_config(config.model)
    deleted = lake.deleted_videos()
    found: dict[str, TrainVideo] = {}
    for source, facts in _met(_sources(config, lake), model, lake):
        if facts.video_id not in deleted:
            tiles = plan_segments(facts.duration_us, model.segments)
            video = TrainVideo(video_id=facts.video_id, source=source, tiles=tiles)
            found.setdefault(video.video_id, video)
    if len(found) < 2:
        raise UsageError(
            f"train: {config.corpus} has {len(found)} usable videos (expected at least 2: one is "
            "held out); give more"
        )
    return [found[video_id] for video_id in sorted(found)]


def resolve_video(text: str, videos: Sequence[TrainVideo]) -> TrainVideo | None:
    """Return the one video meant by an id or its first digits, a URI, a file name or a given id."""
    found = [video for video in videos if text in _names(video)]
    if not found and len(text) >= 6:
        found = [video for video in videos if video.video_id.startswith(text)]
    return found[0] if len(found) == 1 else None


def _names(video: TrainVideo) -> set[str | None]:
    uri = video.source.uri
    return {video.video_id, uri, uri.rpartition("/")[2], video.source.given_id}


def _sources(config: CorpusTrainConfig, lake: Lake) -> Iterable[Source]:
    if config.corpus != CATALOG:
        return sorted(list_sources(config.corpus), key=lambda source: source.uri)
    rows = lake.query(_LISTED).to_pylist()
    return look_at(Source(uri=row["uri"]) for row in sorted(rows, key=lambda row: row["uri"]))


def _met(
    sources: Iterable[Source], model: ModelConfig, lake: Lake
) -> Iterator[tuple[Source, FileFacts]]:
    reader = InProcessReader(model=model, decoder="pyav", limits=DecodeConfig())
    for source in sources:
        key = sha256_hex(
            canonical_json([source.uri, source.size_bytes, source.version_token]).encode()
        )
        facts = get_facts(lake.objects, key)
        if facts is None:
            try:
                with SourceFile(source) as file:
                    met = reader.meet(file.path(), is_hashed=False)
            except VideoError as error:
                logger.warning("%s: left out: %s", source.uri, error)
                continue
            facts = FileFacts(video_id=str(met.video_id), duration_us=met.probe.duration_us)
            put_facts(lake.objects, key, facts)
        yield source, facts
