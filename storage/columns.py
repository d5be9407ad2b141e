"""The catalog's tables, column by column; docs/catalog.md is generated from this file.

Every field carries `description` and `unit` in its Arrow metadata. Times are int64 microseconds,
`created_at` is UTC. A column marked `optional` may be null; all others must be in every row.
"""

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

_TEXT, _INT, _LONG, _REAL, _FLAG = pa.string(), pa.int32(), pa.int64(), pa.float64(), pa.bool_()
_TIME, _LONGS = pa.timestamp("us", tz="UTC"), pa.list_(pa.int64())
_TEXTS, _INTS, _REALS = pa.list_(_TEXT), pa.list_(_INT), pa.list_(_REAL)


def _col(
    name: str, kind: pa.DataType, description: str, unit: str = "", *, optional: bool = False
) -> pa.Field:
    metadata = {"description": description, "unit": unit}
    return pa.field(name, kind, nullable=optional, metadata=metadata)


def _opt(name: str, kind: pa.DataType, description: str, unit: str = "") -> pa.Field:
    return _col(name, kind, description, unit, optional=True)


ALWAYS = (
    _col("schema_version", _INT, "version of the schema that wrote the row"),
    _col("created_at", _TIME, "when the row was made", "UTC"),
)
_RUN = _col("run_id", _TEXT, "sha256 of the plan; the same for every attempt")
_RECIPE = _col("recipe_id", _TEXT, "sha256 of everything that decides an adapter's content")
_VIDEO = _col("video_id", _TEXT, "sha256 of the video file's bytes")
_PLACE = (
    _RUN,
    _RECIPE,
    _col("shard", _INT, "shard of the run"),
    _col("unit", _INT, "unit of the shard, committed at once"),
    _opt("attempt_id", _TEXT, "the execution that wrote the row"),
    _opt("worker", _TEXT, "host and process that wrote the row"),
)
_SPAN = (
    _col("start_us", _LONG, "start of the span, inclusive", "us"),
    _col("end_us", _LONG, "end of the span, exclusive", "us"),
)
_KEY = _col(
    "adapter_key", _TEXT, "sha256 of (recipe_id, video_id, start_us, end_us): what was asked"
)
_URI = _col("uri", _TEXT, "where the video was found; never with credentials")
_SOURCE = (
    _col("source_id", _TEXT, "sha256 of the uri"),
    _URI,
    _opt("size_bytes", _LONG, "size of the file", "bytes"),
    _opt("version_token", _TEXT, "opaque version of the file: etag, or modification time"),
)

