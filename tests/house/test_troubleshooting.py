"""What docs/troubleshooting.md quotes is what the code says."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

QUOTED = re.compile(r"^### `(.+)`$", re.MULTILINE)
GAP = "..."


def text_of(node: ast.AST) -> str | None:
    """A string as it stands in the code, with `...` for each value put into it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            part.value if isinstance(part, ast.Constant) else GAP for part in node.values
        )
    return None


@pytest.fixture(scope="module")
def said(package_sources: list[Any]) -> list[str]:
    texts = [text_of(node) for source in package_sources for node in ast.walk(source.tree)]
    return [" ".join(text.split()) for text in texts if text]


def test_every_quoted_message_is_one_of_the_codes(root: Path, said: list[str]) -> None:
    page = (root / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = QUOTED.findall(page)
    assert len(quoted) >= 15
    assert len(quoted) == page.count("\n### ")
    unknown = [text for text in quoted if not any(text.strip() in line for line in said)]
    assert unknown == []
