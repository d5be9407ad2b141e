"""What is installed: version, packages, dependencies and their pins agree with the code."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = {"flows", "tasks", "configs", "video2lora_core", "storage"}
# Where a distribution's import name is not its own name.
IMPORT_NAMES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "prometheus-client": "prometheus_client",
}
# Never imported by name: two bounds that keep prefect's server working, and what fsspec loads for s3://.
NOT_IMPORTED = {"fastapi", "sqlalchemy", "s3fs"}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def import_name(distribution: str) -> str:
    return IMPORT_NAMES.get(distribution, distribution.replace("-", "_"))


def imported_roots(trees: list[ast.Module]) -> set[str]:
    roots: set[str] = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                roots.add(node.module.split(".")[0])
    return roots


def test_the_version_has_one_source(project: dict[str, Any], root: Path) -> None:
    version = project["project"]["version"]
    headings = re.findall(r"^## (\S+)", (root / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == version


def test_no_module_repeats_the_version(package_sources: list[Any]) -> None:
    repeated = [
        source.name
        for source in package_sources
        if re.search(r'^__version__\s*=\s*["\']', source.text, re.MULTILINE)
    ]
    assert repeated == []


def test_every_folder_with_code_is_a_package(package_sources: list[Any]) -> None:
    folders = {source.path.parent for source in package_sources}
    assert sorted(str(f) for f in folders if not (f / "__init__.py").exists()) == []


def test_every_import_is_declared(package_sources: list[Any], project: dict[str, Any]) -> None:
    extras = project["project"]["optional-dependencies"]
    declared = requirements(project["project"]["dependencies"])
    declared |= requirements(extras["export"] + extras["train"] + extras["metrics"])
    known = {import_name(name) for name in declared} | OURS | sys.stdlib_module_names
    assert imported_roots([source.tree for source in package_sources]) - known == set()


def test_every_dependency_is_imported(package_sources: list[Any], project: dict[str, Any]) -> None:
    declared = set(requirements(project["project"]["dependencies"])) - NOT_IMPORTED
    used = imported_roots([source.tree for source in package_sources])
    assert sorted(name for name in declared if import_name(name) not in used) == []


def test_every_dependency_is_pinned_inside_its_bounds(project: dict[str, Any], root: Path) -> None:
    extras = project["project"]["optional-dependencies"].values()
    declared = requirements(project["project"]["dependencies"] + [r for e in extras for r in e])
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = requirements([line for line in lines if line and not line.startswith("#")])
    outside = [
        name
        for name, requirement in declared.items()
        if not requirement.specifier.contains(next(iter(pins[name].specifier)).version)
    ]
    assert outside == []


def test_the_pins_hold_for_any_machine(root: Path) -> None:
    text = (root / "constraints.txt").read_text(encoding="utf-8")
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+( ; .+)?", line)] == []
