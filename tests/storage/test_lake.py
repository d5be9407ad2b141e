"""A lake is opened where there is one, and made only when asked."""

from pathlib import Path

import pytest

from storage.errors import CredentialsError, LakeError
from storage.lake import open_lake


def test_a_created_lake_opens_again(tmp_path: Path) -> None:
    assert open_lake(tmp_path / "new" / "lake", create=True).uri == str(tmp_path / "new/lake")
    assert open_lake(str(tmp_path / "new" / "lake")).table("adapters").num_rows == 0
    open_lake(tmp_path / "new" / "lake", create=True)


def test_the_files_lie_where_the_design_says(tmp_path: Path) -> None:
    lake = open_lake(tmp_path, create=True)
    sha256 = lake.adapters.put(b"adapter")
    lake.put_checkpoint("c" * 64, {"hypernetwork.json": b"{}"})
    lake.mark_published("run", {})
    lake.publish_views()
    assert (tmp_path / "adapters" / sha256[:2] / f"{sha256}.safetensors").is_file()
    assert (tmp_path / "checkpoints" / ("c" * 64) / "hypernetwork.json").is_file()
    assert (tmp_path / "published" / "run.json").is_file()
    assert (tmp_path / "catalog" / "adapters" / "_delta_log").is_dir()
    assert (tmp_path / "catalog.duckdb").is_file()


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_where_there_is_no_lake_none_is_made_unasked(tmp_path: Path, name: str) -> None:
    with pytest.raises(LakeError, match="no lake here"):
        open_lake(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_lake(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LakeError, match="file: cannot create the lake"):
        open_lake(tmp_path / "file", create=True)
    with pytest.raises(LakeError, match="no lake here"):
        open_lake(tmp_path / "file")


@pytest.mark.parametrize("name", ["a[1]", "a|b", "a^b", "a\\b", "a\nb", "a%20b"])
def test_a_path_that_tables_cannot_live_in_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LakeError, match="tables cannot live in a path with"):
        open_lake(tmp_path / name, create=True)


@pytest.mark.parametrize("uri", ["gs://bucket/lake", "s3://", "s3://bucket/a b", "https://h/lake"])
def test_a_remote_place_that_is_not_s3_is_refused(uri: str) -> None:
    with pytest.raises(LakeError, match="no lake can live here"):
        open_lake(uri)


def test_a_lake_uri_with_credentials_is_refused() -> None:
    with pytest.raises(CredentialsError, match="carries credentials") as refused:
        open_lake("s3://key:SECRET@bucket/lake")
    assert "SECRET" not in str(refused.value)
