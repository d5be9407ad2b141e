"""Draw the learning curves of a training run from its logs."""

import json
from pathlib import Path

from matplotlib.figure import Figure

# Okabe and Ito: told apart with any kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STAGES = ("see", "answer", "internalize")


def read_log(path: Path) -> list[dict[str, float]]:
    """Read a stage's log: one JSON object per logged step."""
    return [json.loads(line, parse_int=float) for line in path.read_text().splitlines()]


def draw_curves(directory: Path, picture: Path) -> None:
    """Draw loss and exact match of every stage found under `directory` as one PNG."""
    stages = [name for name in STAGES if (directory / name / "log.jsonl").exists()]
    figure = Figure(figsize=(4.2 * len(stages), 6.4), layout="constrained")
    axes = figure.subplots(2, len(stages), squeeze=False)
    for column, name in enumerate(stages):
        log = read_log(directory / name / "log.jsonl")
        top, bottom = axes[0, column], axes[1, column]
        top.plot([row["step"] for row in log], [row["loss"] for row in log], color=PALETTE[0])
        top.set(title=name, ylabel="loss", yscale="log")
        for index, (label, points) in enumerate(_exact_match(log).items()):
            steps, values = zip(*points, strict=True)
            bottom.plot(steps, values, label=label, color=PALETTE[index % len(PALETTE)])
        bottom.set(xlabel="step", ylabel="right (share)", ylim=(0, 1.02))
        bottom.legend(fontsize=7, loc="lower right")
    figure.savefig(picture, dpi=110)


def _exact_match(log: list[dict[str, float]]) -> dict[str, list[tuple[float, float]]]:
    """Collect (step, mean over types) per number of segments, or the frame read-out of stage 0."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in log:
        by_size: dict[str, list[float]] = {}
        for name, value in row.items():
            if name.startswith("right_"):
                size = name.split("_")[1]
                by_size.setdefault(f"{size} segment{'s' * (size != '1')}", []).append(value)
            elif name == "frame_colour_right":
                by_size["colour by shape, per frame"] = [value]
        for label, values in by_size.items():
            curves.setdefault(label, []).append((row["step"], sum(values) / len(values)))
    return dict(sorted(curves.items()))
