"""The teacher's answers: kept in the lake, never asked twice, the same whoever asks."""

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from configs.load import load_model_config
from storage.lake import open_lake
from storage.teacher_store import read_said
from tasks.models import load_frozen
from tasks.teacher_targets import teach, teacher_id
from tasks.training_pool import training_pool
from tasks.training_videos import resolve_video, training_videos
from tests.core.video_factory import write_video
from tests.pipeline.training_corpus import training_config


def keys_of(folder: Path) -> Counter[str]:
    """How often each key stands in the teacher's files."""
    files = list((folder / "lake" / "teacher").rglob("*.parquet"))
    return Counter(key for file in files for key in pq.read_table(file)["key"].to_pylist())


def test_every_example_is_asked_once_and_not_again(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    config = training_config(tmp_path, corpus, model, targets="teacher")
    first, again = teach(config), teach(config)
    assert first.num_asked == first.num_examples > 2
    assert (again.num_asked, again.num_examples) == (0, first.num_examples)
    keys = keys_of(tmp_path)
    assert (len(keys), set(keys.values())) == (first.num_examples, {1})
    more = config.model_copy(update={"captions": (*config.captions, "How many ?")})
    lake = open_lake(config.lake)
    pool = training_pool(more, training_videos(more, lake), lake)
    new = {e.key(first.teacher_id) for e in pool} - set(keys)
    assert teach(more).num_asked == len(new) > 0
    assert set(keys_of(tmp_path).values()) == {1}


def test_shards_share_the_examples_and_say_what_one_would(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    whole = training_config(tmp_path, corpus, model)
    teach(whole)
    divided = whole.model_copy(
        update={
            "lake": str(tmp_path / "divided"),
            "teacher": whole.teacher.model_copy(update={"shards": 2}),
        }
    )
    made = [teach(divided, shard=shard) for shard in (0, 1)]
    said = [
        read_said(open_lake(config.lake).objects, made[0].teacher_id) for config in (whole, divided)
    ]
    assert said[0] == said[1]
    assert sum(one.num_examples for one in made) == len(said[0])
    assert all(one.text for one in said[0].values())


def test_a_span_that_cannot_be_shown_is_a_row_with_its_reason(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    whole = (corpus / "long.mp4").read_bytes()
    (corpus / "broken.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    write_video(corpus / "third.mp4", numbers=range(500, 540))
    config = training_config(tmp_path, corpus, model, targets="teacher")
    lake = open_lake(config.lake, create=True)
    found = {Path(v.source.uri).name for v in training_videos(config, lake)}
    assert {"long.mp4", "short.mp4", "third.mp4"} <= found
    (corpus / "short.mp4").unlink()  # known from before, gone now
    shutil.copy(corpus / "third.mp4", corpus / "again.mp4")
    summary = teach(config)
    assert summary.num_rejects == summary.num_asked - sum(
        one.text is not None for one in read_said(lake.objects, summary.teacher_id).values()
    )


def test_videos_are_met_once_and_named_as_people_name_them(
    tmp_path: Path, corpus: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = training_config(tmp_path, corpus, model)
    lake = open_lake(config.lake, create=True)
    videos = training_videos(config, lake)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened again")

    monkeypatch.setattr("tasks.video_reader.InProcessReader.meet", refuse)
    assert training_videos(config, lake) == videos
    long = next(v for v in videos if v.source.uri.endswith("long.mp4"))
    for name in ("long.mp4", long.source.uri, long.video_id, long.video_id[:12]):
        assert resolve_video(name, videos) == long
    assert resolve_video("no.mp4", videos) is None


@pytest.mark.slow
def test_a_teacher_that_is_killed_goes_on_and_asks_each_example_once(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    config = training_config(tmp_path, corpus, model, targets="teacher", spans={"per_video": 40})
    path = tmp_path / "config.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from tasks.teacher_targets import teach;"
        "from configs.train_corpus_schema import CorpusTrainConfig;"
        "teach(CorpusTrainConfig.model_validate_json(Path(sys.argv[1]).read_text()))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        deadline = time.monotonic() + 120
        while len(keys_of(tmp_path)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    before = keys_of(tmp_path)
    summary = teach(config)
    assert 0 < len(before) < summary.num_examples
    assert summary.num_asked == summary.num_examples - len(before)
    assert set(keys_of(tmp_path).values()) == {1}


def test_another_model_or_number_of_frames_is_another_teacher(
    tmp_path: Path, corpus: Path, model: str
) -> None:
    config = training_config(tmp_path, corpus, model)
    vlm = load_frozen(load_model_config(model))
    other = config.model_copy(
        update={"teacher": config.teacher.model_copy(update={"num_frames": 3})}
    )
    assert teacher_id(vlm, config) != teacher_id(vlm, other)
