"""What the measuring scripts of the field's figures share: texts, and the file of what was measured."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from _origin import origin

from gelora.files import make_folder
from gelora.netcdf import plain_attributes, write_dataset
from gelora.provenance import timestamp

MODEL = "sentence-transformers/all-MiniLM-L6-v2 (6 blocks of width 384)"


def write(dataset: xr.Dataset, arguments: argparse.Namespace, name: str, **facts: Any) -> Path:
    """Write what the script ``name`` measured, with ``facts`` on model and data and the versions it was made with."""
    file = make_folder(arguments.output) / f"{name}.nc"
    return write_dataset(
        dataset.assign_attrs(plain_attributes({**origin(arguments), "created": timestamp(), **facts})), file
    )


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
