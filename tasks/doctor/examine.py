"""Run every check; one that breaks, or cannot even be imported, is a finding too."""

import importlib
from collections.abc import Iterator
from typing import Final

from storage.errors import reason_of
from tasks.doctor.finding import Check, Finding, Patient, fault

CHECKS: Final = ("versions", "machine", "decoders", "model", "lake", "prefect_server")


def examine(patient: Patient) -> Iterator[Finding]:
    """Yield what every check finds, as it is found."""
    for name in CHECKS:
        try:
            check: Check = getattr(importlib.import_module(f"tasks.doctor.{name}"), f"check_{name}")
            yield from check(patient)
        except Exception as error:  # what is wrong with one thing must not hide the others
            fix = "video2lora doctor --traceback"
            if isinstance(error, ImportError):
                fix = (
                    f"pip install --force-reinstall -c constraints.txt {error.name or 'video2lora'}"
                )
            found = f"{type(error).__name__}: {reason_of(error)}"
            yield fault(name, found, meaning="this could not be looked at", fix=fix)
