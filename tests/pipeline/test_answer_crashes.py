"""Two workers answer one question set, killed again and again: nothing is lost or doubled."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from configs.schema import InternalizeConfig
from flows.internalize_corpus import internalize_corpus
from flows.local_engine import LocalEngine
from storage.lake import open_lake
from tests.pipeline.answer_sets import answer_config, ask_set, check_exactly_once, write_set

ROOT = Path(__file__).parents[2]
NUM_QUESTIONS = 60
NUM_KILLS = 4
# What a worker announces right before it; a kill comes within some milliseconds after.
MOMENTS = ("ask ", "append answers", "append rejects", "append runs")

pytestmark = pytest.mark.slow


class Worker:
    """A process that answers the set, started anew when it was killed."""

    def __init__(self, config_json: str, errors: Path) -> None:
        self._command = [sys.executable, "-m", "tests.pipeline.answer_worker", config_json]
        self._errors = errors
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        with self._errors.open("ab") as stderr:
            self.process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        return self.process

    def is_killed_at(self, moment: str, number: int) -> bool:
        """Kill it at the so-manieth announcement of a moment; False where it ended before."""
        assert self.process.stdout is not None
        with self.process.stdout as announced:
            for line in announced:
                number -= line.startswith(moment)
                if number <= 0:
                    self.process.kill()
                    self.process.wait()
                    return True
        self.process.wait()
        return False


def test_two_workers_killed_in_mid_answering_answer_each_question_once(
    tmp_path: Path, shelf: Path, model: str
) -> None:
    lake = str(tmp_path / "lake")
    made = InternalizeConfig(corpus=str(shelf), lake=lake, model=model, decode={"workers": 0})
    internalize_corpus(made, LocalEngine())
    rows = [
        {"video": ("long.mp4", "short.mp4", "none.mp4")[n % 3], "question": f"What of {n}?"}
        for n in range(NUM_QUESTIONS)
    ]
    questions = write_set(tmp_path / "questions.jsonl", rows)
    small = {"unit_questions": 6, "shard_units": 5, "strategy": "compose"}
    config_json = answer_config(questions, lake, model, **small).model_dump_json()
    workers = [Worker(config_json, tmp_path / f"stderr{n}") for n in range(2)]
    rng = random.Random(5)
    kills = []
    try:
        for number in range(NUM_KILLS):
            worker, moment = workers[number % 2], MOMENTS[number % len(MOMENTS)]
            if worker.is_killed_at(moment, rng.randint(1, 3)):
                kills.append(moment)
            worker.start()
        ends = [worker.process.communicate()[0].splitlines()[-1] for worker in workers]
    finally:
        for worker in workers:
            worker.process.kill()
    assert ends == ["end", "end"], [(tmp_path / f"stderr{n}").read_text()[-800:] for n in (0, 1)]
    assert len(kills) >= NUM_KILLS - 1
    opened = open_lake(lake)
    check_exactly_once(opened, num_questions=NUM_QUESTIONS)
    found = opened.query("select count(*) n, count(distinct run_id) r from raw.answers").to_pylist()
    assert found == [{"n": NUM_QUESTIONS * 2 // 3, "r": 1}]
    closed = opened.query("select count(*) n, count(distinct (shard, unit)) u from raw.runs "
                          "where event = 'answered'").to_pylist()  # fmt: skip
    assert closed == [{"n": NUM_QUESTIONS // 6, "u": NUM_QUESTIONS // 6}]
    # The answers are those of a run that nobody disturbed.
    other = ask_set(questions, lake, model, again=True, strategy="compose", unit_questions=128)
    rows_of = "select question_id, answer from raw.answers where run_id {} '{}' order by 1"
    both = [
        opened.query(rows_of.format(sign, other.plan.run_id)).to_pylist() for sign in ("=", "<>")
    ]
    assert both[0] == both[1]
    assert len(both[0]) == NUM_QUESTIONS * 2 // 3
