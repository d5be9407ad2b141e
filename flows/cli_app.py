"""The command line's frame: the application, the options that several commands share, examples."""

from typing import Annotated

import typer


def examples(*commands: str) -> str:
    """Return the epilog of a command that shows how it is called."""
    # Typer keeps a line break of an epilog only where a paragraph ends.
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  {command}" for command in commands)])


app = typer.Typer(
    name="video2lora",
    help="Turn videos into LoRA adapters, and ask a frozen model about them without any visual"
    " token.",
    epilog="Start with [bold]video2lora demo[/bold]. Every command has --help with examples.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Lake = Annotated[
    str, typer.Option("--lake", help="The lake: a directory or s3://bucket/prefix.", metavar="URI")
]
Model = Annotated[
    str, typer.Option("--model", help="A name of configs/models, or a model config's path.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]
AllowRandom = Annotated[
    bool, typer.Option("--allow-random", help="Take adapters of random weights; they know nothing.")
]
