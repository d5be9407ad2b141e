"""The shipped evaluation of the embedded default, reduced: real answers, computed verdicts."""

import json
from pathlib import Path

import pytest
import yaml

from storage.lake import open_lake
from tests.pipeline.conftest import Call

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_shipped_config_reduced_finds_adapters_as_good_as_context(
    tmp_path: Path, call: Call
) -> None:
    config = yaml.safe_load((ROOT / "configs/evaluate/tiny.yaml").read_text(encoding="utf-8"))
    config["exam"] |= {"directory": str(tmp_path / "videos"), "videos_by_scenes": {1: 12, 2: 1}}
    config["cost"] |= {"num_frames": [8, 16], "repeats": 1, "num_videos": 1}
    config["composition"] |= {"num_segments": [1, 2], "num_videos": 1}
    config["ranks"] |= {"num_ranks": [2], "num_videos": 1}
    config["sweep"] |= {"num_frames": [8], "longest_edge_px": [48], "num_videos": 1}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    lake, out = tmp_path / "lake", tmp_path / "report.html"
    given = ("evaluate", "--config", path, "--lake", lake, "--out", out)
    code, printed, errors = call(*given, "--json")
    assert code == 0, errors
    summary = json.loads(printed)
    assert summary["report"] == str(out)
    assert "equivalent" in summary["verdicts"][0]
    rows = open_lake(lake).query("select * from evaluations where question_type is null")
    f1 = {
        row["condition"]: row["value"]
        for row in rows.to_pylist()
        if row["metric"] == "token_f1" and '"comparison"' in row["detail"] and not row["baseline"]
    }
    assert f1["adapter"] > 0.9
    assert max(f1["blind"], f1["another video's adapter"]) < 0.6
    assert f1["in-context"] == pytest.approx(f1["in-context-kv-cache"], abs=0.02)
    code, printed, _ = call(*given, "--json")
    assert json.loads(printed)["num_rows"] == 0
