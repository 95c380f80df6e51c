"""What the commands share: the application, and options of one wording."""

from typing import Annotated

import typer

app = typer.Typer(
    name="gelora",
    help="Intrinsic dimension of transformer hidden states, and the LoRA ranks that follow from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="Progress bars on standard error.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
Model = Annotated[str, typer.Option(help="Folder or hub name of the model.")]
