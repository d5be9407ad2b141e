"""The report of an evaluation: one HTML page, drawn from the rows of `evaluations`."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.evaluate_figures import Figure
from tasks.html_page import Section, Table, Thumbnail, html_page
from tasks.report_accuracy import (
    accuracy_section,
    difference_section,
    other_metrics_section,
    verdict_lines,
)
from tasks.report_cost import amortised_section, first_token_section
from tasks.report_figures import Figures
from tasks.report_sweeps import composition_section, ranks_section, sweep_section

_RIGHT = {True: "right", False: "wrong", None: "-"}
_PARTS = {
    "cost": (first_token_section, amortised_section),
    "composition": (composition_section,),
    "ranks": (ranks_section,),
    "sweep": (sweep_section,),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Everything that a report shows."""

    title: str
    facts: Sequence[tuple[str, str]]
    """What was evaluated: names and values."""
    figures: Sequence[Figure]
    examples: Sequence[Mapping[str, Any]]
    parts: Mapping[str, Mapping[str, float]]
    """By part that was measured: its seconds."""


def render_report(shown: Shown) -> str:
    """Return the whole page."""
    figures = Figures(shown.figures)
    sections = [_summary(shown, figures), accuracy_section(figures), difference_section(figures)]
    for part, makers in _PARTS.items():
        if part in shown.parts:
            sections += [make(figures) for make in makers]
    sections.append(other_metrics_section(figures))
    sections += [_example(number, e) for number, e in enumerate(shown.examples, start=1)]
    sections.append(_effort(shown))
    return html_page(shown.title, sections, lead="Figures with 95% intervals over videos.")


def _summary(shown: Shown, figures: Figures) -> Section:
    lines = verdict_lines(figures)
    if not shown.figures:
        lines = ["No question could be answered: no video of the set is in the lake."]
    table = Table(header=("what", ""), rows=shown.facts)
    return Section(heading="In short", paragraphs=lines, tables=(table,))


def _example(number: int, example: Mapping[str, Any]) -> Section:
    start_s, end_s = example["seconds"]
    references = " / ".join(example["references"]) or "(none given)"
    rows = [["reference", references, ""]]
    rows += [[mode, text or "(nothing)", _RIGHT[right]] for mode, text, right in example["answers"]]
    kind = f" ({example['question_type']})" if example["question_type"] else ""
    images: list[Thumbnail] = []
    if example["jpeg"]:
        text = f"Frames of the video, in order of time; asked about {start_s:g} to {end_s:g} s."
        images.append(Thumbnail(image=base64.b64decode(example["jpeg"]), text=text))
    return Section(
        heading=f"Example {number}{kind}: {example['question']}",
        tables=(Table(header=("who", "answer", "exact match"), rows=rows),),
        thumbnails=images,
    )


def _effort(shown: Shown) -> Section:
    rows = [
        [part, f"{spent['seconds']:.0f}", f"{spent['cpu_seconds']:.0f}"]
        for part, spent in shown.parts.items()
    ]
    return Section(
        heading="What measuring took",
        paragraphs=(
            "Each part is measured once and kept in the lake. Every figure above is a row of the "
            "table evaluations: select * from evaluations.",
        ),
        tables=(Table(header=("part", "seconds", "processor seconds"), rows=rows),),
    )
