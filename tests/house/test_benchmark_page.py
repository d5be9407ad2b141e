"""The measured part of docs/benchmarks.md comes from JSON alone, and leaves the rest as it is."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import _page_pictures, _page_tables, page

HERE = {
    "torch": "2",
    "num_cores": 2,
    "load_average": [0.5, 0.0, 0.0],
    "device": "cpu",
    "cpu": "a processor",
    "measured_at": "2026-01-02T03:04:05+00:00",
    "versions": {"av": "18.0"},
}
VERDICT = {"what": "speed", "found": 2.5, "bar": 3.0, "is_upper": False, "detail": "2 - 3"}
LINE = {
    "room": "a lake",
    "subject": "a query",
    "slow": "views",
    "fast": "one file",
    "ratios": [2.0, 3.0, 2.5],
    "median_ratio": 2.5,
    "fast_s": 2.0,
}
ROUND = {size: {"cpu_s": 3 + 0.05 * int(size), "wall_s": 1, "peak_mib": 9} for size in ("2", "10")}
READ = {"read_bytes": 2000, "written_bytes": 0, "reads": 7, "writes": 0}
MEASURED: dict[str, dict[str, Any]] = {
    "stages": {
        "model": "tiny",
        "shape": {"num_tokens": 47, "dtype": "float32"},
        "stages": {
            "probe": {"ours": [0.001]},
            "vision": {"naive": [4.0, 6.0], "ours": [2.0, 4.0]},
            "answer": {"naive": [90.0], "ours": [1.0]},
        },
        "throughput": {
            "rows": [
                {
                    "batch_segments": 8,
                    "way": "graph",
                    "segments_per_s": 12.0,
                    "tflop_per_s": 50.0,
                    "share_of_matmul": 0.5,
                }
            ]
        },
    },
    "catalog": {
        "lines": [LINE],
        "counts": {"small": {"8 rows": {"questions": {"a query": {"a": READ, "b": READ}}}}},
        "verdicts": [VERDICT | {"is_met": False}],
    },
    "compiled": {
        "lines": [LINE],
        "compiled": {
            "one": {"compile_cpu_s": 70.0, "deviation": 1e-6, "batches_until_paid": 3000.4},
            "two": {"failed": "RuntimeError: no"},
        },
    },
    "recompression": {"errors": {"8 adapters": {"full SVD": 0.25, "QR": 0.25, "sketch": 0.26}}},
    "workers": {
        "rounds": {way: [{"wall_s": 2.0, "cpu_s": 2.0}] for way in ("one", "two", "apart")},
        "gains": {"two": [1.7], "apart": [1.9]},
    },
    "corpus_size": {"rounds": [ROUND, ROUND]},
    "first_token": {
        "first_token": [
            {"way": way, "num_frames": count, "seconds": [0.1 * count]}
            for way in ("adapter", "in context")
            for count in (12, 64)
        ]
    },
    "something_new": {
        "lines": [LINE],
        "outcomes": [
            {"subject": "s", "part": "p", "deviation": 1e-7, "ratios": [5.0, 6.0]},
            {"subject": "frames", "part": "p", "ratios": [2.0]},
        ],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    measured = tmp_path / "measured"
    measured.mkdir()
    for name, each in MEASURED.items():
        (measured / f"{name}.json").write_text(json.dumps(HERE | each))
    return measured


@pytest.fixture
def written(folder: Path, tmp_path: Path) -> str:
    path = tmp_path / "benchmarks.md"
    path.write_text(f"by hand\n{page.BEGIN}\nold\n{page.END}\nalso by hand\n")
    page.main([str(folder), "--page", str(path)])
    return path.read_text()


def test_only_what_stands_between_the_markers_changes(written: str) -> None:
    assert written.startswith(f"by hand\n{page.BEGIN}\n")
    assert written.endswith(f"\n{page.END}\nalso by hand\n")
    assert "old" not in written


@pytest.mark.parametrize(
    "row",
    [
        "Measured 2026-01-02. a processor, 2 cores; device cpu;",
        "| catalog | speed | 2.5 | at least 3 | **no** | 2 - 3 |",
        "| vision | 5,000 | 3,000 | 1.75x | 1.5 - 2 |",
        "| 8 | graph | 12 | 50 | 50% |",
        "| a lake | a query | views over one file | 2.5x | 2 - 3 | 3 | 2,000 |",
        "| 8 rows | a query | 2 kB, 7 reads | 2 kB, 7 reads |",
        "| one | 70 s | 1e-06 | 3,000 |",
        "| two | RuntimeError: no |",
        "| 8 adapters | 0.2500 | 0.2500 | 0.2600 |",
        "| two workers, one lake | 2.0 | 2.0 | 1.7x | 1.7 - 1.7 |",
        "| 10 | 3.5 | 1.0 | 9 |",
        "| something_new | s | p | 1e-07 | 5.5x | 5 - 6 | 2 |",
        "| something_new | frames | p |  | 2x | 2 - 2 | 1 |",
    ],
)
def test_every_kind_of_figure_becomes_a_row(written: str, row: str) -> None:
    assert row in written


def test_every_picture_that_the_page_shows_was_drawn(written: str, tmp_path: Path) -> None:
    shown = re.findall(r"\]\((pictures/[a-z_]+\.svg)\)", written)
    assert sorted(shown) == [f"pictures/{name}.svg" for name in sorted(_page_pictures.PICTURES)]
    assert all((tmp_path / name).read_text().startswith("<svg") for name in shown)


def test_the_picture_of_a_segment_leaves_questions_out_and_sums_up_what_nobody_sees() -> None:
    stages = MEASURED["stages"]["stages"] | {"head": {"naive": [1.0], "ours": [1.0]}}
    shown = _page_pictures.shown_stages(stages)
    assert list(shown) == ["vision", "head", _page_pictures.REST]
    assert shown["vision"] == {"naive": 5.0, "ours": 3.0}
    assert shown[_page_pictures.REST] == {"naive": 0.0, "ours": 0.001}


def test_more_load_than_cores_is_said_aloud() -> None:
    quiet = {"one": HERE, "two": HERE | {"load_average_at_end": [1.9, 0.0, 0.0]}}
    assert "read ratios only" not in page.machine_line(quiet)
    busy = quiet | {"three": HERE | {"load_average": [2.6, 0.0, 0.0]}}
    assert "Load average 0.5 to 2.6" in page.machine_line(busy)
    assert "read ratios only" in page.machine_line(busy)


def test_quick_runs_never_reach_the_page(tmp_path: Path) -> None:
    (tmp_path / "stages.json").write_text(json.dumps({"is_quick": True}))
    with pytest.raises(SystemExit, match="quick runs: stages"):
        page.read_measured(tmp_path)


def test_a_page_without_markers_is_left_alone(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.md"
    path.write_text("no markers")
    with pytest.raises(SystemExit, match="lacks the markers"):
        page.main([str(folder), "--page", str(path)])
    assert path.read_text() == "no markers"


def test_tables_without_rows_are_not_there() -> None:
    assert _page_tables.table(["a"], []) == []
    assert _page_tables.worker_lines(HERE) == _page_tables.size_lines(HERE) == []
    assert _page_tables.catalog_lines(HERE) == _page_tables.compiled_lines(HERE) == []
