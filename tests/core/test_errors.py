"""The error tree: one base, and a reason that survives the pipe of a decoding child."""

import pickle

import pytest

from video2lora_core import errors
from video2lora_core.errors import Reason, Video2LoraError, VideoError


@pytest.mark.parametrize(
    "name",
    ["UsageError", "ModelMismatchError", "CheckpointError", "AdapterError", "PromptError"],
)
def test_every_error_is_caught_by_the_base(name):
    with pytest.raises(Video2LoraError, match="what is wrong"):
        raise getattr(errors, name)("what is wrong")


def test_a_video_error_says_its_reason_and_its_detail():
    error = VideoError(Reason.NOT_MEDIA, "a.mp4: text")
    assert str(error) == "NOT_MEDIA: a.mp4: text"
    assert (error.reason, error.detail) == (Reason.NOT_MEDIA, "a.mp4: text")


def test_a_video_error_survives_pickling():
    error = pickle.loads(pickle.dumps(VideoError(Reason.DECODE_OOM, "child: 2 GiB")))
    assert (error.reason, error.detail) == (Reason.DECODE_OOM, "child: 2 GiB")


def test_a_reason_is_its_own_name():
    assert all(reason.value == reason.name for reason in Reason)
