"""Datasets in netCDF files, with a schema: written whole or not at all, refused with the reason."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from gelora.files import atomic_path, to_json
from gelora.masking import masked

MAX_BYTES = 256 * 2**20
# After the end of what HDF5 reads stands the checksum of all before it: HDF5's own cover headers alone.
_SEAL = b"\ngelora sha256 "
_SEAL_SIZE = len(_SEAL) + 64 + 1


def write_dataset(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write ``dataset`` to a netCDF file with a checksum at its end, whole or not at all; credentials are masked.

    Raises
    ------
    OSError
        If ``path`` cannot be written; nothing is left behind.
    """
    texts = {name: masked(value) for name, value in dataset.attrs.items() if isinstance(value, str)}
    # In memory first: HDF5 ends the process by a segmentation fault where the disk fills under an open file.
    content = bytes(dataset.assign_attrs(texts).to_netcdf(engine="h5netcdf"))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content + _SEAL + hashlib.sha256(content).hexdigest().encode() + b"\n")
    return Path(path)


def read_dataset(path: str | Path, *, made_by: str) -> xr.Dataset:
    """Read a netCDF file into memory; ``made_by`` is the command named where there is none.

    The file may be anybody's: it is checked before anything in it is read, see `gelora.hdf5.open_hdf5`, and nothing in
    it is decoded but fill values.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, damaged, or holds what gelora does not write.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"`path`: there is no file {str(path)!r}; make one with `{made_by}`")
    try:
        # Profiles and comparisons have a few hundred kilobytes. Whatever is far larger is not even read.
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        return _read(_unsealed(file.read_bytes()))
    except Exception as error:
        reason = f"{error!s:.400}" or type(error).__name__
        raise ValueError(
            f"`path`: {str(path)!r} is not a readable netCDF file, truncated, damaged or of another kind: {reason}"
        ) from error


def _read(content: bytes) -> xr.Dataset:
    from gelora.hdf5 import OpenedFile, open_hdf5

    with open_hdf5(content) as stored, OpenedFile(stored, "r", decode_vlen_strings=True) as opened:
        store = xr.backends.H5NetCDFStore(opened)
        with xr.open_dataset(store, decode_times=False, decode_timedelta=False) as dataset:
            return dataset.load()


def _unsealed(content: bytes) -> bytes:
    """Return the bytes before the checksum, which a file of an older gelora or of another program lacks."""
    seal = content[-_SEAL_SIZE:]
    if not seal.startswith(_SEAL):
        return content
    content = content[:-_SEAL_SIZE]
    if seal[len(_SEAL) : -1] != hashlib.sha256(content).hexdigest().encode():
        raise ValueError("its checksum is not that of what it holds")
    return content


def check_schema(dataset: xr.Dataset, what: str, *, schema: str, version: int, kind: str, made_by: str) -> None:
    """Raise ValueError, naming ``what``, unless ``dataset`` has this schema in a version not newer than ours."""
    found = dataset.attrs.get("schema")
    if found != schema:
        raise ValueError(
            f"{what} is not a gelora {kind}: its attribute `schema` is {found!r:.80}, not {schema!r}; "
            f"make one with `{made_by}`"
        )
    number = dataset.attrs.get("schema_version")
    if not isinstance(number, int | np.integer) or number > version:
        raise ValueError(
            f"{what} has schema version {number!s:.40}, this gelora reads up to {version}: install a newer gelora"
        )


def plain_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as netCDF takes them, credentials masked: what is no number or text becomes JSON text."""
    return {key: _plain(value) for key, value in attributes.items()}


def _plain(value: Any) -> str | int | float:
    if isinstance(value, str):
        return masked(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else to_json(value)


def json_attribute(dataset: xr.Dataset, name: str, what: str) -> Any:
    """Return what the JSON of an attribute says, an empty mapping where there is none; ``what`` names the dataset.

    Raises
    ------
    ValueError
        If the attribute is damaged.
    """
    text = dataset.attrs.get(name, "{}")
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what}: its attribute `{name}` is damaged: {text!r:.80}") from error
