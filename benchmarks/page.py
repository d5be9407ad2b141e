"""Write the measured part of docs/benchmarks.md from the benchmarks' JSON files.

    video2lora bench --out runs/bench && .venv/bin/python -m benchmarks.page runs/bench

What stands between the two markers in docs/benchmarks.md is written anew from the files that there
are; text outside is left alone. Results of `--quick` runs are refused: nobody should quote them.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import _page_tables as tables
from benchmarks._page_pictures import PICTURES
from benchmarks._page_tables import Found, Measured

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
PAGE = Path("docs/benchmarks.md")
FOLDER = "pictures"

# The parts of a benchmark's own section, in this order: its picture, then these.
SECTIONS: Mapping[str, tuple[str, Sequence[Callable[[Measured], list[str]]]]] = {
    "stages": ("Stages of one segment", (tables.stage_lines, tables.throughput_lines)),
    "compiled": ("torch.compile", (tables.turn_lines, tables.compiled_lines)),
    "recompression": ("Recompression", (tables.turn_lines, tables.error_lines)),
    "answering": ("Many questions", (tables.turn_lines,)),
    "first_token": ("First tokens", (tables.turn_lines,)),
    "catalog": ("Catalog", (tables.turn_lines, tables.catalog_lines)),
    "workers": ("Workers", (tables.worker_lines,)),
    "corpus_size": ("Size of the corpus", (tables.size_lines,)),
}


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


def machine_line(found: Found) -> str:
    """Say where all was measured; a machine with more to do than cores is called busy."""
    first = next(iter(found.values()))
    loads = [each["load_average"][0] for each in found.values()]
    loads += [each["load_average_at_end"][0] for each in found.values() if _has_end(each)]
    days = sorted({each["measured_at"][:10] for each in found.values() if "measured_at" in each})
    machine = f"{first['cpu']}, " if first.get("cpu") else ""
    libraries = ", ".join(f"{name} {number}" for name, number in first.get("versions", {}).items())
    said = (
        f"Measured {' to '.join(sorted({days[0], days[-1]}))}. " if days else ""
    ) + f"{machine}{first['num_cores']} cores; device {first.get('device', 'cpu')}; one thread a "
    said += f"process. torch {first['torch']}{', ' if libraries else ''}{libraries}. "
    said += f"Load average {min(loads):.1f} to {max(loads):.1f}, the benchmark's own work included."
    is_busy = max(loads) > first["num_cores"]
    return said + (" **Other work was on the machine: read ratios only.**" if is_busy else "")


def _has_end(measured: Measured) -> bool:
    return "load_average_at_end" in measured


def section(name: str, title: str, measured: Measured, parts: Sequence[list[str]]) -> list[str]:
    """Return one benchmark's part of the page: heading, picture, tables."""
    blocks = ["\n".join(lines) for lines in parts if lines]
    if has_picture(name, measured):
        blocks.insert(0, f"![{PICTURES[name][0]}]({FOLDER}/{name}.svg)")
    if "stages" in measured:
        shape = measured.get("shape", {})
        blocks.insert(
            0,
            f"{measured['model']} with random weights, {shape.get('num_tokens', '?')} tokens, "
            f"{shape.get('dtype', 'float32')}. {tables.STAGES_NOTE}",
        )
    return [f"### {title}", *blocks] if blocks else []


def has_picture(name: str, measured: Measured) -> bool:
    """Say whether a benchmark's result can be drawn."""
    return name in PICTURES and bool(measured.get(PICTURES[name][1]))


def measured_part(found: Found) -> str:
    """Return what goes between the markers."""
    parts = [machine_line(found)]
    for title, lines in (
        ("### Against the bars", tables.verdict_lines(found)),
        ("### Naive over ours, the same function computed twice", tables.ratio_lines(found)),
    ):
        parts += [title, "\n".join(lines)] if lines else []
    for name, (title, makers) in SECTIONS.items():
        if name in found:
            parts += section(name, title, found[name], [make(found[name]) for make in makers])
    for name in sorted(set(found) - set(SECTIONS)):
        parts += section(name, name, found[name], [tables.turn_lines(found[name])])
    return "\n\n".join(parts)


def write_page(found: Found, page: Path) -> None:
    """Replace the measured part of the page, and draw its pictures."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"page: {page} lacks the markers {BEGIN} and {END}; put them back")
    page.write_text(f"{before}{BEGIN}\n{measured_part(found)}\n{END}{after}", encoding="utf-8")
    for name, (_, _, draw) in PICTURES.items():
        if name in found and has_picture(name, found[name]):
            picture = page.parent / FOLDER / f"{name}.svg"
            picture.parent.mkdir(exist_ok=True)
            picture.write_text(draw(found[name]) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write docs/benchmarks.md from measured JSON.")
    parser.add_argument("folder", type=Path, help="what `video2lora bench --out` wrote")
    parser.add_argument("--page", type=Path, default=PAGE, help=f"default: {PAGE}")
    options = parser.parse_args(arguments)
    write_page(read_measured(options.folder), options.page)


if __name__ == "__main__":
    main()
