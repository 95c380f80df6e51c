"""What the measuring scripts share: their command line, and where a result comes from."""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gelora.files import atomic_path, make_folder, to_json
from gelora.provenance import package_versions, timestamp

PROFILES = Path(__file__).resolve().parents[1] / "profiles"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"


def make_parser(description: str, *, needs_data: bool = False) -> argparse.ArgumentParser:
    """Return a parser of ``--data`` and ``--output``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=needs_data, help="folder of data sets: cola/train.parquet …")
    parser.add_argument("--output", type=Path, default=PROFILES, help="folder to write to")
    return parser


def origin(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return command, machine, versions and date of what is measured now; folders of this machine are left out."""
    options = vars(arguments) | {"data": "FOLDER" if arguments.data else None, "output": None}
    given = [f"--{name.replace('_', '-')} {value}" for name, value in options.items() if value is not None]
    script = f"paper_figures/measure/{Path(sys.argv[0]).name}"
    return {
        "command": shlex.join(["python", script, *" ".join(given).split()]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, CPU",
        "versions": package_versions(),
        "date": timestamp()[:10],
    }


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a result whole or not at all."""
    make_folder(path.parent)
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(content, indent=1) + "\n", encoding="utf-8")
    return path
