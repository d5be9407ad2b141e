"""The command line's frame: the application, the options that several commands share, examples."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

EXIT_CODES = """[bold]Exit codes[/bold]

  0  done, and where videos were rejected too (see --fail-on-rejects)

  1  an error, or faults that verify or doctor found

  2  a wrong call: an unknown command, option or value

  3  done, but something was rejected and --fail-on-rejects was given

  130  interrupted by Ctrl-C; 143 by SIGTERM. What is committed stays, the same command goes on"""
REJECTED, INTERRUPTED = 3, 130
# May stand before the command or after it, where the command has no option of that name itself.
_ANYWHERE = {"--quiet": 0, "-q": 0, "--verbose": 0, "--traceback": 0, "--log-format": 1}


class Commands(TyperGroup):
    """Lets global options stand anywhere, and ends Ctrl-C with a line of what is done."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move global options to the front."""
        return super().parse_args(ctx, self._with_global_options_first(args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C becomes one line and exit code 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            done = f"interrupted{f': {stopped}' if str(stopped) else ''}"
            fail(f"{done}; run the same command again, what is done stays done", code=INTERRUPTED)

    def _with_global_options_first(self, args: Sequence[str]) -> list[str]:
        command = next((self.commands[word] for word in args if word in self.commands), None)
        own = {name for param in command.params for name in param.opts} if command else set()
        moved: list[str] = []
        left: list[str] = []
        words = list(args)
        while words:
            word = words.pop(0)
            if word == "--":
                left += [word, *words]
                break
            if word.partition("=")[0] not in _ANYWHERE or word in own:
                left.append(word)
                continue
            number = 0 if "=" in word else _ANYWHERE[word]
            moved += [word, *words[:number]]
            del words[:number]
        return moved + left


def fail(message: str, *, code: int) -> None:
    """End with one line on stderr: text, or JSON where log lines are."""
    from flows.manners import LogFormat, current

    if current().log_format == LogFormat.JSON:
        import logging

        logging.getLogger("flows").error(message, extra={"exit_code": code})
    else:
        typer.echo(f"Error: {message}", err=True)
    raise SystemExit(code)


def examples(*commands: str) -> str:
    """Return the epilog of a command that shows how it is called."""
    # Typer keeps a line break of an epilog only where a paragraph ends.
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  {command}" for command in commands)])


app = typer.Typer(
    name="video2lora",
    help="Turn videos into LoRA adapters, and ask a frozen model about them without any visual"
    " token.",
    epilog="Start with [bold]video2lora demo[/bold]. Every command has --help with examples.\n\n"
    + EXIT_CODES,
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Lake = Annotated[
    str, typer.Option("--lake", help="The lake: a directory or s3://bucket/prefix.", metavar="URI")
]
Model = Annotated[
    str, typer.Option("--model", help="A name of configs/models, or a model config's path.")
]
AllowRandom = Annotated[
    bool,
    typer.Option(
        "--allow-random",
        help="Use random weights and the adapters made with them: for tests and benchmarks.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
FailOnRejects = Annotated[
    bool,
    typer.Option("--fail-on-rejects", help="End with exit code 3 where something was rejected."),
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        help="Serve Prometheus metrics on this port while it runs.",
        min=0,
        max=65535,
    ),
]
MetricsHost = Annotated[
    str, typer.Option("--metrics-host", help="Where the metrics listen; loopback by default.")
]
