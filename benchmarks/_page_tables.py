"""The tables of docs/benchmarks.md, from the benchmarks' JSON: lines of Markdown, or none.

A function returns [] where its benchmark did not run, or an older one wrote other keys.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Measured = Mapping[str, Any]
Found = Mapping[str, Measured]
STAGES_NOTE = (
    "Each stage was timed alone. Before is the plain form, after is ours. `answer` is one short "
    "question: before with the segment in context, after from its adapter; it is in no bar of the "
    "picture, nor are `load` and `compose 8`."
)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lay rows out; nothing where there is none."""
    if not rows:
        return []
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def number(value: float) -> str:
    """Write three figures, and whole numbers from a thousand on."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def spread(ratios: Sequence[float]) -> list[str]:
    """Return median, least to largest, and how many."""
    middle, least, largest = statistics.median(ratios), min(ratios), max(ratios)
    return [f"{number(middle)}x", f"{number(least)} - {number(largest)}", str(len(ratios))]


def verdict_lines(found: Found) -> list[str]:
    rows = []
    for name, measured in sorted(found.items()):
        for verdict in measured.get("verdicts", ()):
            sign = "at most" if verdict["is_upper"] else "at least"
            bar = f"{sign} {verdict['bar']:.3g}"
            met = "yes" if verdict["is_met"] else "**no**"
            shown = f"{verdict['found']:.3g}"
            rows.append([name, verdict["what"], shown, bar, met, verdict["detail"]])
    return table(["benchmark", "what", "found", "bar", "met", "detail"], rows)


def ratio_lines(found: Found) -> list[str]:
    """Two forms of one function: naive over ours."""
    rows = [
        [name, o["subject"], o["part"], _deviation(o), *spread(o["ratios"])]
        for name, measured in sorted(found.items())
        for o in measured.get("outcomes", ())
    ]
    heads = ["benchmark", "what", "part", "deviation", "CPU time", "min - max", "pairs"]
    return table(heads, rows)


def _deviation(outcome: Mapping[str, Any]) -> str:
    """Empty where what is compared are pixels or whole runs, which the benchmark checks itself."""
    return f"{outcome['deviation']:.0e}" if "deviation" in outcome else ""


def turn_lines(measured: Measured) -> list[str]:
    """Ways that take turns: the first over the second."""
    rows = [
        [
            line["room"],
            line["subject"],
            f"{line['slow']} over {line['fast']}",
            *spread(line["ratios"]),
            number(1e3 * line["fast_s"]),
        ]
        for line in measured.get("lines", ())
    ]
    heads = ["where", "what", "first over second", "CPU time", "min - max", "turns", "second, ms"]
    return table(heads, rows)


def stage_lines(measured: Measured) -> list[str]:
    rows = []
    for name, ways in measured["stages"].items():
        cells = [
            number(1e3 * statistics.median(ways[way])) if ways.get(way) else ""
            for way in ("naive", "ours")
        ]
        pairs = zip(ways.get("naive", ()), ways.get("ours", ()), strict=False)
        ratios = [naive / ours for naive, ours in pairs if ours]
        rows.append([name, *cells, *(spread(ratios)[:2] if ratios else ["", ""])])
    return table(["stage", "before, ms", "after, ms", "ratio", "min - max"], rows)


def throughput_lines(measured: Measured) -> list[str]:
    rows = [
        [
            row["batch_segments"],
            row["way"],
            number(row["segments_per_s"]),
            number(row["tflop_per_s"]),
            f"{100 * row['share_of_matmul']:.0f}%",
        ]
        for row in (measured.get("throughput") or {}).get("rows", ())
    ]
    heads = ["segments a batch", "way", "segments/s", "TFLOP/s", "of a plain matrix product"]
    return table(heads, rows)


def catalog_lines(measured: Measured) -> list[str]:
    """What the questions read, counted."""
    rows = []
    for lake in ("small", "grown"):
        for room, counted in measured.get("counts", {}).get(lake, {}).items():
            for asked, ways in counted["questions"].items():
                if all(ways.values()):
                    cells = [
                        f"{way['read_bytes'] / 1e3:,.0f} kB, {way['reads']:,} reads"
                        for way in ways.values()
                    ]
                    rows.append([room, asked, *cells])
    return table(["where", "what", "the lake's views", "one Parquet file"], rows)


def compiled_lines(measured: Measured) -> list[str]:
    rows = []
    for name, told in measured.get("compiled", {}).items():
        if "failed" in told:
            rows.append([name, told["failed"], "", ""])
            continue
        paid = told["batches_until_paid"]
        rows.append(
            [
                name,
                f"{told['compile_cpu_s']:.0f} s",
                f"{told['deviation']:.0e}",
                "never" if paid is None else f"{paid:,.0f}",
            ]
        )
    return table(["what", "compiling, CPU", "deviation", "batches until it has paid"], rows)


def error_lines(measured: Measured) -> list[str]:
    errors = measured.get("errors", {})
    rows = [[name, *(f"{x:.4f}" for x in ways.values())] for name, ways in errors.items()]
    ways: Mapping[str, float] = next(iter(errors.values()), {})
    return table(["relative error of the update", *ways], rows)


def worker_lines(measured: Measured) -> list[str]:
    names = {"one": "one worker", "two": "two workers, one lake", "apart": "two, a lake each"}
    rows = []
    for way, name in names.items():
        rounds = measured.get("rounds", {}).get(way, ())
        if not rounds:
            return []
        wall, cpu = (statistics.median(each[key] for each in rounds) for key in ("wall_s", "cpu_s"))
        gains = measured["gains"].get(way)
        rows.append(
            [name, f"{wall:.1f}", f"{cpu:.1f}", *(spread(gains)[:2] if gains else ["", ""])]
        )
    return table(["way", "wall s", "CPU s of all", "over one", "min - max"], rows)


def size_lines(measured: Measured) -> list[str]:
    """What each size of a corpus took."""
    rounds = measured.get("rounds", ())
    rows = []
    for size in rounds[0] if rounds else ():
        cpu, wall, peak = (
            statistics.median(each[size][key] for each in rounds)
            for key in ("cpu_s", "wall_s", "peak_mib")
        )
        rows.append([f"{int(size):,}", f"{cpu:.1f}", f"{wall:.1f}", f"{peak:.0f}"])
    return table(["videos", "CPU s", "wall s", "peak MiB"], rows)
