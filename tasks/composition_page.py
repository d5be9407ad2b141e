"""The page, and the picture, of the composition study, from its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from video2lora_core.routing import NUM_COMPOSED
from video2lora_core.training.curves import PALETTE

Results = Mapping[str, Any]

_DRAWN: Final = (
    ("right segment alone", "right segment alone (ceiling)", "--"),
    (f"route-compose {NUM_COMPOSED}", "route-compose (default)", "-"),
    ("route", "route", "-"),
    ("compose", "compose (plain sum)", "-"),
    ("blind", "blind (floor)", ":"),
)
_INTRO: Final = """# How many segments a question can be asked over

Written by `make composition` (`python -m tasks.composition_study`); the figures are in
`composition.json`.

A video's adapters are summed, and the more of them there are, the more an answer drowns in the
others. This page measures how much, on the embedded default, and what choosing segments by the
question buys. {num_videos} generated films of 31 segments (4 s each), real H.264 files of unseen
seeds; one thing a scene; only things that come once are asked about, while other things come again
and again. A question names a thing: how it moves (one of six), or whether it is there (half yes,
half no or nearly so). An answer is right if it is the reference, word for word.

* **compose**: all segments are summed. With `svd R` or `top_k R` the sum is reduced to R ranks.
* **route**: the segment that the question moves most answers alone.
* **route-compose m**: the m most relevant segments are summed. m = {num_composed} is what
  `video2lora ask` does by default; up to m segments it is the plain sum.
* **right segment alone**: the adapter of the segment that shows the thing, as if one knew: the
  ceiling. **blind**: no adapter: the floor.
* **span**: the question comes with a time range of two segments around the thing; only those are
  summed, as `video2lora ask --from --to` does, whatever the strategy.

Relevance is the KL divergence from what the bias alone would answer to what the segment's adapter
answers, summed over the answer's tokens (`video2lora_core/routing.py`).

![Right answers against the number of segments](composition.png)

"""


def write_page(results: Results, directory: Path) -> None:
    """Write composition.md and composition.png."""
    _draw(results, directory / "composition.png")
    parts = [_INTRO.format(**results)]
    for kind, title in (
        ("object", "All questions that name a thing"),
        ("motion", "How does it move"),
        ("exist", "Is it there (the whole video counts)"),
    ):
        parts += [f"## {title}\n\n", _table(results, kind), "\n"]
    parts.append(_verdict(results))
    (directory / "composition.md").write_text("".join(parts), encoding="utf-8")


def percent(results: Results, name: str, count: int, kind: str) -> float:
    """Return one cell of the study, in percent."""
    return next(
        float(cell["percent"])
        for cell in results["cells"]
        if (cell["name"], cell["num_segments"], cell["kind"]) == (name, count, kind)
    )


def _table(results: Results, kind: str) -> str:
    counts = results["num_segments"]
    names = list(dict.fromkeys(cell["name"] for cell in results["cells"]))
    rows = [[name, *(f"{percent(results, name, n, kind):.1f}" for n in counts)] for name in names]
    asked = [
        str(cell["num_questions"])
        for cell in results["cells"]
        if (cell["name"], cell["kind"]) == ("compose", kind)
    ]
    head = ["right, % by number of segments", *map(str, counts)]
    lines = [head, ["---", *["---:"] * len(counts)], *rows, ["number of questions", *asked]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _verdict(results: Results) -> str:
    single = percent(results, "right segment alone", 1, "object")
    if not single:
        return "This model answers nothing, not from the right segment either.\n"
    default = f"route-compose {results['num_composed']}"
    lines = ["## What this says\n\n"]
    for count, bar in ((8, 90), (31, 80)):
        kept = 100 * percent(results, default, count, "object") / single
        plain = 100 * percent(results, "compose", count, "object") / single
        lines.append(
            f"* At {count} segments {default} keeps {kept:.1f}% of the accuracy of a single "
            f"segment (bar: {bar}%), the plain sum {plain:.1f}%.\n"
        )
    return "".join(lines)


def _draw(results: Results, picture: Path) -> None:
    counts = results["num_segments"]
    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    for axis, kind in zip(figure.subplots(1, 2, sharey=True), ("motion", "exist"), strict=True):
        for index, (name, label, style) in enumerate(_DRAWN):
            values: Sequence[float] = [percent(results, name, n, kind) for n in counts]
            axis.plot(counts, values, style, marker="o", label=label, color=PALETTE[index])
        axis.set(xscale="log", xlabel="segments", ylim=(0, 103))
        axis.set_title("How does it move?" if kind == "motion" else "Is it there?")
        axis.set_xticks(counts, [str(count) for count in counts])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    figure.axes[0].set_ylabel("right answers, %")
    figure.axes[1].legend(fontsize=8, loc="lower left")
    figure.savefig(picture, dpi=110)
