"""What the architecture tests read: the repository's own files."""

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("flows", "tasks", "configs", "video2lora_core", "storage")
OUTSIDE = {"build", "dist", "demo-lake", "runs", "htmlcov", "site"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One Python file: where it is, its text and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def package(self) -> str:
        return self.path.relative_to(ROOT).parts[0]


def files(suffix: str) -> list[Path]:
    """List the repository's files with this suffix, without hidden folders and build outputs."""
    return sorted(
        path
        for top in ROOT.iterdir()
        if not top.name.startswith(".") and top.name not in OUTSIDE
        for path in ([top] if top.is_file() else top.rglob(f"*{suffix}"))
        if path.suffix == suffix and "__pycache__" not in path.parts
    )


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def sources() -> list[Source]:
    """Every Python file, tests and benchmarks included."""
    texts = {path: path.read_text(encoding="utf-8") for path in files(".py")}
    return [Source(path=path, text=text, tree=ast.parse(text)) for path, text in texts.items()]


@pytest.fixture(scope="session")
def package_sources(sources: list[Source]) -> list[Source]:
    """The files that are installed."""
    return [source for source in sources if source.package in PACKAGES]


@pytest.fixture(scope="session")
def pages() -> dict[Path, str]:
    """Every Markdown file with its text."""
    return {path: path.read_text(encoding="utf-8") for path in files(".md")}


@pytest.fixture(scope="session")
def project(root: Path) -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
