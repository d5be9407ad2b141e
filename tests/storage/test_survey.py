"""A listing laid against the catalog: what is done, rejected, deleted, and still to do."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.lake import Lake
from storage.manifest import Source
from storage.plans import Retry
from storage.schemas import TABLES
from storage.survey import Survey, SurveyRule
from video2lora_core.segments import tile

Commit = Callable[..., str]
PLACE = {"run_id": "run", "recipe_id": "recipe-1", "shard": 0, "unit": 0}
RULE = SurveyRule(recipe_id="recipe-1", segment_us=30_000_000, min_tail_us=10_000_000)


def source(name: str, **changed: Any) -> Source:
    return Source(**{"uri": f"/{name}.mp4", "size_bytes": 10, "version_token": "1", **changed})


def statuses(lake: Lake, *sources: Source, rule: SurveyRule = RULE) -> dict[str, str]:
    with lake.survey(rule) as survey:
        survey.take(sources)
        return {row["uri"]: row["status"] for row in survey.rows("select * from surveyed")}


def meet(lake: Lake, rows: Any, name: str, num_segments: int = 2) -> list[dict[str, Any]]:
    uri = f"/{name}.mp4"
    lake.append("sources", [{**PLACE, **rows.source(uri, name)}])
    lake.append("videos", [{**PLACE, **rows.video(uri, name, num_segments=num_segments)}])
    return [rows.adapter(lake, name, i) for i in range(num_segments)]


def test_a_video_is_done_when_all_its_segments_are_and_are_composed(
    lake: Lake, rows: Any, commit: Commit
) -> None:
    whole, part, loose = (meet(lake, rows, name) for name in ("whole", "part", "loose"))
    commit(lake, whole)
    commit(lake, part[:1], unit=1)
    commit(lake, loose, unit=2, compositions=[])
    assert statuses(lake, *map(source, ("whole", "part", "loose", "never"))) == {
        "/whole.mp4": "done",
        "/part.mp4": "new",
        "/loose.mp4": "new",
        "/never.mp4": "new",
    }
    assert statuses(lake, source("whole", version_token="2")) == {"/whole.mp4": "new"}
    other = SurveyRule(recipe_id="other", segment_us=1, min_tail_us=1)
    assert statuses(lake, source("whole"), rule=other) == {"/whole.mp4": "new"}


def test_a_unit_that_was_not_closed_is_not_done(lake: Lake, rows: Any) -> None:
    adapters = meet(lake, rows, "v")
    lake.append("segments", [{**PLACE, **rows.segment(row)} for row in adapters])
    assert statuses(lake, source("v")) == {"/v.mp4": "new"}


def test_rejects_and_deletions_are_told_apart(lake: Lake, rows: Any, commit: Commit) -> None:
    bad = {**PLACE, "reason": "NOT_MEDIA", "attempt": 1, "is_terminal": True}
    lake.append("rejects", [{**bad, **rows.source("/bad.mp4", None)}])
    lake.append("rejects", [{**bad, **rows.source("/later.mp4", None), "is_terminal": False}])
    commit(lake, meet(lake, rows, "gone"))
    stone = {"video_id": rows.video_id("gone"), "sequence": 1, "is_deleted": True}
    lake.append("tombstones", [stone])
    listed = [source("bad"), source("later"), source("gone")]
    assert statuses(lake, *listed) == {
        "/bad.mp4": "rejected",
        "/later.mp4": "retry",
        "/gone.mp4": "deleted",
    }
    assert statuses(lake, source("bad", size_bytes=11)) == {"/bad.mp4": "new"}
    again = SurveyRule(recipe_id="recipe-1", segment_us=1, min_tail_us=1, retry=Retry())
    assert set(statuses(lake, *listed, rule=again).values()) == {"retry", "deleted"}


def test_what_is_to_do_comes_sorted_and_each_source_once(lake: Lake) -> None:
    listed = [source(f"v{i}", given_id=str(i)) for i in range(50)]
    twice = [*listed, *(source(f"v{i}", given_id="other") for i in range(5))]

    def todo(sources: list[Source]) -> Iterator[Source]:
        with lake.survey(RULE) as survey:
            survey.take(sources)
            assert survey.num_sources() == 50
            yield from (found.source for found in survey.todo())

    found = list(todo(twice))
    assert [s.source_id for s in found] == sorted(s.source_id for s in listed)
    assert found == list(todo(twice[::-1]))


def test_open_rejects_are_listed_by_reason_with_what_a_manifest_said(
    lake: Lake, rows: Any, tmp_path: Any
) -> None:
    there = tmp_path / "there.mp4"
    there.write_bytes(b"0123")
    said = {"given_id": "7", "metadata": "{}", "corpus": "home"}
    for uri, reason in ((str(there), "SRC_NOT_FOUND"), ("/text.mp4", "NOT_MEDIA")):
        lake.append("sources", [{**PLACE, **rows.source(uri, None), **said}])
        is_terminal = reason == "NOT_MEDIA"
        bad = {**PLACE, "reason": reason, "attempt": 1, "is_terminal": is_terminal}
        lake.append("rejects", [{**bad, **rows.source(uri, None)}])

    def listed(*reasons: str) -> dict[str, Source]:
        with lake.survey(RULE) as survey:
            return {found.uri: found for found in survey.rejected(reasons)}

    assert list(listed("NOT_MEDIA")) == ["/text.mp4"]
    assert list(listed("NOT_MEDIA", "SRC_NOT_FOUND")) != ["/text.mp4"]
    [(uri, found)] = listed().items()
    assert uri == str(there)
    assert (found.size_bytes, found.given_id, found.corpus) == (4, "7", "home")
    assert listed("TRUNCATED") == {}


class CountingLake(Lake):
    """Counts how often tables of its catalog are looked for and read."""

    def __init__(self, lake: Lake) -> None:
        self.__dict__.update(lake.__dict__)
        self.catalog = self
        self._inner = lake.catalog
        self.asked: list[str] = []

    def file_uris(self, table: str) -> list[str]:
        self.asked.append(table)
        return self._inner.file_uris(table)


def test_the_catalog_is_looked_up_once_whatever_the_length_of_the_listing(lake: Lake) -> None:
    for num in (10, 30_000):
        counting = CountingLake(lake)
        assert len(statuses(counting, *(source(f"v{i}") for i in range(num)))) == num
        assert sorted(counting.asked) == sorted(TABLES)


@given(
    st.integers(1, 10**9).flatmap(
        lambda segment_us: st.tuples(st.just(segment_us), st.integers(0, segment_us))
    ),
    st.integers(1, 10**10),
)
def test_segments_are_counted_as_they_are_cut(rule: tuple[int, int], duration_us: int) -> None:
    planned = counted(*rule, duration_us) if duration_us // rule[0] < 10_000 else None
    if planned is not None:
        cut = tile(duration_us, segment_us=rule[0], min_tail_us=rule[1])
        assert planned == len(cut)


def counted(segment_us: int, min_tail_us: int, duration_us: int) -> int:
    survey = SHARED[0]
    for name, value in (("segment_us", segment_us), ("min_tail_us", min_tail_us)):
        survey._run(f"SET VARIABLE {name} = {value}")
    return int(next(survey.rows(f"SELECT num_planned({duration_us}) AS num"))["num"])


SHARED: list[Survey] = []


@pytest.fixture(scope="module", autouse=True)
def shared() -> Iterator[None]:
    with Survey(dict.fromkeys(TABLES, ()), rule=RULE) as survey:
        survey.take([])
        SHARED.append(survey)
        yield
    SHARED.clear()
