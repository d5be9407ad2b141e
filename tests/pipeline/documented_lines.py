"""The shell lines of README.md and docs/, and a table of those that cannot run in a test."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
UNVERIFIED: Final = "docs/unverified.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Excuse:
    """Lines that are not run here, and the file that runs the same, or says what it would need."""

    pattern: str
    """A regular expression; a line that it finds a place in is excused."""
    file: str
    """A test, which must exist; or docs/unverified.md."""
    says: str
    """A piece of that file which shows that it is about this command."""


def excuse(pattern: str, file: str, says: str) -> Excuse:
    return Excuse(pattern=pattern, file=file, says=says)


PIPELINE: Final = "tests/pipeline"
DOCUMENTS: Final = "tests/house/test_documents.py"
SERVERS: Final = f"{PIPELINE}/prefect_servers.py"
DEPLOYMENTS: Final = f"{PIPELINE}/test_deployments.py"
DEPLOY_FILES: Final = f"{PIPELINE}/test_deploy_files.py"
EXCUSES: Final = (
    # What make and the shell do.
    excuse(r"^make (test|bench)\b", DOCUMENTS, "test_every_make_target_that_is_named_exists"),
    excuse(r"^\. \.venv/bin/activate$", "Makefile", "-m venv"),
    # A server, workers, deployments: processes of their own, in the slow tests of deployments.
    excuse(r"^export PREFECT_API_URL=http://127", SERVERS, "PREFECT_API_URL"),
    excuse(r"^export PREFECT_API_URL=http://prefect\.internal", UNVERIFIED, "PREFECT_API_URL"),
    excuse(r"^export PREFECT_SERVER_DATABASE", f"{PIPELINE}/test_postgresql.py", "postgresql"),
    excuse(r"^prefect server start$", SERVERS, '"prefect", "server", "start"'),
    excuse(
        r"^prefect work-pool create|^prefect --no-prompt deploy",
        UNVERIFIED,
        "`prefect --no-prompt deploy --all`",
    ),
    excuse(r"^prefect deployment run", UNVERIFIED, "`prefect deployment run"),
    excuse(r"^video2lora deploy --lake /data", DEPLOYMENTS, '("deploy", "--lake"'),
    excuse(r"^video2lora deploy --lake s3:", DEPLOY_FILES, "test_only_reconcile_is_scheduled"),
    excuse(
        r"^video2lora worker --devices (all|0,1)", UNVERIFIED, "video2lora worker --devices all"
    ),
    excuse(r"^video2lora worker --devices cpu", DEPLOYMENTS, '"worker", "--devices", "cpu"'),
    # A store, and weights, that are not here.
    excuse(r"s3://team-lake/main", "tests/s3/test_pipeline.py", "def test_a_lake_on_s3_is_queried"),
    excuse(r"--model smolvlm2-500m$", UNVERIFIED, "real weights of SmolVLM2"),
    excuse(
        r"--model smolvlm2-500m --(random-weights|allow-random)",
        f"{PIPELINE}/test_random_weights.py",
        "test_where_allowed_they_answer_with_zero_visual_tokens",
    ),
    # Minutes to hours.
    excuse(
        r"evaluate --config configs/", f"{PIPELINE}/test_evaluate_tiny.py", '"evaluate", "--con'
    ),
    excuse(r"^video2lora bench ", f"{PIPELINE}/test_cli_bench.py", "command_of("),
    excuse(r"-m benchmarks\.page", "tests/house/test_benchmark_page.py", "page.main("),
    excuse(
        r"-m benchmarks\.composition", "tests/house/test_benchmarks.py", "composition.contests("
    ),
    excuse(r"-m benchmarks\.answer", "tests/house/test_answer_benchmarks.py", "answer_agreement"),
    excuse(
        r"-m benchmarks\.peft_parity|-m tasks\.model_card", UNVERIFIED, "python -m tasks.model_card"
    ),
    excuse(r"-m benchmarks\.(quality|stored)", f"{PIPELINE}/test_gate_benchmarks.py", "stored_dty"),
    excuse(
        r"-m benchmarks\.approx",
        f"{PIPELINE}/test_approximation_benchmark.py",
        "approximations.measure(",
    ),
    excuse(
        r"^video2lora calibrate$", f"{PIPELINE}/test_calibrate.py", "calibrates_on_its_own_world"
    ),
    excuse(r"configs/train/smolvlm2-500m\.yaml", UNVERIFIED, "configs/train/smolvlm2-500m.yaml"),
    excuse(
        r"runs/tiny|models/tiny/repro", f"{PIPELINE}/test_train.py", "test_the_trained_model_can"
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShellLine:
    """One line of a page's shell block, its comment taken off."""

    page: str
    text: str

    @property
    def excuse(self) -> Excuse | None:
        return next((known for known in EXCUSES if re.search(known.pattern, self.text)), None)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def lines_of(page: Path) -> list[ShellLine]:
    """List the commands of a page in the order of reading."""
    bodies = FENCE.findall(page.read_text(encoding="utf-8"))
    texts = [text for body in bodies for text in body.replace("\\\n", " ").splitlines()]
    bare = [
        shlex.join(words) if _is_plain(text) else text.strip()
        for text in texts
        if (words := shlex.split(text, comments=True))
    ]
    return [ShellLine(page=page.relative_to(ROOT).as_posix(), text=text) for text in bare]


def _is_plain(text: str) -> bool:
    """Say whether a line is words alone: no other shell syntax, which quoting would change."""
    return not re.search(r"[()|~$]", re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "", text))
