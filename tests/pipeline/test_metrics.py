"""Metrics are served while a run goes on, on the loopback interface, and agree with its summary."""

import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.measures import count, level
from tasks.metrics_server import PrometheusSink, serving_metrics
from tests.pipeline.conftest import Run
from tests.s3.servers import free_port
from video2lora_core.errors import UsageError

Call = Callable[..., tuple[int, str, str]]


def scraped(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if not line.startswith("#")
    }


def test_a_run_is_counted_as_it_sums_itself_up(run: Run, corpus: Path) -> None:
    (corpus / "bad.mp4").write_bytes(b"no video")
    port = free_port()
    with serving_metrics(port):
        assert scraped(port)["video2lora_segments_total"] == 0
        done = run(unit_segments=2)
        found = scraped(port)
    assert found["video2lora_segments_total"] == done.shards.num_segments == 5
    assert found["video2lora_videos_total"] == 3
    assert found['video2lora_rejects_total{reason="NOT_MEDIA"}'] == 1
    assert found["video2lora_units_total"] == 3
    assert found["video2lora_adapter_bytes_total"] > 1000
    assert found['video2lora_queue_segments{queue="frames"}'] == 0
    assert found['video2lora_queue_segments{queue="adapters"}'] == 0
    for stage in ("decode", "device", "store", "commit"):
        assert found[f'video2lora_seconds_total{{stage="{stage}"}}'] == pytest.approx(
            done.shards.seconds[stage]
        )
    with pytest.raises(urllib.error.URLError):
        scraped(port)


def test_queues_are_seen_while_they_are_full() -> None:
    port = free_port()
    with serving_metrics(port):
        level("queue", 7, label="frames")
        assert scraped(port)['video2lora_queue_segments{queue="frames"}'] == 7
    count("segments")  # nobody listens any more
    level("queue", 1, label="frames")


def test_only_this_machine_can_ask_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    import prometheus_client

    def refuse(port: int, *, addr: str, registry: object) -> None:
        asked.append(addr)
        raise OSError("address already in use")

    monkeypatch.setattr(prometheus_client, "start_http_server", refuse)
    said = r"cannot listen at 127\.0\.0\.1:9.* give another"
    with pytest.raises(UsageError, match=said), serving_metrics(9):
        pass
    assert asked == ["127.0.0.1"]


def test_without_the_extra_one_line_says_what_to_install(
    call: Call, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    code, _, err = call("internalize", corpus, "--lake", tmp_path / "l", "--metrics-port", 9)
    assert code == 1
    assert "pip install 'video2lora[metrics]'" in err
    assert not (tmp_path / "l").exists()


def test_the_sink_knows_every_counter() -> None:
    from typing import get_args

    from prometheus_client import CollectorRegistry

    from tasks.measures import Counter

    sink = PrometheusSink(CollectorRegistry())
    for name in get_args(Counter):
        sink.add(name, 1, "x")
