"""Question answering: NExT-QA (both tasks), ActivityNet-QA, VidCapBench.

NExT-QA, multiple choice (arXiv 2105.08276; github.com/doc-doc/NExT-QA, dataset/nextqa/val.csv): CSV
with video, frame_count, width, height, question, answer (0 to 4), qid, type, a0 ... a4.

NExT-QA, open-ended (github.com/doc-doc/NExT-OE): CSV with the same first columns, answer as a text,
qid, type, and in some files additional_ref_answer, a second right answer.

ActivityNet-QA (arXiv 1906.02467; github.com/MILVLG/activitynet-qa, README of its dataset folder):
two lists, `<split>_q.json` of {video_name, question, question_id} and `<split>_a.json` of {answer,
type, question_id}. The path given is that of the questions; the answers lie beside it. Videos are
commonly kept as `v_<video_name>.mp4`.

VidCapBench (arXiv 2502.12782; github.com/VidCapBench/VidCapBench, as its eval.py reads
VidCapBench-AE_QA.jsonl): one object per line with `video_dir` and `QA_pairs`, a list of {question,
answer, sub_category}. The README's example names the video `video`; both are read.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from tasks.benchmark_sets import prompts
from tasks.benchmark_sets.rows import BadRow, Row, RowError, as_row, listed, read_rows, text, whole
from tasks.question_set import SetQuestion
from video2lora_core.errors import UsageError

Found = Iterator[tuple[int, SetQuestion | BadRow]]

NEXT_QA_TYPES: Final[Mapping[str, str]] = {
    "CW": "causal: why",
    "CH": "causal: how",
    "TN": "temporal: next",
    "TC": "temporal: current",
    "TP": "temporal: previous",
    "DC": "descriptive: count",
    "DL": "descriptive: location",
    "DB": "descriptive: binary",
    "DO": "descriptive: other",
}
ACTIVITYNET_QA_TYPES: Final = (
    "motion",
    "spatial relationship",
    "temporal relationship",
    "yes/no",
    "color",
    "object",
    "location",
    "number",
    "other",
)
"""By the number in `type`."""
VIDCAPBENCH_DIMENSIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("cinematography", "composition", "lighting", "color", "style"), "aesthetics"),
    **dict.fromkeys(("background", "subjects", "events"), "content"),
    **dict.fromkeys(("attribute changes", "object motion", "body movements"), "motion"),
    **dict.fromkeys(("environmental motion", "spatiotemporal transformations"), "motion"),
    **dict.fromkeys(
        ("spatial relationships", "counter intuitive", "common sense"), "physical laws"
    ),
}
_LETTERS: Final = "ABCDE"


def next_qa_open_ended(annotations: Path) -> Found:
    """Read NExT-QA's open-ended questions."""
    for line, value in read_rows(annotations):
        try:
            yield line, _open_ended(as_row(value))
        except RowError as error:
            yield line, BadRow(line=line, reason=str(error))


def next_qa_multiple_choice(annotations: Path) -> Found:
    """Read NExT-QA's questions with five options."""
    for line, value in read_rows(annotations):
        try:
            yield line, _multiple_choice(as_row(value))
        except RowError as error:
            yield line, BadRow(line=line, reason=str(error))


def _open_ended(row: Row) -> SetQuestion:
    answers = [text(row, "answer")]
    if row.get("additional_ref_answer"):
        answers.append(text(row, "additional_ref_answer"))
    video = text(row, "video")
    return SetQuestion(
        question_id=f"next-qa-oe:{video}:{text(row, 'qid')}",
        video=video,
        question=prompts.SENTENCE.format(question=text(row, "question")),
        references=tuple(dict.fromkeys(answers)),
        question_type=_next_qa_type(row),
    )


