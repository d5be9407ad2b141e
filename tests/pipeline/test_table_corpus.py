"""The whole decode table as one corpus: the shard completes, and every input has its row."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.schema import DecodeConfig
from storage.lake import open_lake
from tasks.summary import RunSummary
from tests.core.conftest import MAKERS, VideoShelf
from tests.pipeline.test_decode_table import DAMAGED, EXACT, PARTS, REFUSED, TURNED
from video2lora_core.errors import Reason

Run = Callable[..., RunSummary]

SEGMENT_REASONS = {Reason.TRUNCATED, Reason.CORRUPT_FRAMES, Reason.COVERAGE_GAP}


@pytest.mark.slow
def test_a_corpus_of_every_input_of_the_table_completes(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / "table"
    directory.mkdir()
    shelf = VideoShelf(directory)
    manifest = tmp_path / "table.csv"
    with manifest.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri"])
        writer.writerows([str(shelf(name))] for name in MAKERS if name not in PARTS)
    summary = run(corpus=str(manifest), decode=DecodeConfig(workers=2))

    lake = open_lake(tmp_path / "lake")
    refused = lake.query(
        "select parse_filename(uri) n, reason from open_rejects where adapter_key is null"
    ).to_pylist()
    assert {row["n"]: row["reason"] for row in refused} == REFUSED
    assert summary.plan.num_sources == len(MAKERS) - len(PARTS)
    by_name = {
        row["n"]: row
        for row in lake.query(
            "select parse_filename(v.uri) n, c.num_adapters a, c.num_rejects r, c.missing_us m, "
            "list_distinct(list(o.reason)) reasons from raw.videos v "
            "join coverage c using (video_id) left join open_rejects o using (video_id) "
            "group by all"
        ).to_pylist()
    }
    assert {name: row["m"] for name, row in by_name.items() if row["m"]} == {}
    for name in [*EXACT, *TURNED]:
        if name in by_name:  # a second name of the same bytes has no row of its own
            assert (by_name[name]["r"], by_name[name]["a"] > 0) == (0, True), name
    for name in DAMAGED:
        found = {reason for reason in by_name[name]["reasons"] if reason}
        assert found, name
        assert found <= SEGMENT_REASONS, name
