"""The command that writes a report."""

from pathlib import Path
from typing import Annotated

import typer

from gelora.cli_options import app


@app.command(
    epilog="Example: `gelora report profile.nc plan.json --output report.html`; "
    "`gelora report profile.nc plan-a.json plan-b.json comparison.nc -o report.html`"
)
def report(
    source: Annotated[
        list[Path],
        typer.Argument(
            help="A profile (.nc), rank plans (.json), a comparison (.nc), training records (.nc), in any order."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The page to write (HTML, about 5 MB).")],
) -> None:
    """Write one HTML page on a profile, plans and a comparison, with charts; it needs no network."""
    from gelora.files import check_writable

    check_writable(output)
    from gelora.report import report_files

    typer.echo(f"written: {report_files(source, output)}")