COLUMNS: Final[Mapping[str, tuple[str, tuple[pa.Field, ...]]]] = {
    "sources": (
        "One row per file that a run met: the link from a URI to a video.",
        (
            *_PLACE,
            *_SOURCE,
            _opt("corpus", _TEXT, "the corpus as it was asked for"),
            _opt("video_id", _TEXT, "sha256 of the file's bytes; null where it was not read"),
            _opt("given_id", _TEXT, "id that the manifest gives the video"),
            _opt("metadata", _TEXT, "the manifest's other columns", "JSON"),
        ),
    ),
    "runs": (
        "What happened to a run, one row per event; a unit's row closes it and comes last.",
        (
            _RUN,
            _RECIPE,
            _col(
                "event",
                _TEXT,
                "planned, unit, composed, answered, shard, published, failed, or maintenance",
            ),
            _opt("shard", _INT, "shard of the run"),
            _opt("unit", _INT, "unit of the shard"),
            _opt("attempt_id", _TEXT, "the execution that wrote the row"),
            _opt("worker", _TEXT, "host and process that wrote the row"),
            _opt("corpus", _TEXT, "the corpus as it was asked for"),
            _opt("recipe", _TEXT, "the recipe itself", "JSON"),
            _opt("code_version", _TEXT, "version of this software"),
            _opt("num_videos", _LONG, "videos planned or met"),
            _opt("num_segments", _LONG, "segments planned or closed"),
            _opt("num_adapters", _LONG, "adapters committed"),
            _opt("num_rejects", _LONG, "rejects committed"),
            _opt("covered_us", _LONG, "time covered by the committed adapters", "us"),
            _opt("device_s", _REAL, "device time spent", "s"),
            _opt("decode_s", _REAL, "decoding time spent", "s"),
            _opt("wall_s", _REAL, "wall time spent", "s"),
            _opt("detail", _TEXT, "what else there is to say"),
        ),
    ),
    "videos": (
        "What decoding found out about a video, one row per recipe and run.",
        (
            *_PLACE,
            _VIDEO,
            *_SOURCE,
            _col("duration_us", _LONG, "duration that the segments tile", "us"),
            _col("num_segments", _INT, "segments that the recipe plans for it"),
            _opt("width_px", _INT, "width as shown", "px"),
            _opt("height_px", _INT, "height as shown", "px"),
            _opt("fps", _REAL, "average frame rate", "1/s"),
            _opt("codec", _TEXT, "codec of the video stream"),
            _opt("container", _TEXT, "container format"),
            _opt("origin_us", _LONG, "presentation time of the first frame in the file", "us"),
            _opt("given_id", _TEXT, "id that the manifest gives the video"),
            _opt("metadata", _TEXT, "the manifest's other columns", "JSON"),
        ),
    ),
    "segments": (
        "One row per finished segment, an adapter or a reject: together they tile the video.",
        (
            *_PLACE,
            _KEY,
            _VIDEO,
            *_SPAN,
            _col("outcome", _TEXT, "adapter or reject"),
            _col("is_done", _FLAG, "false where a later run may try the segment again"),
            _opt("reason", _TEXT, "reason code of a reject"),
            _opt("frame_times_us", _LONGS, "presentation times asked for, one per frame", "us"),
            _opt("num_frames", _INT, "frames picked"),
            _opt("num_unique_frames", _INT, "different frames among them"),
            _opt("num_corrupt_frames", _INT, "frames that the decoder flagged"),
            _opt("decode_s", _REAL, "decoding time of the segment", "s"),
            _opt("max_lag_us", _LONG, "most that a frame lies from its instant", "us"),
            _opt(
                "flags",
                _TEXTS,
                "oddities: PTS_DISCONTINUITY, RES_CHANGE, HDR_AS_SDR",
            ),
        ),
    ),
    "adapters": (
        "One row per adapter file, with all that is known of its origin.",
        (
            *_PLACE,
            _KEY,
            _col("adapter_sha256", _TEXT, "sha256 of the adapter file: what came out"),
            _VIDEO,
            *_SPAN,
            _col("frame_times_us", _LONGS, "presentation times of its frames", "us"),
            _col("prompt", _TEXT, "internalization prompt"),
            _col("model_name", _TEXT, "encoder, as its hub or directory names it"),
            _opt("model_revision", _TEXT, "revision of the encoder"),
            _col("model_weights_sha256", _TEXT, "sha256 of the encoder's weights"),
            _col("checkpoint_sha256", _TEXT, "hypernetwork checkpoint; it holds the bias adapter"),
            _col("code_version", _TEXT, "version of this software"),
            _col("rank", _INT, "rank of the factors, the bias aside"),
            _col("layers", _INTS, "decoder layers covered"),
            _col("modules", _TEXTS, "target modules covered"),
            _col("scaling", _REAL, "multiplier of the update"),
            _col("dtype", _TEXT, "number format in the file"),
            _col("size_bytes", _LONG, "size of the adapter file", "bytes"),
            _opt("norm_a", _REAL, "Frobenius norm of all factors A"),
            _opt("norm_b", _REAL, "Frobenius norm of all factors B"),
            _opt("norm_update", _REAL, "Frobenius norm of all updates"),
            _opt("device", _TEXT, "device that made it"),
            _opt("device_s", _REAL, "device time of the segment", "s"),
            _opt("is_random", _FLAG, "true where the model's weights are random: for tests only"),
        ),
    ),
    "compositions": (
        "One row per composition of adapters, of one video or of any set of segments.",
        (
            *_PLACE,
            _col(
                "composition_id", _TEXT, "sha256 of recipe, members, coefficients, method, budget"
            ),
            _opt("video_id", _TEXT, "sha256 of the video; null where it spans several videos"),
            _opt("start_us", _LONG, "start of the first segment", "us"),
            _opt("end_us", _LONG, "end of the last segment", "us"),
            _col("parents", _TEXTS, "adapter_sha256 of each parent, in order"),
            _col("coefficients", _REALS, "what each parent's update is multiplied by"),
            _col("method", _TEXT, "concat, top_k or svd"),
            _opt("tree", _TEXT, "what reduced the sum, and how compositions were nested", "JSON"),
            _col("rank", _INT, "rank of the composition, the bias aside"),
            _col("num_segments", _INT, "segments covered"),
            _opt("covered_us", _LONG, "time covered", "us"),
            _col("relative_error", _REAL, "relative Frobenius error of the update; 0 for concat"),
            _col("checkpoint_sha256", _TEXT, "hypernetwork checkpoint of all parents"),
            _opt("adapter_sha256", _TEXT, "its own file; null for concat, which needs none"),
            _opt("size_bytes", _LONG, "size of its file", "bytes"),
        ),
    ),
    "rejects": (
        "One row per input that was not processed, with its reason.",
        (
            *_PLACE,
            _opt("source_id", _TEXT, "sha256 of the uri"),
            _opt("uri", _TEXT, "where the video was found"),
            _opt("size_bytes", _LONG, "size of the file", "bytes"),
            _opt("version_token", _TEXT, "opaque version of the file"),
            _opt("video_id", _TEXT, "sha256 of the file's bytes; null where it was not read"),
            _opt("adapter_key", _TEXT, "the segment's key; null where the whole video failed"),
            _opt("start_us", _LONG, "start of the segment; null where the video failed", "us"),
            _opt("end_us", _LONG, "end of the segment; null where the video failed", "us"),
            _col("reason", _TEXT, "reason code, from a closed list"),
            _opt("detail", _TEXT, "what was seen"),
            _opt("question_id", _TEXT, "the question that could not be answered"),
            _opt("mode", _TEXT, "the mode in which it was asked"),
            _col("attempt", _INT, "how often this recipe has tried it and failed, from 1"),
            _col("is_terminal", _FLAG, "true where trying again under this recipe is no use"),
        ),
    ),
    "answers": (
        "One row per answered question.",
        (
            _RUN,
            _RECIPE,
            _col("answer_id", _TEXT, "sha256 of question, mode, adapters, answer model"),
            _opt("shard", _INT, "shard of the run"),
            _opt("unit", _INT, "unit of the shard, committed at once"),
            _opt("attempt_id", _TEXT, "the execution that wrote the row"),
            _opt("worker", _TEXT, "host and process that wrote the row"),
            _opt("mode", _TEXT, "adapter, in-context, in-context-kv-cache or blind"),
            _opt("strategy", _TEXT, "how segments were chosen: compose, route or route-compose"),
            _opt("question_set", _TEXT, "where the questions were read"),
            _opt("question_id", _TEXT, "id that the question set gives the question"),
            _opt("question_type", _TEXT, "type that the question set gives the question"),
            _opt("video_id", _TEXT, "sha256 of the video asked about"),
            _opt("composition_id", _TEXT, "the composition that answered"),
            _opt("parents", _TEXTS, "adapter_sha256 of the adapters that answered"),
            _col("question", _TEXT, "the question"),
            _col("answer", _TEXT, "the answer"),
            _opt("reference", _TEXT, "the expected answer, the first of several"),
            _opt("references", _TEXTS, "every answer that counts as right"),
            _opt(
                "start_us", _LONG, "start of the span asked about; null for the whole video", "us"
            ),
            _opt("end_us", _LONG, "end of the span asked about; null for the whole video", "us"),
            _opt("metadata", _TEXT, "the question's other columns", "JSON"),
            _col("model_name", _TEXT, "answer model"),
            _col("model_weights_sha256", _TEXT, "sha256 of the answer model's weights"),
            _col("num_prompt_tokens", _INT, "tokens in the prompt"),
            _col("num_visual_tokens", _INT, "visual tokens in the prompt; 0 for adapters"),
            _col("num_new_tokens", _INT, "tokens generated"),
            _opt("time_to_first_token_s", _REAL, "from prompt ids to the first new id", "s"),
            _opt("load_s", _REAL, "reading its adapters or frames, shared by its batch", "s"),
            _opt("compose_s", _REAL, "composing its adapters, shared by its batch", "s"),
            _opt("answer_s", _REAL, "answering, shared by its batch", "s"),
            _opt("num_frames", _INT, "frames in the prompt, or internalized"),
            _opt("num_segments", _INT, "segments that answered"),
            _opt("rank", _INT, "rank of the adapter that answered, the bias included"),
            _opt("checkpoint_sha256", _TEXT, "hypernetwork checkpoint of the adapters"),
        ),
    ),
    "evaluations": (
        "One row per measured figure of an evaluation.",
        (
            _RUN,
            _RECIPE,
            _col("evaluation_id", _TEXT, "the evaluation that the figure belongs to"),
            _col("condition", _TEXT, "a mode, or what a mode was varied by"),
            _opt("question_set", _TEXT, "where the questions were read"),
            _opt("baseline", _TEXT, "the condition that a difference is taken to"),
            _opt("num_frames", _INT, "frames per segment or in the prompt"),
            _opt("size_px", _INT, "edge of a frame", "px"),
            _opt("rank", _INT, "rank kept"),
            _opt("num_videos", _LONG, "videos behind it: what the bootstrap resamples"),
            _opt("margin", _REAL, "margin of a verdict, in the metric's own unit"),
            _opt("verdict", _TEXT, "equivalent, non-inferior, inferior or undecided"),
            _opt("question_type", _TEXT, "type of the questions; null for all"),
            _opt("num_segments", _INT, "segments composed"),
            _col("metric", _TEXT, "what was measured"),
            _col("value", _REAL, "its value"),
            _opt("low", _REAL, "lower end of its 95% interval"),
            _opt("high", _REAL, "upper end of its 95% interval"),
            _col("num_questions", _LONG, "questions behind it"),
            _opt("detail", _TEXT, "what else there is to say", "JSON"),
        ),
    ),
    "tombstones": (
        "One row per deletion of a video; the last one by sequence decides.",
        (
            _VIDEO,
            _col("sequence", _LONG, "grows by one with each row of the same video"),
            _col("is_deleted", _FLAG, "true deletes, false restores"),
            _opt("reason", _TEXT, "why"),
        ),
    ),
}
