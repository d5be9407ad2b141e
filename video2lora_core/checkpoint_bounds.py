"""The bounds in a checkpoint's description, which its identity leaves out.

Bounds decide which adapters are published, never what an adapter contains: learning them must not
turn a checkpoint into another one, or every adapter made before would be stale.
"""

import json
from collections.abc import Mapping
from typing import Any

from video2lora_core.errors import CheckpointError
from video2lora_core.hypernetwork import HypernetworkConfig
from video2lora_core.quality import QualityBounds, bounds_as_json, bounds_from_json

KEY = "bounds"


def description_bytes(description: Mapping[str, Any]) -> bytes:
    """Serialise a description; equal content gives equal bytes."""
    return (json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def without_bounds(data: bytes) -> bytes:
    """Return a description's bytes as they were before any bounds; others as they are."""
    try:
        description = json.loads(data)
    except ValueError:
        return data  # whoever reads it says what is wrong with it
    if not isinstance(description, dict) or KEY not in description:
        return data
    return description_bytes({key: value for key, value in description.items() if key != KEY})


def with_bounds(data: bytes, bounds: QualityBounds, *, where: str) -> bytes:
    """Return a description's bytes with these bounds in place of any others.

    Raises:
        CheckpointError: the description was edited by hand, so that its identity would change.
    """
    content = {**json.loads(data), KEY: bounds_as_json(bounds)}
    changed = description_bytes(content)
    if without_bounds(changed) != without_bounds(data):
        raise CheckpointError(
            f"{where}: not written as this software writes it (other spaces or order of keys), so "
            "bounds would change its sha256; save the checkpoint again, then calibrate"
        )
    return changed


def read_bounds(
    description: Mapping[str, Any], config: HypernetworkConfig, *, where: str
) -> QualityBounds | None:
    """Return the bounds of a description; None where none were learned.

    Raises:
        CheckpointError: they are damaged, or belong to other adapters.
    """
    if description.get(KEY) is None:
        return None
    expected = {
        f"{module.name}.{layer}.{what}"
        for module in config.modules
        for layer in config.layers
        for what in ("A", "B", "update")
    }
    return bounds_from_json(description[KEY], expected=expected, where=where)
