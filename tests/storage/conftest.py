"""A lake in a temporary directory, and rows to put into it."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from storage.identity import adapter_key, sha256_hex
from storage.lake import Lake, open_lake

SEGMENT_US = 30_000_000


class Rows:
    """Makes rows that fit the catalog."""

    recipe_id = "recipe-1"

    def video_id(self, name: str) -> str:
        return sha256_hex(name.encode())

    def adapter(
        self, lake: Lake, video: str, position: int, *, content: str = ""
    ) -> dict[str, Any]:
        start_us = position * SEGMENT_US
        video_id = self.video_id(video)
        data = f"{video}/{position}/{content}".encode()
        return {
            "adapter_key": adapter_key(self.recipe_id, video_id, start_us, start_us + SEGMENT_US),
            "adapter_sha256": lake.adapters.put(data),
            "video_id": video_id,
            "start_us": start_us,
            "end_us": start_us + SEGMENT_US,
            "frame_times_us": [start_us + 1, start_us + 2],
            "prompt": "Describe the video.",
            "model_name": "tiny",
            "model_weights_sha256": "w" * 64,
            "checkpoint_sha256": "c" * 64,
            "code_version": "0.1.0",
            "rank": 16,
            "layers": [0, 1],
            "modules": ["down_proj"],
            "scaling": 1.0,
            "dtype": "bfloat16",
            "size_bytes": len(data),
            "device_s": 0.5,
        }

    def segment(self, adapter: dict[str, Any], *, reason: str | None = None) -> dict[str, Any]:
        names = ("adapter_key", "video_id", "start_us", "end_us")
        outcome = "adapter" if reason is None else "reject"
        is_done = reason != "ADAPTER_MISSING"
        kept = {name: adapter[name] for name in names}
        return {**kept, "outcome": outcome, "is_done": is_done, "reason": reason, "decode_s": 0.25}

    def reject(self, adapter: dict[str, Any], *, reason: str = "TRUNCATED") -> dict[str, Any]:
        names = ("adapter_key", "video_id", "start_us", "end_us")
        kept = {name: adapter[name] for name in names}
        is_terminal = reason != "ADAPTER_MISSING"
        return {**kept, "reason": reason, "attempt": 1, "is_terminal": is_terminal}

    def source(self, uri: str, video: str | None, token: str = "1") -> dict[str, Any]:
        return {
            "source_id": sha256_hex(uri.encode()),
            "uri": uri,
            "size_bytes": 10,
            "version_token": token,
            "video_id": None if video is None else self.video_id(video),
        }

    def video(self, uri: str, video: str, *, num_segments: int = 2) -> dict[str, Any]:
        lengths = {"duration_us": num_segments * SEGMENT_US, "num_segments": num_segments}
        return {**self.source(uri, video), **lengths}

    def composition(self, adapters: Sequence[dict[str, Any]]) -> dict[str, Any]:
        parents = [row["adapter_sha256"] for row in adapters]
        return {
            "composition_id": sha256_hex("".join(parents).encode()),
            "video_id": adapters[0]["video_id"],
            "parents": parents,
            "coefficients": [1.0] * len(parents),
            "method": "concat",
            "rank": 16 * len(parents),
            "num_segments": len(parents),
            "relative_error": 0.0,
            "checkpoint_sha256": "c" * 64,
        }

    def unit(self, adapters: Sequence[dict[str, Any]], **tables: Any) -> dict[str, Any]:
        """Return a unit whose later tables follow from the adapters that are committed."""

        def segments(committed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            keys = {row["adapter_key"] for row in committed}
            return [
                self.segment(row, reason=None if row["adapter_key"] in keys else "ADAPTER_MISSING")
                for row in adapters
            ]

        def rejects(committed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            keys = {row["adapter_key"] for row in committed}
            missing = [row for row in adapters if row["adapter_key"] not in keys]
            return [self.reject(row, reason="ADAPTER_MISSING") for row in missing]

        def compositions(committed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
            return [self.composition(committed)] if committed else []

        later = {"segments": segments, "rejects": rejects, "compositions": compositions}
        return {"adapters": list(adapters), **later, **tables}

    def common(self, **columns: Any) -> dict[str, Any]:
        return {"recipe_id": self.recipe_id, "attempt_id": "a", "worker": "w", **columns}


@pytest.fixture(scope="session")
def rows() -> Rows:
    return Rows()


@pytest.fixture(scope="session")
def empty_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a lake that nobody writes to: copying it is faster than making ten tables."""
    root = tmp_path_factory.mktemp("empty") / "lake"
    open_lake(root, create=True)
    return root


@pytest.fixture
def lake(tmp_path: Path, empty_lake: Path) -> Lake:
    return open_lake(shutil.copytree(empty_lake, tmp_path / "lake"))


@pytest.fixture(scope="session")
def commit(rows: Rows) -> Callable[..., str]:
    """Commit one unit of run "run", shard 0."""

    def commit_unit(
        lake: Lake, adapters: Sequence[dict[str, Any]], *, unit: int = 0, **options: Any
    ) -> str:
        place = {"run_id": options.pop("run_id", "run"), "shard": 0, "unit": unit}
        common = rows.common(**options.pop("common", {}))
        return lake.commit_unit(**place, rows=rows.unit(adapters, **options), common=common)

    return commit_unit