def _multiple_choice(row: Row) -> SetQuestion:
    choices = [text(row, f"a{position}") for position in range(len(_LETTERS))]
    right, video = whole(row, "answer"), text(row, "video")
    if right >= len(choices):
        raise RowError(f"`answer` is {right}, expected 0 to {len(choices) - 1}")
    options = "\n".join(
        f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=True)
    )
    letter, choice = _LETTERS[right], choices[right]
    return SetQuestion(
        question_id=f"next-qa-mc:{video}:{text(row, 'qid')}",
        video=video,
        question=prompts.CHOICE.format(question=text(row, "question"), options=options),
        # Punctuation does not count: "B." and "(B)" are "B" (video2lora_core.metrics).
        references=(letter, f"{letter}. {choice}", choice),
        question_type=_next_qa_type(row),
    )


def _next_qa_type(row: Row) -> str:
    code = text(row, "type")
    if code not in NEXT_QA_TYPES:
        raise RowError(f"`type` is {code!r}, expected one of {', '.join(NEXT_QA_TYPES)}")
    return NEXT_QA_TYPES[code]


def activitynet_qa(annotations: Path) -> Found:
    """Read ActivityNet-QA from `<split>_q.json`, with the answers from `<split>_a.json` beside it.

    Raises:
        UsageError: the path is not that of a file of questions, or a file is unreadable.
    """
    if not annotations.stem.endswith("_q"):
        raise UsageError(
            f"{annotations}: not a file of questions (expected a name like val_q.json); give that"
            " one, with val_a.json beside it"
        )
    beside = annotations.with_name(f"{annotations.stem[:-2]}_a{annotations.suffix}")
    answers: dict[str, Row] = {}
    for line, value in read_rows(beside):
        try:
            answers[text(as_row(value), "question_id")] = as_row(value)
        except RowError as error:
            yield line, BadRow(line=line, reason=f"{beside.name}: {error}")
    for line, value in read_rows(annotations):
        try:
            yield line, _activitynet_question(as_row(value), answers)
        except RowError as error:
            yield line, BadRow(line=line, reason=f"{annotations.name}: {error}")


def _activitynet_question(row: Row, answers: Mapping[str, Row]) -> SetQuestion:
    question_id = text(row, "question_id")
    if question_id not in answers:
        raise RowError(f"question {question_id} has no answer")
    answer = answers[question_id]
    kind = whole(answer, "type")
    if kind >= len(ACTIVITYNET_QA_TYPES):
        raise RowError(f"`type` is {kind}, expected 0 to {len(ACTIVITYNET_QA_TYPES) - 1}")
    return SetQuestion(
        question_id=f"activitynet-qa:{question_id}",
        video=text(row, "video_name"),
        question=prompts.SENTENCE.format(question=text(row, "question")),
        references=(text(answer, "answer"),),
        question_type=ACTIVITYNET_QA_TYPES[kind],
    )


def vidcapbench(annotations: Path) -> Found:
    """Read VidCapBench's questions."""
    for line, value in read_rows(annotations):
        try:
            row = as_row(value)
            video = text(row, "video_dir" if "video_dir" in row else "video")
            pairs = listed(row, "QA_pairs")
        except RowError as error:
            yield line, BadRow(line=line, reason=str(error))
            continue
        for position, pair in enumerate(pairs, start=1):
            try:
                yield line, _pair(PurePosixPath(video).name, position, as_row(pair))
            except RowError as error:
                yield line, BadRow(line=line, reason=f"{video}, pair {position}: {error}")


def _pair(video: str, position: int, row: Row) -> SetQuestion:
    category = text(row, "sub_category")
    if category not in VIDCAPBENCH_DIMENSIONS:
        raise RowError(f"`sub_category` {category!r} is none of the benchmark's")
    return SetQuestion(
        question_id=f"vidcapbench:{video}:{position}",
        video=video,
        question=prompts.SENTENCE.format(question=text(row, "question")),
        references=(text(row, "answer"),),
        question_type=VIDCAPBENCH_DIMENSIONS[category],
        metadata={"sub_category": category},
    )
