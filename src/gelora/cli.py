"""The command line: options named like the arguments of the Python functions."""

import os
import sys
import warnings
from typing import Any

import typer

# Each registers its commands.
from gelora import cli_ranks as cli_ranks
from gelora import cli_report as cli_report
from gelora import cli_tuning as cli_tuning
from gelora.cli_options import app as app
from gelora.masking import masked

INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> None:
    """Run the command line; errors that a user can mend end in one line and exit code 1, Ctrl-C in one and 130."""
    warnings.showwarning = _show_warning
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:
            typer.echo("gelora: interrupted", err=True)
        raise
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("GELORA_DEBUG"):
            raise
        typer.echo(f"gelora: error: {masked(str(error))}", err=True)
        sys.exit(1)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    kind = "warning" if category is UserWarning else category.__name__
    typer.echo(f"gelora: {kind}: {masked(str(message))}", err=True)


if __name__ == "__main__":
    main()
