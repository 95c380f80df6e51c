"""Opening a training record: what is refused with which words."""

from pathlib import Path

import pytest
import xarray as xr

from gelora.finetuning.record import open_record


def test_a_missing_damaged_foreign_or_newer_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"`path`: there is no file '.*none.nc'; make one with `gelora finetune"
    ):
        open_record(tmp_path / "none.nc")
    (tmp_path / "damaged.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"damaged.nc' is not a readable netCDF file, truncated"):
        open_record(tmp_path / "damaged.nc")
    xr.Dataset(attrs={"schema": "gelora-profile"}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(
        ValueError, match=r"is not a gelora training record: its attribute `schema` is 'gelora-profile'"
    ):
        open_record(tmp_path / "other.nc")
    newer = xr.Dataset(attrs={"schema": "gelora-training-record", "schema_version": 99})
    newer.to_netcdf(tmp_path / "newer.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"has schema version 99, this gelora reads up to 1: install a newer gelora"):
        open_record(tmp_path / "newer.nc")
