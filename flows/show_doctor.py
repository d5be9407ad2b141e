"""How `video2lora doctor` looks: one line for each thing, three where something is wrong."""

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

from flows.console import make_console

if TYPE_CHECKING:  # kept out of the start-up of commands that do not need them
    from tasks.doctor.finding import Patient

_MARKS = {"ok": "ok     ", "warning": "WARNING", "fault": "FAULT  "}
_STYLES = {"ok": "green", "warning": "yellow", "fault": "bold red"}


def show_examination(patient: "Patient", *, as_json: bool) -> bool:
    """Examine and print; say whether there is a fault."""
    from tasks.doctor.examine import examine

    console = make_console()
    findings = []
    for finding in examine(patient):
        findings.append(finding)
        if as_json:
            continue
        console.print(_MARKS[finding.state], style=_STYLES[finding.state], end=" ")
        console.print(f"{finding.check}: {finding.found}", markup=False)
        if finding.state != "ok":
            console.print(f"          means: {finding.meaning}", markup=False)
            console.print(f"          fix:   {finding.fix}", markup=False)
    num_faults = sum(finding.state == "fault" for finding in findings)
    if as_json:
        document = {
            "is_well": not num_faults,
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        num_warnings = sum(finding.state == "warning" for finding in findings)
        console.print(f"{len(findings)} checks, {num_warnings} warnings, {num_faults} faults")
    return num_faults > 0
