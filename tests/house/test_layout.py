"""The shape of the code: file and function lengths, names, where printing happens."""

import ast
import re
from pathlib import Path
from typing import Any

MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 60
DRAWER_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "data", "handle", "tools"}
# Words that name one of our things by another name (docs/glossary.md). Next to a word at the right
# one of them has an honest other meaning.
FORBIDDEN_WORDS = {
    "clip": {"grad", "gradient", "norm"},
    "clips": set(),
    "chunk": set(),
    "chunks": set(),
    "ctx": set(),
    "dataset": set(),
    "datasets": set(),
    "aggregator": set(),
    "ingest": set(),
    "partition": set(),
    "merge": set(),
    "job": set(),
    "bucket": set(),
    "registry": set(),
    "handle": set(),
    "helper": set(),
}


def words_of(identifier: str) -> set[str]:
    """Split snake_case and CamelCase into lower-case words."""
    return {w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", identifier)}


def defined_names(tree: ast.Module) -> list[tuple[str, int]]:
    """List what a module defines: classes, functions and the fields of classes."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.append((node.name, node.lineno))
        if isinstance(node, ast.ClassDef):
            names += [
                (item.target.id, item.lineno)
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            ]
    return names


def forbidden(identifier: str) -> set[str]:
    words = words_of(identifier)
    return {
        word for word, company in FORBIDDEN_WORDS.items() if word in words and not company & words
    }


def test_no_file_is_over_350_lines(sources: list[Any]) -> None:
    lengths = {source.name: len(source.text.splitlines()) for source in sources}
    assert {name: n for name, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_the_readme_promises_that_length(root: Path) -> None:
    assert f"{MAX_FILE_LINES} lines" in (root / "README.md").read_text(encoding="utf-8")


def test_no_function_is_over_60_lines(sources: list[Any]) -> None:
    long = {
        f"{source.name}:{node.lineno} {node.name}": node.end_lineno - node.lineno + 1
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_no_file_is_a_drawer_for_odds_and_ends(sources: list[Any]) -> None:
    assert [source.name for source in sources if source.path.stem in DRAWER_NAMES] == []


def test_every_installed_module_says_what_it_is(package_sources: list[Any]) -> None:
    silent = [s.name for s in package_sources if s.text.strip() and not ast.get_docstring(s.tree)]
    assert silent == []


def test_the_code_speaks_the_glossary(package_sources: list[Any]) -> None:
    wrong = [
        f"{source.name}:{line} {name}"
        for source in package_sources
        for name, line in [(source.path.stem, 1), *defined_names(source.tree)]
        if forbidden(name)
    ]
    assert wrong == []


def test_the_word_rule_sees_parts_of_a_name_but_not_their_honest_use() -> None:
    assert forbidden("chunk_video") == {"chunk"}
    assert forbidden("ClipReader") == {"clip"}
    assert forbidden("clip_gradient_norm") == set()
    assert forbidden("clamp") == set()


def test_only_the_command_line_prints(package_sources: list[Any]) -> None:
    printing = [
        f"{source.name}:{node.lineno}"
        for source in package_sources
        if source.package != "flows"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "print"
    ]
    assert printing == []


def test_nothing_is_read_from_the_environment_at_import(package_sources: list[Any]) -> None:
    reading = [
        f"{source.name}:{node.lineno}"
        for source in package_sources
        for statement in source.tree.body
        if not isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.If)
        for node in ast.walk(statement)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    ]
    assert reading == []


def test_broad_excepts_stand_only_at_the_edges(package_sources: list[Any]) -> None:
    broad = [
        f"{source.name}:{node.lineno}"
        for source in package_sources
        if source.package in {"video2lora_core", "storage", "configs"}
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"})
    ]
    assert broad == []
