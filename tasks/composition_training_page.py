"""The page of the study that trains with and without compositions, from its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

Result = Mapping[str, Any]

COUNTS: Final = ("1", "2", "4", "8")
_ARMS: Final = {"composed": "trained on compositions", "single": "trained on single segments"}
_INTRO: Final = """# Training on compositions, or on single segments

Written by `python -m tasks.composition_training_study --out DIR`, which trains what is missing in
DIR and measures what is there.

The embedded default's hypernetwork is trained over its frozen VLM in two ways, {steps} steps each,
everything else equal, seeds {seeds}. **Trained on compositions**: every segment alone for the first
{solo_steps} steps, then random sums of 1 to 8 segments. **Trained on single segments**: every
segment alone to the last step; it never sees a sum, and per step it is asked about more rows (8 of
a group of 8, where the other arm asks about 6 sums).

The exam: {num_videos} videos for each number of segments, real H.264 files of unseen seeds, one
thing a segment, questions that name a thing. A video's adapters are summed plainly. An answer is
right if it is the reference, word for word. In brackets: the lowest and the highest seed.

"""


def write_page(
    results: Sequence[Result], page: Path, *, num_videos: int, steps: int, solo_steps: int
) -> None:
    """Write the page from `{"arm", "seed", "right": {segments: {kind: percent}}}`."""
    seeds = sorted({result["seed"] for result in results})
    parts = [
        _INTRO.format(
            steps=f"{steps:,}",
            solo_steps=solo_steps,
            num_videos=num_videos,
            seeds=", ".join(map(str, seeds)),
        )
    ]
    for kind, title in (
        ("all", "All questions"),
        ("motion", "How does it move"),
        ("exist", "Is it there"),
    ):
        parts += [f"## {title}\n\n", _table(results, kind), "\n"]
    parts += ["## Each seed\n\n", _seeds(results), "\n", _verdict(results)]
    page.write_text("".join(parts), encoding="utf-8")


def percents(results: Sequence[Result], arm: str, count: str, kind: str) -> list[float]:
    """Return one cell's figure of each seed."""
    return [
        float(result["right"][count][kind])
        for result in results
        if result["arm"] == arm and kind in result["right"].get(count, {})
    ]


def _table(results: Sequence[Result], kind: str) -> str:
    rows = [
        [title, *(_cell(percents(results, arm, count, kind)) for count in COUNTS)]
        for arm, title in _ARMS.items()
    ]
    asked = [
        str(result["right"][count]["num_questions"])
        for count in COUNTS
        for result in results[:1]
        if count in result["right"]
    ]
    bottom = [["number of questions", *asked]] if kind == "all" else []
    head = ["right, % by number of segments", *COUNTS]
    return _lines([head, ["---", *["---:"] * len(COUNTS)], *rows, *bottom])


def _seeds(results: Sequence[Result]) -> str:
    rows = [
        [
            f"{_ARMS[result['arm']]}, seed {result['seed']}",
            *(f"{result['right'][count]['all']:.1f}" for count in COUNTS),
        ]
        for result in sorted(results, key=lambda one: (one["arm"], one["seed"]))
        if all(count in result["right"] for count in COUNTS)
    ]
    return _lines([["all questions, %", *COUNTS], ["---", *["---:"] * len(COUNTS)], *rows])


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    return f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _verdict(results: Sequence[Result]) -> str:
    lines = ["## What this says\n\n"]
    for count in COUNTS:
        composed = percents(results, "composed", count, "all")
        single = percents(results, "single", count, "all")
        if not composed or not single:
            continue
        gain = sum(composed) / len(composed) - sum(single) / len(single)
        apart = min(composed) > max(single) or min(single) > max(composed)
        ranges = "the seeds' ranges do not meet" if apart else "the seeds' ranges meet"
        lines.append(
            f"* {count} segment{'s' * (count != '1')}: training on compositions changes the right "
            f"answers by {gain:+.1f} points; {ranges}.\n"
        )
    return "".join(lines)
