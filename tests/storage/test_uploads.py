"""Uploads to S3 that never ended are found on every page of the list, and ended."""

from datetime import UTC, datetime
from typing import Any

from storage.garbage import end_uploads


class Uploads:
    """An S3 client that lists unfinished uploads in two pages."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def call_s3(self, method: str, **options: Any) -> dict[str, Any]:
        assert method == "list_multipart_uploads"
        assert options["Prefix"] == "lake/"
        old, young = datetime.fromtimestamp(1, UTC), datetime.fromtimestamp(1e9, UTC)
        if "KeyMarker" in options:
            return {"Uploads": [{"Key": "lake/c", "UploadId": "3", "Initiated": old}]}
        uploads = [
            {"Key": "lake/a", "UploadId": "1", "Initiated": old},
            {"Key": "lake/b", "UploadId": "2", "Initiated": young},
        ]
        marks = {"IsTruncated": True, "NextKeyMarker": "b", "NextUploadIdMarker": "2"}
        return {"Uploads": uploads, **marks}

    def abort_mpu(self, space: str, key: str, upload: str) -> None:
        self.ended.append(f"{space}/{key}/{upload}")


def test_uploads_that_never_ended_are_ended() -> None:
    client = Uploads()
    options: dict[str, Any] = {"older_than_s": 1e6}
    assert end_uploads(client, "s3://b/lake", is_dry_run=True, **options) == 2
    assert client.ended == []
    assert end_uploads(client, "s3://b/lake", is_dry_run=False, **options) == 2
    assert client.ended == ["b/lake/a/1", "b/lake/c/3"]
