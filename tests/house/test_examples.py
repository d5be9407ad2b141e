"""The examples of README.md and docs/ are real: SQL runs on a lake, command lines parse."""

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(pages: dict[Path, str], language: str) -> list[str]:
    found = [match for text in pages.values() for match in FENCE.findall(text)]
    return [body for name, body in found if name == language]


def statements(pages: dict[Path, str]) -> list[str]:
    texts = [part for body in blocks(pages, "sql") for part in body.split(";")]
    return [text.strip() for text in texts if text.strip()]


def command_lines(pages: dict[Path, str]) -> list[list[str]]:
    """List every `video2lora ...` of the pages' shell blocks, as its words."""
    lines = [line for body in blocks(pages, "sh") for line in body.splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0].endswith("video2lora")]


def queries(pages: dict[Path, str]) -> list[str]:
    return [words[1] for words in command_lines(pages) if words[0] == "sql"]


@pytest.fixture(scope="module")
def cli() -> TyperGroup:
    from flows.cli import app

    return typer.main.get_command(app)


def test_every_sql_example_runs(pages: dict[Path, str], tmp_path: Path) -> None:
    from storage.lake import open_lake

    lake = open_lake(str(tmp_path / "lake"), create=True)
    for sql in statements(pages) + queries(pages):
        assert lake.query(sql).num_rows >= 0, sql


def test_every_command_line_parses(pages: dict[Path, str], cli: TyperGroup) -> None:
    lines = command_lines(pages)
    assert {words[0] for words in lines} >= {"internalize", "ask", "sql"}
    for words in lines:
        with cli.make_context("video2lora", list(words)) as root:  # takes the global options out
            command, *arguments = [*root._protected_args, *root.args]
        with cli.commands[command].make_context(command, arguments) as context:
            assert context.params


def calls(pages: dict[Path, str], receiver: str) -> list[ast.Call]:
    """List every `receiver.method(...)` of the pages' Python blocks."""
    trees = [ast.parse(body) for body in blocks(pages, "python")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    methods = [node for node in nodes if isinstance(node.func, ast.Attribute)]
    return [node for node in methods if getattr(node.func.value, "id", "") == receiver]


def test_every_python_example_calls_what_there_is(pages: dict[Path, str]) -> None:
    from flows.api import OpenLake

    found = calls(pages, "lake")
    assert {call.func.attr for call in found} >= {"sql", "ask", "compose"}
    for call in found:
        signature = inspect.signature(getattr(OpenLake, call.func.attr))
        names = {keyword.arg: None for keyword in call.keywords}
        signature.bind(None, *call.args, **names)
