"""The command that measures speed: it runs the benchmarks of a source checkout."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli_app import app, examples

_NOT_BENCHMARKS = {"page"}
# What an adapter is worth, not how fast it is made: minutes each, and no figure of theirs changes
# with the machine.
_ONLY_WHEN_NAMED = {
    "answer_agreement",
    "approximations",
    "peft_parity",
    "quality_gate",
    "stored_dtype",
}


@app.command(
    epilog=examples(
        "video2lora bench",
        "video2lora bench hypernetwork preprocess --pairs 7 --out measured",
        "video2lora bench --quick",
    )
)
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Benchmarks to run; all of speed where none is named."),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", min=1, help="Timings of each way, in turns.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory for one JSON file per benchmark.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small shapes: does it run; its figures do not count.")
    ] = False,
) -> None:
    """Measure this machine: naive against ours, each benchmark in a process of its own."""
    root = Path(__file__).resolve().parents[1]
    chosen = choose(names or [], root)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        out = out.resolve()
    failed = []
    for name in chosen:
        typer.echo(f"== {name}", err=True)
        command = command_of(name, root, pairs=pairs, out=out, is_quick=quick)
        if subprocess.run(command, cwd=root, check=False).returncode:
            failed.append(name)
    if failed:
        from video2lora_core.errors import UsageError

        raise UsageError(
            f"bench: {', '.join(failed)} failed (of {len(chosen)} benchmarks); its message is above"
        )


def choose(names: list[str], root: Path) -> list[str]:
    """Return the benchmarks to run, in the order of their names: by default those of speed.

    Raises:
        UsageError: this is no source checkout, or a name is unknown.
    """
    from video2lora_core.errors import UsageError

    folder = root / "benchmarks"
    found = {path.stem for path in folder.glob("[a-z]*.py")} - _NOT_BENCHMARKS
    if not found:
        raise UsageError(
            f"bench: there is no {folder} (expected a source checkout: the installed package has "
            "no benchmarks); get the sources and run `make bench` there"
        )
    unknown = sorted(set(names) - found)
    if unknown:
        raise UsageError(
            f"bench: {', '.join(unknown)} is unknown (expected some of {', '.join(sorted(found))})"
        )
    return sorted(names or found - _ONLY_WHEN_NAMED)


def command_of(
    name: str, root: Path, *, pairs: int | None, out: Path | None, is_quick: bool
) -> list[str]:
    """Return one benchmark's command line, with the options that it has."""
    text = (root / "benchmarks" / f"{name}.py").read_text(encoding="utf-8")
    has_all = "make_parser(" in text
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    if pairs is not None and (has_all or '"--pairs"' in text):
        command += ["--pairs", str(pairs)]
    if is_quick and (has_all or '"--quick"' in text):
        command += ["--quick"]
    if out is not None and (has_all or '"--out"' in text):
        command += ["--out", str(out / f"{name}.json")]
    return command
