"""What the measuring scripts of the field's figures share: arguments, texts, and where a result comes from."""

import argparse
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from gelora.files import make_folder
from gelora.netcdf import plain_attributes, write_dataset
from gelora.provenance import package_versions, timestamp

PROFILES = Path(__file__).parents[1] / "profiles"
MODEL = "sentence-transformers/all-MiniLM-L6-v2 (6 blocks of width 384)"


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser of ``--data`` and ``--output``."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with sst2/, cola/, wikitext2_raw/")
    parser.add_argument("--output", type=Path, default=PROFILES, help="folder to write to")
    return parser


def write(dataset: xr.Dataset, arguments: argparse.Namespace, name: str, **facts: Any) -> Path:
    """Write what the script ``name`` measured, with ``facts`` on model and data and the versions it was made with."""
    origin: Mapping[str, Any] = {
        "command": f"python paper_figures/measure/{name}.py --data FOLDER",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, CPU",
        "versions": package_versions(),
        "created": timestamp(),
    }
    file = make_folder(arguments.output) / f"{name}.nc"
    return write_dataset(dataset.assign_attrs(plain_attributes({**origin, **facts})), file)


def column(data: Path, file: str, name: str) -> list[str]:
    """Return a column of texts of a Parquet file."""
    return [text.strip() for text in pd.read_parquet(data / file, columns=[name])[name]]


def wikitext(data: Path, *splits: str, n_words: int) -> list[str]:
    """Return the paragraphs of WikiText-2 of at least ``n_words`` words; headings are none."""
    lines = [line for split in splits for line in column(data, f"wikitext2_raw/{split}.parquet", "text")]
    return [line for line in lines if len(line.split()) >= n_words and not line.startswith("=")]


def shuffled(text: str, rng: np.random.Generator) -> str:
    """Return the words of a text in random order."""
    return " ".join(rng.permutation(text.split()))
