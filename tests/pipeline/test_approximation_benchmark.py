"""The figures of docs/quality.md on approximations, on fewer videos: paired, counted, all there."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import approximations
from benchmarks._segment_flops import segment_flops
from benchmarks.approximations import DEFAULT, OPTIONS, Film, Way, scores
from tasks.exam import exam_world, papers

PAGE = (Path(__file__).parents[2] / "docs" / "quality.md").read_text(encoding="utf-8")
CHOSEN = (DEFAULT, "top_ranks: 4", "top_ranks: 4, int8", "vision_px: 24")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    ways = {name: Way(OPTIONS[name]) for name in CHOSEN}
    sat = [p for p in papers(num_videos=3, num_composed=1) if p.name in approximations.PAPERS[:2]]
    found = approximations.measure(ways, sat, tmp_path_factory.mktemp("films"), num_pairs=1)
    return {row["option"]: row for row in json.loads(json.dumps(found))}


def test_every_option_sits_the_same_papers_and_the_default_differs_from_itself_by_nothing(
    rows: dict[str, dict[str, Any]],
) -> None:
    assert list(rows) == list(CHOSEN)
    counts = {
        name: [paper["questions"]["num_questions"] for paper in row["papers"].values()]
        for name, row in rows.items()
    }
    assert len(set(map(tuple, counts.values()))) == 1
    for paper in rows[DEFAULT]["papers"].values():
        assert {kind["difference"] for kind in paper.values()} == {0.0}
    assert rows[DEFAULT]["cpu_ratios"] == [1.0]
    console = Console(width=200)
    with console.capture() as captured:
        console.print(approximations.shown(list(rows.values())))
    assert all(name in captured.get() for name in CHOSEN)


def test_fewer_ranks_are_fewer_bytes_and_four_of_eight_lose_no_answer(
    rows: dict[str, dict[str, Any]],
) -> None:
    default, short, both = (rows[name] for name in CHOSEN[:3])
    assert (default["rank"], short["rank"], both["rank"]) == (8, 4, 4)
    assert both["bytes"] < 0.3 * default["bytes"]
    assert short["bytes"] < 0.55 * default["bytes"]
    assert len({row["recipe_id"] for row in rows.values()}) == len(CHOSEN)
    for paper in short["papers"].values():
        assert paper["questions"]["num_lost"] == 0


def test_a_quarter_of_the_tokens_loses_answers_of_a_model_that_never_saw_so_few(
    rows: dict[str, dict[str, Any]],
) -> None:
    small = rows["vision_px: 24"]
    assert small["num_rejects"] == 0
    assert small["papers"]["one segment"]["questions"]["num_lost"] > 0


def test_scores_are_paired_by_question() -> None:
    paper = papers(num_videos=2, num_composed=1)[0]
    films = [
        Film(path=Path(str(number)), world=world, questions=questions)
        for number in range(2)
        for world, questions in [exam_world(paper, number)]
    ]
    num = sum(len(film.questions) for film in films)
    kinds = [q.kind for film in films for q in film.questions]
    baseline = [True] * num
    rights = [kind != "motion" for kind in kinds]
    found = scores(films, rights, baseline)
    assert found["motion"]["num_right"] == 0
    assert found["motion"]["num_lost"] == kinds.count("motion") > 0
    assert (found["motion"]["difference"], found["motion"]["high"]) == (-1.0, -1.0)
    assert found["colour"]["num_lost"] == found["colour"]["num_won"] == 0
    assert found["questions"]["num_questions"] == num - kinds.count("caption")
    assert scores(films, baseline, rights)["motion"]["num_won"] == kinds.count("motion")


def test_the_500m_at_384_px_takes_1_8_times_fewer_operations() -> None:
    own, small = segment_flops("smolvlm2-500m", sides_px=(512, 384))
    assert (own["tokens_per_frame"], small["tokens_per_frame"]) == (64, 36)
    assert own["num_tokens"] - small["num_tokens"] == 12 * (64 - 36)
    assert own["flops"] / small["flops"] == pytest.approx(1.78, abs=0.005)


def test_the_page_has_a_line_for_every_option() -> None:
    table = PAGE.partition("## Approximations")[2]
    assert [name for name in OPTIONS if f"| {name} |" not in table] == []
