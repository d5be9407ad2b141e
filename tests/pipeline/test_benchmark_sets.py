"""Public annotation formats, from handwritten files with invented content and faults in them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.lake import open_lake
from tasks.benchmark_sets import BENCHMARKS, read_benchmark, write_question_set
from tasks.benchmark_sets.rows import RowError, listed, number, text, whole
from tasks.question_files import read_questions
from tasks.question_set import SetQuestion
from tests.core.video_factory import write_video
from video2lora_core.errors import UsageError
from video2lora_core.metrics import exact_match

ANNOTATIONS = Path(__file__).parent / "annotations"
FILES = {
    "activitynet-captions": "anet_captions.json",
    "plm-rdcap": "plm_rdcap.jsonl",
    "plm-rcap": "plm_rcap.jsonl",
    "plm-sgqa": "plm_sgqa.jsonl",
    "vdc": "vdc.jsonl",
    "carebench": "carebench.json",
    "next-qa-oe": "next_qa_oe.csv",
    "next-qa-mc": "next_qa_mc.csv",
    "activitynet-qa": "anet_q.json",
    "vidcapbench": "vidcapbench.jsonl",
}
BAD = {
    "activitynet-captions": [
        (2, "event 1: its span 5 s to 5 s is empty"),
        (2, "event 2: its span -1 s"),
        (2, "event 3: its timestamp is no pair"),
        (2, "event 4: `sentences` is empty"),
        (2, "event 5: `timestamps` is float 'nan', expected a number"),
        (3, "v_AAAAAAAAAA3, event 2: `sentences` is missing"),
        (4, "`duration` is str 'long'"),
        (5, "v_AAAAAAAAAA5: it is list '[]', expected an object"),
    ],
    "plm-rdcap": [
        (2, "`dense_captions` is list '[]', expected a list with entries"),
        (3, "event 1: `caption` is missing"),
        (4, "`masklet_id` is bool 'True', expected a whole number"),
    ],
    "plm-rcap": [(3, "frames 40 to 39 of 80 are no span"), (4, "frames 0 to 0 of 0")],
    "plm-sgqa": [(3, "plm-sgqa:s1 is there twice"), (4, "`question` is list")],
    "vdc": [
        (2, "boat: `detailed_caption` is float '3.5', expected a text"),
        (2, "boat: `main_object_caption` is empty"),
        (3, "`video_name` is missing"),
        (4, "not one JSON object"),
    ],
    "carebench": [(2, "saw.mp4: `caption` is empty"), (3, "`video` is missing")],
    "next-qa-oe": [(4, "`question` is empty")],
    "next-qa-mc": [
        (5, "`a1` is empty"),
        (6, "`type` is 'XX', expected one of CW, CH"),
        (7, "not as many cells"),
        (4, "`answer` is 5, expected 0 to 4"),
    ],
    "activitynet-qa": [
        (4, "anet_a.json: `question_id` is missing"),
        (3, "anet_q.json: `type` is 9, expected 0 to 8"),
        (4, "anet_q.json: question v_AAAAAAAAAA2_2 has no answer"),
        (5, "anet_q.json: it is str 'no row'"),
    ],
    "vidcapbench": [
        (1, "pair 3: `sub_category` 'smell' is none"),
        (3, "`QA_pairs` is str 'none', expected a list"),
    ],
}


def read(name: str, videos: Path | None = None) -> tuple[list[SetQuestion], list[Any]]:
    return read_benchmark(name, ANNOTATIONS / FILES[name], videos)


def by_id(name: str) -> dict[str, SetQuestion]:
    return {question.question_id: question for question in read(name)[0]}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_wrong_row_is_told_with_its_line_and_reason(name: str) -> None:
    _, bad = read(name)
    expected = sorted(BAD[name])
    assert [row.line for row in sorted(bad, key=lambda row: row.line)] == [n for n, _ in expected]
    missing = [part for _, part in expected if not any(part in row.reason for row in bad)]
    assert missing == []


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_question_has_an_id_of_its_own_a_type_and_a_reference(name: str) -> None:
    questions, _ = read(name)
    assert questions
    assert len({question.question_id for question in questions}) == len(questions)
    assert all(question.question_id.startswith(f"{name}:") for question in questions)
    assert all(question.references and all(question.references) for question in questions)
    assert all(question.question_type for question in questions) or name == "plm-sgqa"


def test_activitynet_captions_asks_about_each_event_within_the_video() -> None:
    first, second = read("activitynet-captions")[0][:2]
    assert (first.video, first.start_us, first.end_us) == ("v_AAAAAAAAAA1", 0, 10_250_000)
    # Its end, 83.1 s, lies beyond the video's.
    assert (second.start_us, second.end_us) == (9_900_000, 82_500_000)
    assert second.references == ("He plays it.",)


def test_next_qa_gives_both_answers_and_the_papers_prompt() -> None:
    asked = by_id("next-qa-oe")["next-qa-oe:1000000001:1"]
    assert asked.question == (
        "what does the robot hold\nAnswer only the question, in one sentence."
    )
    assert asked.references == ("a cup", "mug")
    assert asked.question_type == "descriptive: other"
    assert by_id("next-qa-oe")["next-qa-oe:1000000002:3"].references == ("yes",)


def test_next_qa_options_have_letters_and_the_right_one_counts_in_every_form() -> None:
    asked = by_id("next-qa-mc")["next-qa-mc:1000000001:7"]
    assert asked.question.splitlines()[:3] == [
        "why is the cat, the grey one, running",
        "A. chases a ball",
        "B. is hungry",
    ]
    for right in ("A", "A.", "(A)", "a", "A. chases a ball", "chases a ball"):
        assert exact_match(right, asked.references) == 1.0
    for wrong in ("", "B", "the", "B. is hungry"):
        assert exact_match(wrong, asked.references) == 0.0


def test_activitynet_qa_finds_the_answers_beside_the_questions() -> None:
    asked = by_id("activitynet-qa")["activitynet-qa:v_AAAAAAAAAA1_2"]
    assert (asked.video, asked.references, asked.question_type) == ("AAAAAAAAAA1", ("2",), "number")


def test_captioning_sets_ask_once_per_style() -> None:
    styles = {question.question_type: question for question in read("vdc")[0][:5]}
    assert list(styles) == ["short", "detailed", "background", "main_object", "camera"]
    assert len({question.question for question in styles.values()}) == 5
    dimensions = [question.question_type for question in read("carebench")[0]]
    assert dimensions == ["general", "spatial", "temporal"]


def test_dense_captions_become_one_reference_in_the_order_of_time() -> None:
    assert read("plm-rdcap")[0][0].references == ("A bird sits. It flies off.",)


def test_vidcapbench_types_are_its_four_dimensions() -> None:
    found = [(question.video, question.question_type) for question in read("vidcapbench")[0]]
    assert found == [
        ("Example_1.mp4", "aesthetics"),
        ("Example_1.mp4", "physical laws"),
        ("Example_2.mp4", "motion"),
    ]


def test_with_videos_questions_name_files_and_missing_ones_are_told(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    kept = tmp_path / "deep" / "v_AAAAAAAAAA1.MKV"
    kept.write_bytes(b"")
    (tmp_path / "AAAAAAAAAA2.txt").write_bytes(b"")
    questions, bad = read("activitynet-qa", tmp_path)
    assert {question.video for question in questions} == {str(kept)}
    (tmp_path / "v_AAAAAAAAAA1.mp4").write_bytes(b"")
    questions, bad = read("activitynet-qa", tmp_path)
    assert questions == []
    assert any(
        "several files" in row.reason and "deep/v_AAAAAAAAAA1.MKV" in row.reason for row in bad
    )
    _, bad = read("next-qa-oe", tmp_path)
    assert [row.line for row in bad if "no file of this name" in row.reason] == [2, 3, 5]


def test_frames_become_times_where_the_video_is_at_hand(tmp_path: Path) -> None:
    write_video(tmp_path / "sav_1.mp4", numbers=range(80))  # 8 frames per second
    (tmp_path / "sav_2.mp4").write_bytes(b"no video")
    questions, bad = read("plm-rcap", tmp_path)
    spans = [(question.start_us, question.end_us) for question in questions]
    assert spans == [(0, 5_000_000), (5_000_000, 10_000_000)]
    assert [row.reason for row in bad if row.line == 5] == [
        "video sav_2.mp4: NOT_MEDIA, so its length is unknown"
    ]
    without = read("plm-rcap")[0][1]
    assert (without.start_us, without.metadata["start_frame"]) == (None, 40)


def test_parquet_reads_as_jsonl_does(tmp_path: Path) -> None:
    lines = (ANNOTATIONS / FILES["plm-rcap"]).read_text().splitlines()
    pq.write_table(
        pa.Table.from_pylist([json.loads(line) for line in lines]), tmp_path / "r.parquet"
    )
    assert read_benchmark("plm-rcap", tmp_path / "r.parquet") == read("plm-rcap")


@pytest.mark.parametrize("name", BENCHMARKS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b'{"a"', "not a readable|no question"),
        (b"\xff\xfe", "not a readable"),
    ],
)
def test_a_file_that_is_damaged_as_a_whole_is_refused(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / FILES[name]
    if content is not None:
        path.write_bytes(content)
        (tmp_path / "anet_a.json").write_bytes(content)
    if content is not None and path.suffix != ".json":
        questions, bad = read_benchmark(name, path)  # line by line: each of them is told
        assert (questions, len(bad)) == ([], 0 if path.suffix == ".csv" else 1)
        return
    with pytest.raises(UsageError, match=message):
        read_benchmark(name, path)


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("next-qa", "next_qa_mc.csv", "not a known benchmark"),
        ("vdc", "vdc.xml", "not an annotation file"),
        ("carebench", "anet_captions.json", "expected a list of rows"),
        ("activitynet-captions", "carebench.json", "expected an object of videos"),
        ("activitynet-qa", "anet_a.json", "not a file of questions"),
    ],
)
def test_the_wrong_file_is_refused(name: str, file: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_benchmark(name, ANNOTATIONS / file)


def test_bytes_that_are_no_text_spoil_their_row_alone(tmp_path: Path) -> None:
    lines = (ANNOTATIONS / "next_qa_oe.csv").read_bytes().splitlines(keepends=True)
    spoilt = tmp_path / "val.csv"
    spoilt.write_bytes(b"".join([*lines, b"1000000009,1,1,1,what is \xff\xfe,a,1,DO,\n"]))
    questions, bad = read_benchmark("next-qa-oe", spoilt)
    assert len(questions) == 3
    assert bad[-1].reason == "`question` is no Unicode text"


def test_a_question_set_reads_back_as_it_was_written(tmp_path: Path) -> None:
    lake = open_lake(str(tmp_path / "lake"), create=True)
    questions = [question for name in BENCHMARKS for question in read(name)[0]]
    path = tmp_path / "made" / "set.jsonl"
    assert write_question_set(iter(questions), path) == len(questions)
    assert list(read_questions(str(path), lake)) == questions
    assert [file.name for file in path.parent.iterdir()] == ["set.jsonl"]


def test_a_question_set_that_fails_half_way_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text("old")

    def failing() -> Any:
        yield read("plm-sgqa")[0][0]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_question_set(failing(), path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("set.jsonl", "old")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(JSON)
def test_any_value_is_a_field_or_a_row_error(value: Any) -> None:
    for check in (text, whole, listed, lambda row, name: number(row[name], name)):
        try:
            found = check({"x": value}, "x")
        except RowError as error:
            found = str(error)
            is_told = "`x`" in found
        else:
            is_told = found is not None
        assert is_told


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
@settings(max_examples=12)
@given(rows=st.lists(JSON, max_size=4))
def test_no_content_stops_a_reader(name: str, rows: list[Any], tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "any_q.json"
    path.write_text(json.dumps(dict(enumerate(rows)) if name == "activitynet-captions" else rows))
    path.with_name("any_a.json").write_text(json.dumps(rows))
    questions, bad = read_benchmark(name, path)
    assert (questions, bool(bad)) == ([], bool(rows))


def test_the_command_writes_a_set_and_tells_what_it_left_out(call: Any, tmp_path: Path) -> None:
    out = tmp_path / "q.jsonl"
    arguments = ["question-set", "next-qa-mc", ANNOTATIONS / "next_qa_mc.csv", "--out", out]
    code, stdout, stderr = call(*arguments)
    assert (code, stdout) == (0, f"{out}: 2 questions about 1 videos\n")
    assert "left out: line 4: `answer` is 5, expected 0 to 4" in stderr
    code, stdout, _ = call(*arguments, "--json")
    told = json.loads(stdout)
    assert (told["num_questions"], told["num_videos"], len(told["bad_rows"])) == (2, 1, 4)
    assert len(out.read_text().splitlines()) == 2


def test_the_command_fails_where_nothing_is_left(call: Any, tmp_path: Path) -> None:
    path = tmp_path / "vdc.jsonl"
    path.write_text("no JSON\n")
    code, _, stderr = call("question-set", "vdc", path, "--out", tmp_path / "q.jsonl")
    assert code == 1
    assert "no question of vdc in it (1 bad rows; the first: line 1" in " ".join(stderr.split())
    assert not (tmp_path / "q.jsonl").exists()


def test_the_commands_help_and_the_page_name_every_benchmark(call: Any) -> None:
    _, stdout, _ = call("question-set", "--help")
    page = (Path(__file__).parents[2] / "docs" / "benchmark-sets.md").read_text(encoding="utf-8")
    for name, benchmark in BENCHMARKS.items():
        assert name in stdout
        assert f"| `{name}` | {benchmark.title} |" in page
