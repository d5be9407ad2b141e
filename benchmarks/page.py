"""Write the measured part of docs/benchmarks.md from the benchmarks' JSON files.

    video2lora bench --out runs/bench && .venv/bin/python -m benchmarks.page runs/bench

What stands between the two markers in docs/benchmarks.md is written anew from the files that there
are; text outside is left alone. Results of `--quick` runs are refused: nobody should quote them.
"""

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.pictures import PALETTE, drawing, svg_of

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PAGE = Path("docs/benchmarks.md")
STAGES_PICTURE = "pictures/stages.svg"
Measured = Mapping[str, Any]


def read_measured(folder: Path) -> dict[str, Measured]:
    """Read every benchmark's file; `SystemExit` where one is of a quick run or none is there."""
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in folder.glob("*.json")}
    quick = sorted(name for name, each in found.items() if each.get("is_quick"))
    if quick or not found:
        raise SystemExit(
            f"page: {folder} holds {'quick runs: ' + ', '.join(quick) if quick else 'no result'} "
            "(expected full ones); run `video2lora bench --out DIR` first"
        )
    return found


def verdict_lines(found: Mapping[str, Measured]) -> list[str]:
    lines = ["| benchmark | what | found | bar | met | detail |", "|---|---|---|---|---|---|"]
    for name, measured in sorted(found.items()):
        for verdict in measured.get("verdicts", ()):
            sign = "at most" if verdict["is_upper"] else "at least"
            lines.append(
                f"| {name} | {verdict['what']} | {verdict['found']:.3g} | {sign} "
                f"{verdict['bar']:.3g} | {'yes' if verdict['is_met'] else 'no'} | "
                f"{verdict['detail']} |"
            )
    return lines if len(lines) > 2 else []


def ratio_lines(found: Mapping[str, Measured]) -> list[str]:
    lines = ["| benchmark | what | part | CPU time | min - max |", "|---|---|---|---|---|"]
    for name, measured in sorted(found.items()):
        for outcome in measured.get("outcomes", ()):
            ratios = outcome["ratios"]
            lines.append(
                f"| {name} | {outcome['subject']} | {outcome['part']} | "
                f"{statistics.median(ratios):.2f}x | {min(ratios):.2f} - {max(ratios):.2f} |"
            )
    return lines if len(lines) > 2 else []


def stage_lines(stages: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    lines = ["| stage | naive, ms | ours, ms |", "|---|---|---|"]
    for name, ways in stages.items():
        cells = [
            f"{1e3 * statistics.median(ways[way]):.2f}" if ways.get(way) else ""
            for way in ("naive", "ours")
        ]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    return lines


def draw_stages(stages: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Draw both ways' milliseconds as two stacked bars."""
    largest = sorted(stages, key=lambda name: -max(map(max, stages[name].values())))
    named = [name for name in stages if name in largest[: len(PALETTE) - 1]]
    with drawing(height_in=2.8) as (figure, (axes,)):
        for place, way in enumerate(("ours", "naive")):
            left = 0.0
            for colour, name in zip(PALETTE, [*named, "everything else"], strict=False):
                members = [name] if name in stages else [n for n in stages if n not in named]
                times = [stages[n][way] for n in members if stages[n].get(way)]
                width = 1e3 * sum(map(statistics.median, times))
                axes.barh(place, width, left=left, color=colour, label=name if place else None)
                left += width
        axes.set_yticks([0, 1], ["ours", "naive"])
        axes.set_xlabel("milliseconds for one segment, one core, stages one after another")
        axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.25), fontsize=8)
        return svg_of(figure)


def measured_part(found: Mapping[str, Measured]) -> str:
    """Return what goes between the markers."""
    first = next(iter(found.values()))
    loads = [each["load_average"][0] for each in found.values()]
    parts = [
        f"torch {first['torch']}, {first.get('device', 'cpu')}, {first['num_cores']} cores, one "
        f"thread; load average {min(loads):.1f} to {max(loads):.1f}. "
        + ("**A busy machine: read ratios only.**" if max(loads) > 1.5 else ""),
        *("\n".join(lines) for lines in (verdict_lines(found), ratio_lines(found)) if lines),
    ]
    if "stages" in found:
        stages = found["stages"]
        parts += [
            f"Where one segment's time goes, model {stages['model']} with random weights "
            f"({stages['num_tokens']} tokens):",
            f"![Milliseconds per stage, naive and ours]({STAGES_PICTURE})",
            "\n".join(stage_lines(stages["stages"])),
        ]
    return "\n\n".join(parts)


def write_page(found: Mapping[str, Measured], page: Path) -> None:
    """Replace the measured part of the page, and draw its picture."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"page: {page} lacks the markers {BEGIN} and {END}; put them back")
    page.write_text(f"{before}{BEGIN}\n{measured_part(found)}\n{END}{after}", encoding="utf-8")
    if "stages" in found:
        picture = page.parent / STAGES_PICTURE
        picture.parent.mkdir(exist_ok=True)
        picture.write_text(draw_stages(found["stages"]["stages"]) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write docs/benchmarks.md from measured JSON.")
    parser.add_argument("folder", type=Path, help="what `video2lora bench --out` wrote")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"default: {PAGE}")
    options = parser.parse_args(arguments)
    write_page(read_measured(options.folder), options.page)


if __name__ == "__main__":
    main()
