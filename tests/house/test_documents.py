"""The documents are true: links resolve, code compiles, commands exist."""

import re
import tomllib
from pathlib import Path
from typing import Any

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def anchors(text: str) -> set[str]:
    """List a page's heading anchors as code pages make them."""
    headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {slug.strip().replace(" ", "-") for slug in slugs}


def broken(page: Path, target: str, pages: dict[Path, str]) -> bool:
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        return True
    return bool(anchor) and file in pages and anchor not in anchors(pages[file])


def code_blocks(pages: dict[Path, str], language: str) -> list[tuple[str, str]]:
    return [
        (page.name, body)
        for page, text in pages.items()
        for found, body in FENCE.findall(text)
        if found == language
    ]


def test_every_link_resolves(pages: dict[Path, str]) -> None:
    wrong = [
        f"{page.name}: {target}"
        for page, text in pages.items()
        for target in LINK.findall(without_code(text))
        if not target.startswith(("https://", "http://", "mailto:")) and broken(page, target, pages)
    ]
    assert wrong == []


def test_every_page_that_the_code_names_exists(
    sources: list[Any], pages: dict[Path, str], root: Path
) -> None:
    known = {page.name.lower() for page in pages}
    wrong = [
        f"{source.name}: {name}"
        for source in sources
        if source.package != "tests"
        for name in re.findall(r"(?<![\w}-])\w[\w./-]*\.md\b", source.text)
        if not (root / name).exists() and name.lower() not in known
    ]
    assert wrong == []


def test_every_python_example_compiles(pages: dict[Path, str]) -> None:
    for name, body in code_blocks(pages, "python"):
        compile(body, name, "exec")


def test_every_toml_example_parses(pages: dict[Path, str]) -> None:
    for _, body in code_blocks(pages, "toml"):
        tomllib.loads(body)


def test_every_make_target_that_is_named_exists(pages: dict[Path, str], root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        target
        for text in pages.values()
        for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE)
    }
    assert named - targets == set()


def test_every_decorated_target_is_phony(root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[1].split())
    assert set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)) == phony
