"""Write the page ``reference/command_line.md`` from the commands themselves: ``python docs/command_line.py``."""

import os
import re
import subprocess
import sys
from pathlib import Path

from gelora.files import atomic_path

PAGE = Path(__file__).parent / "reference" / "command_line.md"
HEAD = """\
# Command line

Written by `python docs/command_line.py` from the commands themselves. Options are named like the arguments of the
Python functions. Errors end in one line and exit code 1, Ctrl-C in 130; `GELORA_DEBUG=1` shows where an error came
from. Results are printed, progress and warnings go to standard error.

"""


def generate() -> str:
    """Return the page."""
    shown = subprocess.run(
        [sys.executable, "-m", "typer", "gelora.cli", "utils", "docs", "--name", "gelora"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "120", "NO_COLOR": "1"},
    ).stdout
    _, _, commands = shown.partition("\n## ")
    text = re.sub(r"\.\.\. <list\[\w+\]>", "... <path>", "## " + commands)
    text = re.sub(r" <list\[(\w+)\]>", r" <\1> …", text)  # may be given several times
    return HEAD + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    with atomic_path(PAGE) as temporary:
        temporary.write_text(generate(), encoding="utf-8")
