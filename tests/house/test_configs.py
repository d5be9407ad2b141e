"""Every field of a config is read by somebody: a setting that does nothing is a lie."""

import ast
import itertools
from typing import Any


def config_fields(package_sources: list[Any]) -> dict[str, str]:
    """Map each field of the classes in configs/ to where it is declared."""
    return {
        item.target.id: f"{source.name}:{item.lineno} {node.name}.{item.target.id}"
        for source in package_sources
        if source.package == "configs"
        for node in source.tree.body
        if isinstance(node, ast.ClassDef)
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }


def read_attributes(package_sources: list[Any]) -> set[str]:
    return {
        node.attr
        for source in package_sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_config_field_is_read(package_sources: list[Any]) -> None:
    read = read_attributes(package_sources)
    fields = config_fields(package_sources)
    assert fields, "configs/ declares no field: this test looks in the wrong place"
    assert [where for name, where in fields.items() if name not in read] == []


def test_every_config_field_says_what_it_is(package_sources: list[Any]) -> None:
    silent = []
    for source in package_sources:
        for node in source.tree.body if source.package == "configs" else []:
            body = node.body if isinstance(node, ast.ClassDef) else []
            for item, following in itertools.pairwise([*body, None]):
                is_field = isinstance(item, ast.AnnAssign)
                is_said = isinstance(following, ast.Expr) and isinstance(
                    following.value, ast.Constant
                )
                if is_field and not is_said:
                    silent.append(f"{source.name}:{item.lineno}")
    assert silent == []
