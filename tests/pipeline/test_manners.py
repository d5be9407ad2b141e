"""The command line behaves as people and scripts expect: JSON logs, exit codes, completion."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flows.cli_app import EXIT_CODES, REJECTED, app
from flows.console import ProgressLine, make_console
from flows.logs import JsonFormatter
from flows.manners import LogFormat, Manners, behave, behaving
from flows.progress_shown import progress_shown
from tasks.progress import report
from tasks.render_corpus import render_corpus
from tasks.working_on import working_on

Call = Callable[..., tuple[int, str, str]]
SECRET_URL = "https://bucket/x.mp4?X-Amz-Signature=abcdef0123456789"


@pytest.fixture(autouse=True)
def own_manners() -> Iterator[None]:
    """What a call sets is global to its process: put it back."""
    levels = {name: logging.getLogger(name).level for name in ("flows", "tasks", "storage")}
    handlers = list(logging.getLogger().handlers)
    yield
    behave(Manners())
    logging.getLogger().handlers = handlers
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def without_children(folder: Path) -> Path:
    """A run config whose run starts no decoding child: each takes seconds to start."""
    path = folder / "run.yaml"
    path.write_text("decode: {workers: 0}\n", encoding="utf-8")
    return path


def test_rejects_are_no_failure_unless_a_script_asks(
    call: Call, corpus: Path, tmp_path: Path, model: str
) -> None:
    (corpus / "bad.mp4").write_bytes(b"no video")
    arguments = ("internalize", corpus, "--lake", tmp_path / "lake", "--model", model)
    arguments += ("--config", without_children(tmp_path))
    assert call(*arguments, "--fail-on-rejects", "--quiet")[0] == REJECTED
    assert call(*arguments)[0] == 0
    assert call(*arguments, "--fail-on-rejects")[0] == 0  # nothing was rejected this time


def test_the_exit_codes_are_documented_where_people_look(call: Call, root: Path) -> None:
    _, out, _ = call("--help")
    page = (root / "docs" / "watching.md").read_text(encoding="utf-8")
    for code in ("0", "1", "2", "3", "130", "143"):
        assert f" {code} " in EXIT_CODES
        assert f" {code} " in out
        assert f"| {code} |" in page


@pytest.fixture
def root() -> Path:
    return Path(__file__).parents[2]


def test_global_options_stand_before_or_after_the_command(call: Call, tmp_path: Path) -> None:
    nowhere = tmp_path / "nolake"
    for arguments in (
        ("--log-format", "json", "sql", "select 1", "--lake", nowhere),
        ("sql", "select 1", "--lake", nowhere, "--log-format", "json"),
        ("sql", "select 1", "--log-format=json", "--lake", nowhere),
    ):
        code, out, err = call(*arguments)
        line = json.loads(err)
        assert code == 1
        assert out == ""
        assert line["level"] == "ERROR"
        assert "no lake here" in line["message"]
        assert line["exit_code"] == "1"
    assert call("sql", "--", "--quiet", "--lake")[0] == 2  # what follows -- is no option


def test_an_option_of_the_command_itself_stays_its_own(call: Call, tmp_path: Path) -> None:
    code, _, err = call("ask", "x.mp4", "What?", "--lake", tmp_path / "no", "--verbose")
    assert code == 1
    assert "no lake here" in err


def test_a_log_line_is_one_json_object_without_secrets() -> None:
    record = logging.LogRecord("tasks.x", logging.INFO, __file__, 1, "got %s", (SECRET_URL,), None)
    with working_on(run_id="abc", shard=3):
        line = json.loads(JsonFormatter().format(record))
    assert set(line) == {"time", "level", "logger", "message", "run_id", "shard"}
    assert (line["run_id"], line["shard"]) == ("abc", 3)
    assert line["message"] == "got https://bucket/x.mp4"
    try:
        raise OSError(SECRET_URL)
    except OSError:
        record.exc_info = sys.exc_info()
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert "abcdef0123456789" not in text
    assert "OSError" in json.loads(text)["traceback"]
    assert "run_id" not in json.loads(text)


def test_a_run_logs_json_lines_that_name_run_and_shard(
    call: Call, corpus: Path, tmp_path: Path, model: str
) -> None:
    options = ("--lake", tmp_path / "lake", "--model", model, "--json", "--log-format", "json")
    options += ("--config", without_children(tmp_path))
    code, out, err = call("internalize", corpus, *options)
    lines = [json.loads(line) for line in err.splitlines()]
    run_id = json.loads(out)["plan"]["run_id"]
    assert code == 0
    told = [line for line in lines if line["logger"] == "tasks.internalize_units"]
    assert [(line["run_id"], line["shard"]) for line in told] == [(run_id, 0)]


def test_progress_is_silent_or_a_log_record_where_asked(
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("flows.progress_shown.PIPE_PAUSE_S", 0.0)
    # Commands that other tests called in this process have left theirs.
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])

    def show(**manners: object) -> ProgressLine:
        line = ProgressLine()
        with behaving(Manners(**manners)), progress_shown(make_console(is_error=True), line):
            report("videos_planned", 2)
            report("videos")
        return line

    assert show(is_quiet=True).done_text() == "1 of 2 videos, 0 segments internalized"
    assert capsys.readouterr().err == ""
    show()
    assert "internalizing: 1 of 2 videos" in capsys.readouterr().err
    with caplog.at_level(logging.INFO):
        show(log_format=LogFormat.JSON)
    assert "internalizing: 1 of 2 videos, 0 segments" in caplog.messages[-1]
    assert capsys.readouterr().err == ""


def test_progress_tells_of_the_work_that_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.progress_shown.PIPE_PAUSE_S", 0.0)
    with progress_shown(make_console(is_error=True), ProgressLine()):
        report("videos_planned", 2)
        report("videos", 2)
        report("questions_planned", 5)
        report("questions", 3)
    said = capsys.readouterr().err.splitlines()
    assert said[1].startswith("internalizing: 2 of 2 videos")
    assert said[-1] == "answering: 3 of 5 questions"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(
    call: Call, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which shell it is is otherwise read from the process's ancestors.
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    code, out, _ = call("--show-completion")
    assert code == 0
    assert "video2lora" in out


def test_completion_knows_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"_VIDEO2LORA_COMPLETE": "complete_bash", "COMP_WORDS": "video2lora sta"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['video2lora']; from flows.cli import main;main()",
        ],
        env={**os.environ, **environment, "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["status"]


def test_every_command_that_tells_something_can_tell_it_as_json() -> None:
    for command in app.registered_commands:
        name = command.callback.__name__ if command.callback else ""
        if name in {"demo", "train", "worker", "bench", "reconcile", "deploy"}:
            continue
        assert "as_json" in command.callback.__code__.co_varnames, name


@pytest.mark.slow
def test_prefect_logs_json_through_our_settings(root: Path) -> None:
    code = (
        "import logging; from prefect.logging.configuration import setup_logging; setup_logging();"
        f"logging.getLogger('prefect.flow_runs').warning('at {SECRET_URL}')"
    )
    settings = {
        "PREFECT_LOGGING_SETTINGS_PATH": str(root / "configs" / "prefect-logging-json.yaml"),
        "PREFECT_LOGGING_TO_API_ENABLED": "false",
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    line = json.loads(done.stderr.splitlines()[-1])
    assert (line["logger"], line["message"]) == ("prefect.flow_runs", "at https://bucket/x.mp4")


@pytest.mark.slow
def test_ctrl_c_says_what_is_done_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A real SIGINT to the whole foreground group, in the middle of a shard."""
    render_corpus(tmp_path / "videos", seed=5, num_scenes=[2] * 12)
    arguments = ["internalize", str(tmp_path / "videos"), "--lake", str(tmp_path / "lake")]
    config = tmp_path / "run.yaml"
    config.write_text("unit_segments: 2\nbatch_segments: 2\ndecode: {workers: 1}\n")
    # A shell that starts its tests in the background has them ignore Ctrl-C.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeding}; import sys; sys.argv[0] = 'video2lora'; from flows.cli import main; main()"
    command = [sys.executable, "-c", code, *arguments, "--config", str(config)]
    stopped = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )
    adapters = tmp_path / "lake" / "adapters"
    deadline = time.monotonic() + 300
    while len(list(adapters.rglob("*.safetensors"))) < 4:
        assert time.monotonic() < deadline
        assert stopped.poll() is None, stopped.communicate()
        time.sleep(0.05)
    os.killpg(stopped.pid, signal.SIGINT)
    out, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, err
    assert out == ""
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: interrupted: ")
    assert "of 12 videos" in last
    assert "the same command" in last
    assert "Traceback" not in err
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    shards = json.loads(done.stdout)["shards"]
    assert 0 < shards["num_segments"] <= 24 - 2
