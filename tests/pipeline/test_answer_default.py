"""The embedded default answers question sets about real mp4 files, in every mode."""

from pathlib import Path

import pytest

from storage.lake import open_lake
from tests.pipeline.answer_sets import ask_set, write_set
from video2lora_core.shapes_world import ask_all, sample_world
from video2lora_core.shapes_world.video_files import write_mp4


@pytest.mark.slow
def test_the_embedded_default_answers_in_every_mode(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    rows = []
    for number in range(3):
        world = sample_world(910_000_000_000_000 + number, num_scenes=2, two_things=0.0)
        path = write_mp4(world, tmp_path / "videos" / f"{number}.mp4", seed=number)
        rows += [
            {"video": str(path), "question": q.text, "reference": q.answer, "question_type": q.kind}
            for q in ask_all(world, seed=0)
        ]
    questions = write_set(tmp_path / "questions.jsonl", rows)
    open_lake(tmp_path / "lake", create=True)
    shares = {}
    for mode in ("adapter", "in-context", "in-context-kv-cache", "blind"):
        done = ask_set(
            questions,
            tmp_path / "lake",
            "tiny",
            mode=mode,
            max_new_tokens=24,
            batch_questions=32,
            unit_questions=256,
            internalize_missing=True,
        )
        assert (done.found.num_answers, done.found.rejects) == (len(rows), {})
        lake = open_lake(tmp_path / "lake")
        sql = f"select avg((answer = reference)::int) s from answers where mode = '{mode}'"
        shares[mode] = lake.query(sql)["s"][0].as_py()
    assert shares["adapter"] > 0.8 > 0.7 > shares["blind"], shares
    assert abs(shares["in-context"] - shares["in-context-kv-cache"]) < 0.02, shares
