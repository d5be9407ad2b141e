"""A worker that answers a question set and may be killed at any moment.

    python -m tests.pipeline.answer_worker CONFIG_JSON

Every step that a kill may interrupt is announced on stdout by a line, and so is the end.
"""

import sys
from collections.abc import Callable
from typing import Any

from configs.answer_schema import AnswerConfig
from flows.answer_questions import answer_questions
from flows.local_engine import LocalEngine
from storage.catalog import Catalog
from tasks import answer_modes


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def announced(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        table = args[1] if name == "append" else ""
        say(f"{name} {table}")
        return function(*args, **options)

    return call


def main(config: AnswerConfig) -> None:
    answer_modes.answer = announced("ask", answer_modes.answer)
    Catalog.append = announced("append", Catalog.append)
    answer_questions(config, LocalEngine())
    say("end")


if __name__ == "__main__":
    main(AnswerConfig.model_validate_json(sys.argv[1]))
