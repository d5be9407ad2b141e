"""The command line starts fast: nothing heavy is imported before a command needs it."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "prefect", "pyarrow", "deltalake", "duckdb", "av", "matplotlib")
RUN = """
import sys
sys.argv = ["video2lora", *{arguments!r}]
from flows.cli import main
try:
    main()
except SystemExit as end:
    assert end.code in (0, None), end.code
print("HEAVY", [name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["internalize", "--help"], ["demo", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = RUN.format(arguments=arguments, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout


def test_the_version_is_the_installed_one(project: dict) -> None:
    code = RUN.format(arguments=["--version"], heavy=())
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith(f"video2lora {project['project']['version']}")
