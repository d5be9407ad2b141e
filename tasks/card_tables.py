"""The tables of a model card, as Markdown, from the exam's results."""

from collections.abc import Mapping, Sequence
from typing import Any

Results = Mapping[str, Any]

ONE_SEGMENT_TYPES = ("count", "background", "colour", "shape", "motion", "order", "exist")
COMPOSED_TYPES = ("colour", "shape", "motion", "exist")
NUM_SEGMENTS = (1, 2, 4, 8)
FIRST_MODES = ("in context", "adapter", "another video's adapter", "blind")
WORLDS = ("mixed", "one thing each")
QUESTION_BARS = {1: 96.0, 2: 93.0, 4: 87.0, 8: 80.0}


def render(prose: str, results: Results, reproduction: Results | None) -> str:
    """Fill a card's prose: each `<!-- table: NAME -->` line is followed by that table."""
    tables = {
        "one segment": lambda: _by_type(results["papers"]["one segment"]),
        "unseen pairs": lambda: _by_type(results["papers"]["unseen pairs"]),
        "composed, mixed": lambda: _composed(results, "mixed"),
        "composed, one thing each": lambda: _composed(results, "one thing each"),
        "composed by type": lambda: _composed_by_type(results),
        "bars": lambda: _bars(results),
        "reproduction": lambda: _reproduction(results, reproduction),
        "identity": lambda: _identity(results),
    }
    lines = []
    for line in prose.splitlines():
        lines.append(line)
        name = line.removeprefix("<!-- table: ").removesuffix(" -->")
        if line.startswith("<!-- table: "):
            lines += ["", *tables[name]()]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    return [_row(head), _row(["---"] * len(head)), *map(_row, rows)]


def _percent(kinds: Mapping[str, Any], kind: str) -> str:
    return f"{kinds[kind]['percent']:.1f}" if kind in kinds else ""


def _by_type(paper: Mapping[str, Any]) -> list[str]:
    kinds = [*ONE_SEGMENT_TYPES, "questions", "caption"]
    rows = [[mode, *(_percent(paper["modes"][mode], k) for k in kinds)] for mode in FIRST_MODES]
    rows.append(["best constant answer", *(_percent(paper["best_constant"], k) for k in kinds)])
    counts = [paper["modes"]["blind"].get(k, {}).get("num_questions", "") for k in kinds]
    rows.append(["number of questions", *counts])
    return _table([f"right, % ({paper['num_videos']} videos)", *kinds], rows)


def _composed_paper(results: Results, count: int, world: str) -> Mapping[str, Any]:
    paper: Mapping[str, Any] = results["papers"][f"{count} segments, {world}"]
    return paper


def _composed(results: Results, world: str) -> list[str]:
    papers = [_composed_paper(results, count, world) for count in NUM_SEGMENTS]
    rows: list[list[object]] = []
    for mode in papers[-1]["modes"]:
        shown = "adapters, summed" if mode == "adapter" else mode
        cells = [_percent(paper["modes"].get(mode, {}), "questions") for paper in papers]
        rows.append([shown, *cells])
    rows.append(
        ["best constant answer", *(_percent(p["best_constant"], "questions") for p in papers)]
    )
    counts = [paper["modes"]["adapter"]["questions"]["num_questions"] for paper in papers]
    rows.append(["number of questions", *counts])
    head = f"right, % ({papers[0]['num_videos']} videos per column)"
    return _table([head, *(f"{n} segment{'s' * (n > 1)}" for n in NUM_SEGMENTS)], rows)


def _composed_by_type(results: Results) -> list[str]:
    rows = []
    for world in WORLDS:
        papers = [_composed_paper(results, count, world) for count in NUM_SEGMENTS]
        for kind in COMPOSED_TYPES:
            cells = [_percent(paper["modes"]["adapter"], kind) for paper in papers]
            rows.append([world, kind, *cells])
    return _table(["scenes", "summed adapters, right %", *map(str, NUM_SEGMENTS)], rows)


def _bars(results: Results) -> list[str]:
    rows = [
        [text, bar, f"{found:.1f}", "yes" if ok else "NO"] for text, bar, found, ok in bars(results)
    ]
    return _table(["what", "bar", "measured", "met"], rows)


