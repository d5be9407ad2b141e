"""Many names at once mean what each means alone."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import VideoUnknownError
from storage.lake import Lake, open_lake
from storage.video_names import Named, resolve_videos

NAMES = ["a.mp4", "sub/a.mp4", "/v/a.mp4", "/v/sub/a.mp4", "b.mp4", "s3://x/b.mp4", "id-1", "none"]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> Lake:
    made = open_lake(tmp_path_factory.mktemp("names") / "lake", create=True)
    then = datetime(2026, 1, 1, tzinfo=UTC)
    videos = [
        ("/v/a.mp4", "first", None),
        ("/v/sub/a.mp4", "second", "id-1"),
        ("s3://x/b.mp4", "third", "id-2"),
        ("/v/a.mp4", "fourth", "id-2"),  # the file was replaced
        ("/w/gone.mp4", "gone", None),
    ]
    given_rows = [
        {**rows.video(uri, name), "given_id": given_id, "created_at": then + timedelta(days=day)}
        for day, (uri, name, given_id) in enumerate(videos)
    ]
    made.commit_unit(run_id="r", shard=0, unit=0, rows={"videos": given_rows}, common=rows.common())
    made.append(
        "tombstones", [{"video_id": rows.video_id("gone"), "sequence": 1, "is_deleted": True}]
    )
    return made


def alone(lake: Lake, name: str) -> tuple[str | None, str]:
    try:
        return lake.resolve_video(name), ""
    except VideoUnknownError as error:
        return None, str(error)


@settings(max_examples=15)
@given(
    names=st.lists(
        st.sampled_from([*NAMES, "id-2", "gone.mp4"])
        | st.tuples(
            st.sampled_from(["first", "second", "third", "fourth", "gone"]),
            st.sampled_from([4, 7, 64]),
        ),
        max_size=6,
    )
)
def test_many_names_mean_what_each_means_alone(lake: Lake, rows: Any, names: list[Any]) -> None:
    asked = [n if isinstance(n, str) else rows.video_id(n[0])[: n[1]] for n in names]
    found = resolve_videos(lake.catalog, asked)
    assert found.keys() == set(asked)
    for name in asked:
        video_id, said = alone(lake, name)
        assert found[name].video_id == video_id, name
        assert found[name].is_ambiguous == ("videos fit" in said)
        assert found[name].is_deleted == ("was deleted" in said)


def test_a_name_without_a_video_says_why(lake: Lake) -> None:
    found = resolve_videos(lake.catalog, ["id-2", "none", "gone.mp4"])
    assert "2 videos fit" in found["id-2"].detail
    assert "not in the catalog" in found["none"].detail
    assert "it was deleted" in found["gone.mp4"].detail
    assert isinstance(found["none"], Named)
