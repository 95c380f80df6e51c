"""Datasets in netCDF files, with a schema: written whole or not at all, refused with the reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gelora.files import atomic_path, to_json


def write_dataset(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write ``dataset`` to a netCDF file, whole or not at all.

    Raises
    ------
    OSError
        If ``path`` cannot be written; nothing is left behind.
    """
    # In memory first: HDF5 ends the process by a segmentation fault where the disk fills under an open file.
    content = bytes(dataset.to_netcdf(engine="h5netcdf"))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def read_dataset(path: str | Path, *, made_by: str) -> xr.Dataset:
    """Read a netCDF file into memory; ``made_by`` is the command named where there is none.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated or of another kind.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"`path`: there is no file {str(path)!r}; make one with `{made_by}`")
    try:
        with xr.open_dataset(file, engine="h5netcdf") as dataset:
            return dataset.load()
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        # What h5py raises depends on where the file is damaged.
        raise ValueError(
            f"`path`: {str(path)!r} is not a readable netCDF file, truncated or of another kind: {error}"
        ) from error


def check_schema(dataset: xr.Dataset, what: str, *, schema: str, version: int, kind: str, made_by: str) -> None:
    """Raise ValueError, naming ``what``, unless ``dataset`` has this schema in a version not newer than ours."""
    found = dataset.attrs.get("schema")
    if found != schema:
        raise ValueError(
            f"{what} is not a gelora {kind}: its attribute `schema` is {found!r}, not {schema!r}; "
            f"make one with `{made_by}`"
        )
    number = dataset.attrs.get("schema_version")
    if not isinstance(number, int | np.integer) or number > version:
        raise ValueError(
            f"{what} has schema version {number}, this gelora reads up to {version}: install a newer gelora"
        )


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as netCDF takes them: what is no number or text becomes JSON text."""
    return {
        key: value if isinstance(value, str | int | float) and not isinstance(value, bool) else to_json(value)
        for key, value in attributes.items()
    }