def bars(results: Results) -> list[tuple[str, str, float, bool]]:
    """List the bars that the embedded default is held to: what, bar, measured, met."""
    one = results["papers"]["one segment"]
    context, adapter = one["modes"]["in context"], one["modes"]["adapter"]

    def at_least(text: str, found: float, bar: float) -> tuple[str, str, float, bool]:
        return text, f">= {bar:.1f}", found, found >= bar

    def part(kinds: Mapping[str, Any], kind: str) -> float:
        return float(kinds[kind]["percent"])

    listed = [
        at_least("in context, all questions", part(context, "questions"), 95.0),
        at_least(
            "adapter / in context, all questions, %",
            100 * part(adapter, "questions") / part(context, "questions"),
            97.0,
        ),
        *(
            at_least(f"adapter, {kind}", part(adapter, kind), 90.0 if kind == "motion" else 95.0)
            for kind in ("colour", "shape", "count", "exist", "motion")
        ),
        *(
            at_least(
                f"adapter / in context, {kind}, %",
                100 * part(adapter, kind) / part(context, kind),
                bar,
            )
            for kind, bar in (("order", 90.0), ("caption", 80.0))
        ),
        *_control_bars(one),
    ]
    for world in WORLDS:
        listed += _composition_bars(results, world)
    return listed


def _control_bars(paper: Mapping[str, Any]) -> list[tuple[str, str, float, bool]]:
    """No better than the best constant answer per type + 2 standard errors."""
    listed = []
    for mode in ("another video's adapter", "blind"):
        for kind in ONE_SEGMENT_TYPES:
            constant = paper["best_constant"][kind]
            bar = constant["percent"] + 2 * constant["standard_error"]
            found = paper["modes"][mode][kind]["percent"]
            listed.append((f"{mode}, {kind}", f"<= {bar:.1f}", found, found <= bar))
    return listed


def _composition_bars(results: Results, world: str) -> list[tuple[str, str, float, bool]]:
    listed = []
    for count, bar in QUESTION_BARS.items():
        modes = _composed_paper(results, count, world)["modes"]
        found = {mode: kinds["questions"]["percent"] for mode, kinds in modes.items()}
        what = f"{count} segment{'s' * (count > 1)}, {world}"
        listed.append((f"{what}: sum", f">= {bar:.1f}", found["adapter"], found["adapter"] >= bar))
        context = found["in context"]
        listed.append((f"{what}: in context", ">= 94.0", context, context >= 94.0))
        if count > 1:
            alone, rank = found["right segment alone"], found["rank 16"]
            floor = found["adapter"] - 2.0
            listed.append((f"{what}: right segment alone", ">= 96.0", alone, alone >= 96.0))
            listed.append((f"{what}: rank 16", f">= {floor:.1f}", rank, rank >= floor))
    return listed


def _reproduction(results: Results, reproduction: Results | None) -> list[str]:
    """Compare a second run by its files; its own exam is shown where the files differ."""
    if reproduction is None:
        return ["No second run has been recorded."]
    files = ("vlm_weights_sha256", "checkpoint_sha256")
    rows: list[list[object]] = [
        [key, f"`{results[key][:16]}`", f"`{reproduction[key][:16]}`"] for key in files
    ]
    if all(results[key] == reproduction[key] for key in files):
        same = (
            "The second run ended in the same files, bit for bit, so the tables above are its too."
        )
        return [*_table(["file", "shipped", "second run"], rows), "", same]
    for name, paper in results["papers"].items():
        other = reproduction["papers"][name]
        for mode in ("in context", "adapter"):
            cells = [_percent(p["modes"][mode], "questions") for p in (paper, other)]
            rows.append([f"{name}, {mode}, right %", *cells])
    return _table(["", "shipped", "second run"], rows)


def _identity(results: Results) -> list[str]:
    rows = [[key, f"`{results[key]}`"] for key in ("checkpoint_sha256", "vlm_weights_sha256")]
    return _table(["file", "sha256"], rows)
