"""Installed versions, and the combinations that are known not to work together."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from tasks.doctor.finding import Finding, Patient, fault, ok

_PYTHON: Final = (3, 11)
_NEEDED: Final = (
    "torch",
    "transformers",
    "safetensors",
    "prefect",
    "fastapi",
    "sqlalchemy",
    "pyarrow",
    "deltalake",
    "duckdb",
    "fsspec",
    "s3fs",
    "pydantic",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Clash:
    """Versions that do not work, although each installs."""

    package: str
    at_least: tuple[int, ...]
    below: tuple[int, ...] = (10**6,)
    with_prefect_below: tuple[int, ...] | None = None
    meaning: str
    fix: str


_CLASHES: Final = (
    _Clash(
        package="fastapi",
        at_least=(0, 151),
        with_prefect_below=(4,),
        meaning="Prefect's server does not start (Body() got an unexpected keyword argument)",
        fix="pip install 'fastapi<0.151'",
    ),
    _Clash(
        package="sqlalchemy",
        at_least=(2, 1),
        with_prefect_below=(3, 9),
        meaning="Prefect's server never fires a schedule, and says so only in its own log",
        fix="pip install 'sqlalchemy<2.1'",
    ),
    _Clash(
        package="av",
        at_least=(0,),
        below=(18,),
        meaning="frames were measured right with PyAV 18 and 19 only",
        fix="pip install 'av>=18,<20'",
    ),
    _Clash(
        package="av",
        at_least=(20,),
        meaning="frames were measured right with PyAV 18 and 19 only",
        fix="pip install 'av>=18,<20'",
    ),
    _Clash(
        package="deltalake",
        at_least=(2,),
        meaning="the catalog's exactly-once commits were tested with deltalake 1",
        fix="pip install 'deltalake>=1.5,<2'",
    ),
)


def check_versions(_: Patient) -> Iterator[Finding]:
    """Look at Python and at every package that a run needs."""
    python = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] < _PYTHON:
        yield fault(
            "python",
            python,
            meaning="video2lora needs Python 3.11 or later",
            fix="python3.11 -m venv .venv && .venv/bin/pip install video2lora",
        )
    else:
        yield ok("python", python)
    for name in (*_NEEDED, "av"):
        yield _package(name)


def _package(name: str) -> Finding:
    found = _version(name)
    if found is None:
        return fault(
            name,
            "not installed",
            meaning="a run needs it",
            fix=f"pip install -c constraints.txt {name}",
        )
    for clash in _CLASHES:
        if clash.package == name and _clashes(clash, found):
            return fault(name, found, meaning=clash.meaning, fix=clash.fix)
    return ok(name, found)


def _clashes(clash: _Clash, found: str) -> bool:
    if not clash.at_least <= _numbers(found) < clash.below:
        return False
    prefect = _version("prefect")
    if clash.with_prefect_below is None:
        return True
    return prefect is not None and _numbers(prefect) < clash.with_prefect_below


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else (0,)
