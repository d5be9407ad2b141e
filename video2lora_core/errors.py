"""Every error a caller of the core may catch.

    Video2LoraError
    |-- UsageError            the call itself is wrong: an argument out of range, an empty list
    |-- ModelMismatchError    an adapter or a checkpoint does not fit the model it was given
    |-- CheckpointError       a checkpoint is missing, truncated, altered or of another format
    |-- AdapterError          an adapter is malformed, or adapters cannot stand together
    |-- PromptError           a prompt is empty, or holds a visual token where none may be
    `-- VideoError            a video or a segment cannot be used; carries a Reason (a rejects row)

Messages read `where: what is wrong (found vs expected); what to do`.
"""

from enum import StrEnum


class Video2LoraError(Exception):
    """Base of all errors raised on purpose by the core."""


class UsageError(Video2LoraError):
    """The call itself is wrong."""


class ModelMismatchError(Video2LoraError):
    """An adapter or a checkpoint does not fit the model."""


class CheckpointError(Video2LoraError):
    """A checkpoint on disk cannot be trusted or read."""


class AdapterError(Video2LoraError):
    """An adapter is malformed, or these adapters cannot be combined."""


class PromptError(Video2LoraError):
    """A prompt cannot be answered as asked."""


class Reason(StrEnum):
    """Why an input was not processed: the closed list behind the `reason` column of rejects."""

    # The source, before anything is decoded.
    SRC_EMPTY = "SRC_EMPTY"
    SRC_NOT_FOUND = "SRC_NOT_FOUND"
    SRC_IO = "SRC_IO"
    TOO_LARGE = "TOO_LARGE"
    # The container and its stream.
    NOT_MEDIA = "NOT_MEDIA"
    CORRUPT_CONTAINER = "CORRUPT_CONTAINER"
    NO_VIDEO_STREAM = "NO_VIDEO_STREAM"
    STILL_IMAGE = "STILL_IMAGE"
    UNSUPPORTED_CODEC = "UNSUPPORTED_CODEC"
    DURATION_UNKNOWN = "DURATION_UNKNOWN"
    DURATION_BOGUS = "DURATION_BOGUS"
    # The frames.
    NO_FRAMES = "NO_FRAMES"
    TRUNCATED = "TRUNCATED"
    CORRUPT_FRAMES = "CORRUPT_FRAMES"
    PTS_DISCONTINUITY = "PTS_DISCONTINUITY"
    RES_CHANGE = "RES_CHANGE"
    HDR_AS_SDR = "HDR_AS_SDR"
    COVERAGE_GAP = "COVERAGE_GAP"
    SPAN_OUTSIDE = "SPAN_OUTSIDE"
    # The decoding child process.
    DECODE_TIMEOUT = "DECODE_TIMEOUT"
    DECODE_CRASH = "DECODE_CRASH"
    DECODE_OOM = "DECODE_OOM"
    # The model and what it made.
    DEVICE_OOM = "DEVICE_OOM"
    NON_FINITE = "NON_FINITE"
    NORM_OUTLIER = "NORM_OUTLIER"
    ADAPTER_MISSING = "ADAPTER_MISSING"
    # A question of a question set.
    QUESTION_INVALID = "QUESTION_INVALID"
    VIDEO_UNKNOWN = "VIDEO_UNKNOWN"
    VIDEO_AMBIGUOUS = "VIDEO_AMBIGUOUS"
    PROMPT_TOO_LONG = "PROMPT_TOO_LONG"


class VideoError(Video2LoraError):
    """A video or one of its segments cannot be used.

    `reason` is the code that goes into the rejects table, `detail` the sentence beside it, and
    `video_id` whose bytes they are, where these could be read.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.video_id: str | None = None

    def __reduce__(self) -> tuple[type["VideoError"], tuple[Reason, str]]:
        # Pickle would call the class with the one text that the base class was given.
        return type(self), (self.reason, self.detail)
