"""Every query of docs/queries.md answers its question on a lake that has something to answer."""

import json
import re
import shutil
from pathlib import Path

import pytest

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.lake import Lake, open_lake

PAGE = Path(__file__).parents[2] / "docs" / "queries.md"
ENTRY = re.compile(r"^\*\*(.+?)\*\*.*?^```sql\n(.*?)^```", re.MULTILINE | re.DOTALL)
QUERIES = dict(ENTRY.findall(PAGE.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, shelf: Path, model: str) -> Lake:
    """Two videos, a copy of one, a file that is no video; two answers, an evaluation."""
    root = tmp_path_factory.mktemp("queries")
    videos = Path(shutil.copytree(shelf, root / "videos"))
    shutil.copy(videos / "short.mp4", videos / "again.mp4")
    (videos / "bad.mp4").write_text("no video")
    manifest = root / "corpus.jsonl"
    rows = [{"uri": str(path), "camera": "north"} for path in sorted(videos.iterdir())]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = InternalizeConfig(
        corpus=str(manifest), lake=str(root / "lake"), model=model, decode={"workers": 0}
    )
    internalize_corpus(config, LocalEngine())
    made = open_lake(str(root / "lake"))
    adapter = made.query("select * from adapters_latest order by adapter_sha256").to_pylist()[0]
    asked = {
        "run_id": "r",
        "recipe_id": adapter["recipe_id"],
        "video_id": adapter["video_id"],
        "question": "What is seen?",
        "question_set": "questions.jsonl",
        "question_id": "1",
        "reference": "a ball",
        "model_name": "random",
        "model_weights_sha256": "0",
        "num_new_tokens": 2,
        "time_to_first_token_s": 0.1,
    }
    seen = {"mode": "in-context", "num_prompt_tokens": 80, "num_visual_tokens": 55}
    alone = {"mode": "adapter", "num_prompt_tokens": 10, "num_visual_tokens": 0}
    made.append(
        "answers",
        [
            {**asked, **alone, "answer_id": "a", "answer": "a ball"}
            | {"parents": [adapter["adapter_sha256"]]},
            {**asked, **seen, "answer_id": "b", "answer": "a bar"},
        ],
    )
    figure = {"condition": "adapter", "metric": "token_f1", "value": 1.0, "num_questions": 1}
    row = {"run_id": "r", "recipe_id": adapter["recipe_id"], "evaluation_id": "e"}
    made.append("evaluations", [{**row, **figure}])
    return made


def test_the_page_has_as_many_queries_as_it_says() -> None:
    assert len(QUERIES) == 25
    assert PAGE.read_text(encoding="utf-8").count("```sql") == 25


@pytest.mark.parametrize("question", QUERIES)
def test_the_query_finds_something(question: str, lake: Lake) -> None:
    assert lake.query(QUERIES[question]).num_rows > 0


def test_the_queries_find_the_right_thing(lake: Lake) -> None:
    def rows(start: str) -> list[dict[str, object]]:
        (question,) = [q for q in QUERIES if q.startswith(start)]
        return lake.query(QUERIES[question]).to_pylist()

    (same,) = rows("Which files are the same")
    assert [Path(uri).name for uri in same["uris"]] == ["again.mp4", "short.mp4"]
    assert {row["missing_us"] for row in rows("Is every video covered")} == {0}
    assert [(row["camera"], row["num_files"], row["num_read"]) for row in rows("What did the")] == [
        ("north", 4, 4)
    ]
    assert [row["num_failed"] for row in rows("What share of each folder")] == [1]
    assert [row["in_context"] for row in rows("Where do two modes")] == ["a bar"]
    exact = {row["mode"]: row["exact_percent"] for row in rows("How often is an answer")}
    assert exact == {"adapter": 100.0, "in-context": 0.0}
    assert len(rows("Which segments does an answer")) == 1
