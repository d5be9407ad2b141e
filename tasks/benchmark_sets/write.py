"""Write a question set as the JSONL file that `video2lora answer` reads."""

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tasks.question_set import SetQuestion


def write_question_set(questions: Iterable[SetQuestion], path: Path) -> int:
    """Write one object per line and return how many; the file appears whole or not at all.

    What a question has as metadata becomes columns of their own, as every unknown column of a
    question set is metadata.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    num_questions = 0
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            for question in questions:
                file.write(json.dumps(_row(question), ensure_ascii=False) + "\n")
                num_questions += 1
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return num_questions


def _row(question: SetQuestion) -> dict[str, Any]:
    columns = {
        "video": question.video,
        "question": question.question,
        "question_id": question.question_id,
        "start_us": question.start_us,
        "end_us": question.end_us,
        "references": list(question.references) or None,
        "question_type": question.question_type,
    }
    given = {name: value for name, value in columns.items() if value is not None}
    assert not columns.keys() & question.metadata.keys(), "metadata would replace a column"
    return {**given, **question.metadata}
