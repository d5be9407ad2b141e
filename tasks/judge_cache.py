"""Scores on disk, one small file each, named by what was asked. No key and no URL is in them."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from storage.identity import canonical_json, sha256_hex
from tasks.judge_prompt import PROMPT_VERSION, NoScoreError, Score, score_of


def cache_key(model: str, question: str, answer: str, references: Sequence[str]) -> str:
    """Return the sha256 of everything that a score depends on."""
    asked = [model, PROMPT_VERSION, question, answer, list(references)]
    return sha256_hex(canonical_json(asked).encode())


class ScoreCache:
    """A directory of scores; several processes may share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory.expanduser()

    def read(self, key: str) -> Score | None:
        """Return a score, or None where there is none; a damaged file counts as none."""
        try:
            return score_of(json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, NoScoreError):
            return None

    def write(self, key: str, score: Score) -> None:
        """Store a score: a reader sees the whole file or none."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"score": score.value, "reason": score.reason})
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(content)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _path(self, key: str) -> Path:
        return self._directory / key[:2] / f"{key}.json"
