"""Names made from content: the same input gives the same id on every machine.

`recipe_id` hashes canonical JSON (sorted keys, no spaces, ASCII); `adapter_key` says what was asked
for; `adapter_sha256` (see adapter_store) says what came out; `run_id` (see plans) hashes a plan.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, ASCII, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def sha256_hex(data: bytes) -> str:
    """Return the sha256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def recipe_id(recipe: Mapping[str, Any]) -> str:
    """Return the id of everything that decides an adapter's content."""
    return _hash_json(dict(recipe))


def adapter_key(recipe_id: str, video_id: str, start_us: int, end_us: int) -> str:
    """Return the id of what was asked: one span of one video under one recipe."""
    return _hash_json([recipe_id, video_id, int(start_us), int(end_us)])


def source_id(uri: str) -> str:
    """Return the id of a source, which also decides its place in a plan."""
    return sha256_hex(uri.encode())


def composition_id(
    *,
    recipe_id: str,
    method: str,
    parents: Sequence[str],
    coefficients: Sequence[float],
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Return the id of a composition: its method over these parents with these coefficients.

    `settings` are what else decides the result: the rank, the stored dtype, the seed.
    """
    numbers = [float(c) for c in coefficients]
    decided = [recipe_id, method, list(parents), numbers]
    return _hash_json([*decided, dict(settings)] if settings else decided)


def _hash_json(value: object) -> str:
    return sha256_hex(canonical_json(value).encode())
