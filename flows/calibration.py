"""Show what a calibration learned."""

import json
import sys
from typing import TYPE_CHECKING

from flows.console import make_console, make_table

if TYPE_CHECKING:  # torch takes seconds to import, and `--help` needs none of it
    from tasks.calibrate import Calibration


def show_calibration(found: "Calibration", *, as_json: bool) -> None:
    """Print the bounds, figure by figure."""
    bounds = found.bounds
    rows = [[name, bound.lower, bound.upper] for name, bound in bounds.log_norms.items()]
    if as_json:
        document = {
            "checkpoint": str(found.checkpoint),
            "checkpoint_sha256": found.checkpoint_sha256,
            "num_segments": bounds.num_segments,
            "num_left_out": found.num_left_out,
            "log_norms": {name: [lower, upper] for name, lower, upper in rows},
        }
        sys.stdout.write(json.dumps(document) + "\n")
        return
    console = make_console()
    console.print(make_table(["figure", "lower", "upper"], rows, title="Bounds of log norms"))
    left_out = f", {found.num_left_out} left out: not finite" if found.num_left_out else ""
    console.print(f"learned on {bounds.num_segments} segments{left_out}")
    console.print(f"written to {found.checkpoint}; its sha256 stays {found.checkpoint_sha256[:12]}")
