"""Every shell line of README.md and docs/ runs as it is written, or a table says who runs it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.lake import open_lake
from tests.pipeline.documented_lines import EXCUSES, ROOT, Excuse, ShellLine, lines_of, pages
from tests.pipeline.documented_reader import LAKE, Done, furnish, run_line

LINES = {page.relative_to(ROOT).as_posix(): lines_of(page) for page in pages()}
FIRST = "docs/quickstart.md"


def executed(page: str) -> list[ShellLine]:
    return [line for line in LINES[page] if line.excuse is None]


def run_all(lines: list[ShellLine]) -> list[Done]:
    """Run lines one after the other, and tell of every one that fails."""
    ended = [run_line(line.text) for line in lines]
    failed = [f"{done.line}\n{done.out[-2000:]}{done.err[-2000:]}" for done in ended if done.code]
    assert failed == [], "\n".join(failed)
    return ended


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The reader's folder, which is the current one."""
    path = tmp_path_factory.mktemp("reader") / "folder"
    path.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.delenv("PREFECT_API_URL", raising=False)
        yield path


@pytest.fixture(scope="module")
def started(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Done], Path]:
    """What the quickstart's lines printed, and a copy of the folder after them."""
    furnish(folder)
    ended = run_all(executed(FIRST))
    shutil.rmtree(folder / "street-peft")  # other pages write it, too, and an export stays as it is
    run_line("video2lora compose street.mp4 --method svd --rank 8 --save --lake my-lake")
    return ended, Path(shutil.copytree(folder, tmp_path_factory.mktemp("kept") / "folder"))


@pytest.fixture
def fresh(started: tuple[list[Done], Path], folder: Path) -> Path:
    """The folder as the quickstart left it."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return Path(shutil.copytree(started[1], folder, dirs_exist_ok=True))


@pytest.mark.slow
def test_the_quickstart_runs_as_it_is_written_from_top_to_bottom(
    started: tuple[list[Done], Path],
) -> None:
    printed = {done.line: done.out for done in started[0]}
    [rejects] = [out for line, out in printed.items() if "open_rejects" in line]
    assert "NOT_MEDIA" in rejects
    coverage = open_lake(started[1] / LAKE).query("from coverage").to_pylist()
    assert sorted(row["num_adapters"] for row in coverage) == [1, 16]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in LINES if page != FIRST and executed(page)])
def test_the_lines_of_a_page_run_in_the_order_of_reading(fresh: Path, page: str) -> None:
    assert run_all(executed(page))


def test_every_line_that_is_not_run_is_one_that_something_else_runs_or_that_is_listed() -> None:
    programs = ("video2lora ", "python -m tasks.", "make demo")
    every = [line for lines in LINES.values() for line in lines]
    unknown = [
        f"{line.page}: {line.text}"
        for line in every
        if line.excuse is None and not line.text.startswith(programs)
    ]
    assert unknown == []
    assert sum(line.excuse is None for line in every) > len(every) / 2


@pytest.mark.parametrize("known", EXCUSES, ids=lambda known: known.pattern)
def test_an_excuse_is_needed_and_true(known: Excuse) -> None:
    used = [line for lines in LINES.values() for line in lines if line.excuse is known]
    assert used, "no line needs it: remove it"
    path = ROOT / known.file
    assert path.exists()
    assert known.says in path.read_text(encoding="utf-8")
