"""What the catalog holds for a plan: each question with its answer, or with the reason of none.

An answer belongs to its answer_id and may stem from an earlier run; everything about the question
(references, type, metadata) is the plan's, that is the question set's as it is now.
"""

import csv
import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.answer_schema import AnswerConfig
from storage.answer_plans import AnswerPlan, get_answer_plan
from storage.lake import Lake, open_lake
from storage.schemas import Row, table_schema
from tasks.answer_recipe import answer_recipe
from tasks.answer_summary import AnswersFound
from tasks.answers_left import rejects_of
from tasks.unit_rows import common_columns
from video2lora_core.errors import UsageError

_OF_QUESTION: Final = (
    "question_id",
    "video_id",
    "question",
    "question_type",
    "start_us",
    "end_us",
    "answer_id",
)
_OF_ANSWER: Final = (
    "answer",
    "mode",
    "strategy",
    "parents",
    "model_name",
    "num_prompt_tokens",
    "num_visual_tokens",
    "num_new_tokens",
    "num_frames",
    "num_segments",
    "rank",
    "time_to_first_token_s",
    "load_s",
    "compose_s",
    "answer_s",
    "run_id",
)
_OF_REJECT: Final = ("reason", "detail")
_WRITTEN: Final = pa.schema(
    [
        *(table_schema("answers").field(name).with_nullable(True) for name in _OF_QUESTION),
        ("references", pa.list_(pa.string())),
        ("metadata", pa.string()),
        *(table_schema("answers").field(name).with_nullable(True) for name in _OF_ANSWER),
        *(table_schema("rejects").field(name).with_nullable(True) for name in _OF_REJECT),
    ]
)


def read_answers(lake: Lake, run_id: str) -> Iterator[Row]:
    """Stream every question of a plan with its answer, or with `reason` and `detail` of none.

    `references` is a list and `metadata` a JSON text, as in the table `answers`.
    """
    plan = get_answer_plan(lake.objects, run_id)
    rejects = _rejects(lake, plan)
    for number in range(len(plan.header.shards)):
        rows = plan.shard(number)
        answers = _answers(lake, plan, [row["answer_id"] for row in rows if row["answer_id"]])
        for row in rows:
            yield _joined(row, answers.get(row["answer_id"]), rejects.get(row["question_id"]))


def answers_table(lake: Lake, run_id: str) -> pa.Table:
    """Return what `read_answers` streams, as one table."""
    tables = [pa.Table.from_pylist(g, schema=_WRITTEN) for g in _groups(read_answers(lake, run_id))]
    return pa.concat_tables([_WRITTEN.empty_table(), *tables])


def close_answers(config: AnswerConfig, *, run_id: str, attempt_id: str) -> AnswersFound:
    """Mark a run of answers as finished, rebuild the views, and count what there is."""
    lake = open_lake(config.lake)
    common = common_columns(answer_recipe(config).recipe, attempt_id=attempt_id)
    payload = {"run_id": run_id, "recipe_id": common["recipe_id"], "attempt_id": attempt_id}
    if lake.mark_published(run_id, payload):
        lake.append("runs", [{**common, "run_id": run_id, "event": "published"}])
    lake.publish_views()
    return count_answers(lake, run_id)


def count_answers(lake: Lake, run_id: str) -> AnswersFound:
    """Count a plan's answers and rejects."""
    rejects: Counter[str] = Counter()
    first_s: list[float] = []
    num_prompt_tokens = 0
    for row in read_answers(lake, run_id):
        if row["answer"] is None:
            rejects[row["reason"] or "UNANSWERED"] += 1
        else:
            first_s.append(row["time_to_first_token_s"])
            num_prompt_tokens += row["num_prompt_tokens"]
    return AnswersFound(
        num_answers=len(first_s),
        rejects=dict(sorted(rejects.items())),
        time_to_first_token_s=statistics.median(first_s) if first_s else None,
        num_prompt_tokens=num_prompt_tokens,
    )


