"""Runs as they are operated: a real Prefect server, deployments, workers that are killed."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.device_workers import CONTROL_POOL, DEVICE_POOL, descendants
from storage.errors import StorageError
from storage.lake import find_lake
from tests.core.video_factory import FPS, write_video
from tests.pipeline.prefect_servers import ROOT, Server, prefect_server, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.prefect]

SEGMENT_S = 4
NUM_SHARDS, SHARD_VIDEOS = 6, 8
# A stuck run is one that has written nothing for so long; the first row of a slow machine takes it.
STUCK_S = 20
WAIT_S = 900


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prefect_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def write_corpus(folder: Path, num_videos: int, *, seconds: int = SEGMENT_S) -> Path:
    """Write videos of one segment each, no two alike."""
    folder.mkdir()
    for i in range(num_videos):
        first = i * seconds * FPS
        numbers = range(first, first + seconds * FPS)
        write_video(folder / f"video-{i:03d}.mp4", numbers=numbers)
    return folder


def write_questions(path: Path, videos: Path) -> int:
    """Ask a question of every video."""
    lines = [
        json.dumps({"question_id": video.stem, "video": str(video), "question": "What moves?"})
        for video in sorted(videos.iterdir())
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def deployments(folder: Path, *, cron: str) -> Path:
    """Copy prefect.yaml with a schedule that fires soon and shards that are small."""
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    small = f"shards: deployment\n        shard_videos: {SHARD_VIDEOS}\n        unit_segments: 1"
    text = text.replace('cron: "0 * * * *", timezone: UTC, slug: hourly, active: false', cron)
    text = text.replace("shards: deployment", small)
    path = folder / "prefect.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def ask(lake: Path, sql: str) -> list[dict[str, Any]]:
    """Query a lake that others write to; nothing while it is being made."""
    try:
        found = find_lake(lake)
        return found.query(sql).to_pylist() if found else []
    except StorageError:
        return []


def shards_closed(lake: Path) -> int:
    return len(ask(lake, "select distinct shard from runs where event = 'shard'"))


def ended(server: Server, deployment: str) -> list[str]:
    """List how the runs of a deployment ended."""
    return [
        run["state_type"]
        for run in server.flow_runs(deployment)
        if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED")
    ]


def shard_at_work(lake: Path) -> tuple[int, int] | None:
    """Stop a process in the middle of a shard: something is committed, something is left."""
    for shard, pid in _open_shards(lake):
        if not psutil.pid_exists(pid):
            continue
        os.killpg(os.getpgid(pid), signal.SIGSTOP)
        # Looked at once more: a query takes about as long as the units of a shard.
        if (shard, pid) in _open_shards(lake):
            return shard, pid
        os.killpg(os.getpgid(pid), signal.SIGCONT)
    return None


def _open_shards(lake: Path) -> list[tuple[int, int]]:
    """List shards with some of their units closed, and the processes that closed them."""
    rows = ask(
        lake,
        "select shard, arg_max(worker, created_at) as worker, count(*) as num from runs "
        "where event = 'unit' and shard not in "
        "(select shard from runs where event = 'shard') group by shard "
        f"having num < {SHARD_VIDEOS}",
    )
    return [(row["shard"], int(row["worker"].rpartition(":")[2])) for row in rows]


def test_a_scheduled_run_outlives_a_killed_worker_and_its_event_starts_the_answers(
    server: Server, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    videos = write_corpus(tmp_path / "videos", NUM_SHARDS * SHARD_VIDEOS)
    num_questions = write_questions(tmp_path / "questions.jsonl", videos)
    every_minute = 'cron: "* * * * *", timezone: UTC, slug: hourly, active: true'
    server.video2lora(
        *("deploy", "--lake", str(lake), "--corpus", str(videos)),
        *("--questions", str(tmp_path / "questions.jsonl")),
        *("--file", str(deployments(tmp_path, cron=every_minute))),
    )
    server.pause("reconcile")  # it is started below, at the moment that the test needs
    with ExitStack() as stack:
        stack.enter_context(server.worker("control", CONTROL_POOL, limit=3))
        devices = [stack.enter_context(server.worker(f"device-{i}", DEVICE_POOL)) for i in range(2)]
        shard, pid = wait_for("a shard at work", lambda: shard_at_work(lake), seconds=WAIT_S)
        server.pause("internalize")  # it has fired
        killed = next(worker for worker in devices if pid in descendants([worker.pid]))
        os.kill(killed.pid, signal.SIGKILL)
        os.killpg(os.getpgid(pid), signal.SIGKILL)
        assert shards_closed(lake) < NUM_SHARDS
        wait_for("the others", lambda: shards_closed(lake) == NUM_SHARDS - 1, seconds=WAIT_S)
        assert not ask(lake, f"from runs where event = 'shard' and shard = {shard}")

        def reconciled() -> bool:
            server.start_run("reconcile", {"lake": str(lake), "stuck_after_s": STUCK_S})
            before = len(ended(server, "reconcile"))
            wait_for("reconcile", lambda: len(ended(server, "reconcile")) > before, seconds=WAIT_S)
            return len(server.flow_runs("shard")) > NUM_SHARDS

        wait_for("the shard's second attempt", reconciled, seconds=WAIT_S)
        wait_for("the run's end", lambda: ended(server, "internalize"), seconds=WAIT_S)
        wait_for("the answers", lambda: ended(server, "answer"), seconds=WAIT_S)
    assert ended(server, "internalize")[0] == "COMPLETED"
    assert ended(server, "answer") == ["COMPLETED"]
    check_lake(lake, num_questions=num_questions)
    # Both workers did shards, and the killed one's run is not shown as running any more.
    states = [run["state_type"] for run in server.flow_runs("shard")]
    assert sorted(states) == [*["COMPLETED"] * NUM_SHARDS, "CRASHED"]


def check_lake(lake: Path, *, num_questions: int) -> None:
    """Every video has its adapter, every shard one last row, every question one answer."""
    num_videos = NUM_SHARDS * SHARD_VIDEOS
    [adapters] = ask(lake, "select count(*) n, count(distinct adapter_key) k from adapters")
    assert adapters == {"n": num_videos, "k": num_videos}
    [answers] = ask(lake, "select count(*) n, count(distinct question_id) k from answers")
    assert answers == {"n": num_questions, "k": num_questions}
    closed = ask(lake, "select shard, detail from runs where event = 'shard'")
    assert sorted(row["shard"] for row in closed) == list(range(NUM_SHARDS))
    assert {json.loads(row["detail"])["num_model_loads"] for row in closed} == {1}
    published = ask(lake, "select run_id from runs where event = 'published' and num_adapters > 0")
    assert len(published) == 1


NUM_FLAT = 20


def test_workers_and_server_stay_as_small_as_they_are_over_twenty_shards(
    server: Server, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    videos = write_corpus(tmp_path / "videos", NUM_FLAT)
    server.video2lora("deploy", "--lake", str(lake), "--corpus", str(videos))
    config = {
        "corpus": str(videos),
        "lake": str(lake),
        "engine": "prefect",
        "shards": "deployment",
        "shard_videos": 1,
        "decode": {"workers": 0},
    }
    with ExitStack() as stack:
        stack.enter_context(server.worker("control-2", CONTROL_POOL, limit=2))
        devices = [stack.enter_context(server.worker(f"device-{i}", DEVICE_POOL)) for i in (2, 3)]
        server.start_run("internalize", {"config": config})
        watched = [*devices, server]
        wait_for("six shards", lambda: shards_closed(lake) >= 6, seconds=WAIT_S)
        early = [resident_bytes(each) for each in watched]
        wait_for("all shards", lambda: shards_closed(lake) == NUM_FLAT, seconds=2 * WAIT_S)
        late = [resident_bytes(each) for each in watched]
    details = ask(lake, "select detail from runs where event = 'shard'")
    assert [json.loads(row["detail"])["num_model_loads"] for row in details] == [1] * NUM_FLAT
    # 14 shards later. What a worker kept of a shard would show 14 times.
    grown = [after - before for before, after in zip(early, late, strict=True)]
    assert max(grown) < 24 * 1024**2, [f"{each / 1e6:.1f} MB" for each in grown]


def resident_bytes(process: "subprocess.Popen[bytes] | Server") -> int:
    """Return what a worker holds itself, or a server with all its processes."""
    if isinstance(process, Server):
        pid = process.process.pid
        found = [psutil.Process(each) for each in [pid, *descendants([pid])]]
    else:
        found = [psutil.Process(process.pid)]  # what it started are the flow runs
    return sum(int(each.memory_info().rss) for each in found)


def test_a_worker_that_is_told_to_end_ends_its_shard_which_commits_what_is_complete(
    server: Server, tmp_path: Path
) -> None:
    lake = tmp_path / "lake"
    videos = write_corpus(tmp_path / "videos", 160)
    server.video2lora("deploy", "--lake", str(lake), "--corpus", str(videos))
    config = {"corpus": str(videos), "lake": str(lake), "engine": "prefect", "unit_segments": 2}
    command = [sys.executable, "-m", "flows.cli", "worker", "--devices", "cpu", "--grace", "60"]
    with server.process_of("supervisor", [*command, "--pool", CONTROL_POOL]) as supervisor:
        server.start_run("internalize", {"config": {**config, "shards": "here"}})
        units = "select unit, worker from runs where event = 'unit' order by unit"
        rows = wait_for("two units", lambda: ask(lake, units)[1:], seconds=WAIT_S)
        flow = psutil.Process(int(rows[0]["worker"].rpartition(":")[2]))
        supervisor.send_signal(signal.SIGTERM)
        assert supervisor.wait(timeout=90) == 0
        assert not flow.is_running()
    committed = ask(lake, units)
    assert 2 <= len(committed) < 80
    [state] = [run["state_type"] for run in server.flow_runs("internalize")[-1:]]
    assert state in ("CRASHED", "FAILED")
    done = "select count(distinct adapter_key) as num from adapters"
    server.video2lora("internalize", str(videos), "--lake", str(lake), "--engine", "local")
    assert ask(lake, done) == [{"num": 160}]