def write_answers(lake: Lake, run_id: str, out: Path) -> int:
    """Write a plan's questions with their answers to a .parquet, .jsonl or .csv file.

    Returns:
        How many rows were written.

    Raises:
        UsageError: the suffix is another one, or the file cannot be written.
    """
    rows = read_answers(lake, run_id)
    write = _WRITERS.get(out.suffix.lower())
    if write is None:
        raise UsageError(f"{out}: unknown suffix (expected {', '.join(_WRITERS)}); rename it")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".tmp-{out.name}")
    num_rows = write(part, rows)
    part.replace(out)
    return num_rows


def require_writable(out: Path) -> None:
    """Refuse a file that `write_answers` could not write, before any work is done."""
    if out.suffix.lower() not in _WRITERS:
        raise UsageError(f"{out}: unknown suffix (expected {', '.join(_WRITERS)}); rename it")


def _answers(lake: Lake, plan: AnswerPlan, ids: Sequence[str]) -> dict[str, Row]:
    """Return the last answer of each id; of a run that asks again, its own."""
    if not ids:
        return {}
    where = pc.field("answer_id").isin(pa.array(sorted(set(ids)), pa.string()))
    if plan.header.is_again:
        where = where & (pc.field("run_id") == plan.run_id)
    columns = ("created_at", "answer_id", *_OF_ANSWER)
    rows = lake.catalog.read("answers", columns=columns, where=where).to_pylist()
    return {row["answer_id"]: row for row in sorted(rows, key=lambda row: row["created_at"])}


def _rejects(lake: Lake, plan: AnswerPlan) -> dict[str, Row]:
    header = plan.header
    run_ids = [replace(header, generation=n).run_id for n in range(header.generation + 1)]
    rows = rejects_of(lake, run_ids, columns=("created_at", "question_id", *_OF_REJECT))
    return {row["question_id"]: row for row in sorted(rows, key=lambda row: row["created_at"])}


def _joined(row: Row, answer: Row | None, reject: Row | None) -> Row:
    joined: dict[str, Any] = {name: row[name] for name in _OF_QUESTION}
    joined["references"] = json.loads(row["references"] or "[]")
    joined["metadata"] = row["metadata"]
    found: Mapping[str, Any] = answer or {}
    joined |= {name: found.get(name) for name in _OF_ANSWER}
    why: Mapping[str, Any] = {} if answer else (reject or {})
    return joined | {name: why.get(name) for name in _OF_REJECT}


def _write_parquet(path: Path, rows: Iterator[Row]) -> int:
    num_rows = 0
    with pq.ParquetWriter(path, _WRITTEN, compression="zstd") as writer:
        for group in _groups(rows):
            writer.write_table(pa.Table.from_pylist(group, schema=_WRITTEN))
            num_rows += len(group)
    return num_rows


def _write_jsonl(path: Path, rows: Iterator[Row]) -> int:
    num_rows = 0
    with path.open("w", encoding="utf-8") as file:
        for num_rows, row in enumerate(rows, start=1):  # noqa: B007  (counted to the end)
            metadata = json.loads(row["metadata"]) if row["metadata"] else None
            file.write(json.dumps({**row, "metadata": metadata}, ensure_ascii=False) + "\n")
    return num_rows


def _write_csv(path: Path, rows: Iterator[Row]) -> int:
    num_rows = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _WRITTEN.names)
        writer.writeheader()
        for num_rows, row in enumerate(rows, start=1):  # noqa: B007  (counted to the end)
            lists = {name: json.dumps(row[name]) for name in ("references", "parents")}
            writer.writerow({**row, **lists})
    return num_rows


def _groups(rows: Iterator[Row], size: int = 4096) -> Iterator[list[Row]]:
    group: list[Row] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


_WRITERS: Final = {".parquet": _write_parquet, ".jsonl": _write_jsonl, ".csv": _write_csv}
