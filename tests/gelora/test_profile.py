"""A profile survives its file, and what is no profile is refused with the reason."""

import json
import os
import warnings

import numpy as np
import pytest
import xarray as xr

from gelora.estimation import estimate_representations
from gelora.profile import check_profile, open_profile, save_profile


@pytest.fixture(scope="module")
def profile():
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(300, 2)), np.ones((300, 2)), rng.normal(size=(300, 5))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return estimate_representations(clouds, estimator=["twonn", "mle(k1=5)"], progress=False)


def test_a_profile_has_the_schema(profile):
    assert {name: profile.sizes[name] for name in ("estimator", "layer")} == {"estimator": 2, "layer": 3}
    assert profile["estimator"].values.tolist() == ["twonn", "mle(k1=5)"]
    assert profile["layer"].values.tolist() == [0, 1, 2]
    assert profile["depth"].values.tolist() == [0.0, 0.5, 1.0]
    assert set(profile["stack"].values) == {"encoder"}
    assert (profile["ci_low"] <= profile["dimension"]).sel(layer=[0, 2]).all()
    assert (profile["dimension"] <= profile["ci_high"]).sel(layer=[0, 2]).all()
    assert json.loads(profile.attrs["estimators"])["mle(k1=5)"]["options"]["k1"] == 5
    assert {"numpy", "gelora"} <= set(json.loads(profile.attrs["versions"]))


@pytest.mark.smoke
def test_a_saved_profile_opens_identical(profile, tmp_path):
    path = save_profile(profile, tmp_path / "p.nc")
    xr.testing.assert_identical(open_profile(path), profile)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="sizes of files are not limited there")
def test_where_there_is_no_room_the_older_profile_stays_and_the_error_names_the_file(profile, tmp_path):
    import resource

    path = save_profile(profile, tmp_path / "p.nc")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write `.*p.nc` \(File too large\): make room, and call again"):
            save_profile(profile.assign_attrs(model="another"), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    xr.testing.assert_identical(open_profile(path), profile)
    assert list(tmp_path.iterdir()) == [path]


def test_files_that_are_no_profile_are_named_with_the_reason(profile, tmp_path):
    whole = save_profile(profile, tmp_path / "p.nc").read_bytes()
    for name, content in (("cut.nc", whole[: len(whole) // 2]), ("text.nc", b"not a file"), ("empty.nc", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.* is not a readable netCDF file"):
            open_profile(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        open_profile(tmp_path / "absent.nc")
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "foreign.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="is not a gelora profile"):
        open_profile(tmp_path / "foreign.nc")
    profile.assign_attrs(schema_version=99).to_netcdf(tmp_path / "newer.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"schema version .*99.* install a newer gelora"):
        open_profile(tmp_path / "newer.nc")


# h5netcdf's destructor fails on a file whose constructor failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_flipped_byte_in_a_file_gives_a_value_error_or_a_profile(profile, tmp_path):
    whole = bytearray(save_profile(profile, tmp_path / "p.nc").read_bytes())
    rng = np.random.default_rng(1)
    for position in rng.choice(len(whole), size=60, replace=False):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        (tmp_path / "d.nc").write_bytes(damaged)
        try:
            check_profile(open_profile(tmp_path / "d.nc"))
        except ValueError as error:
            assert str(error).startswith(("`path`", "`profile`"))  # noqa: PT017


def test_a_changed_dataset_is_refused(profile):
    with pytest.raises(TypeError, match=r"must be an xarray\.Dataset"):
        check_profile({"dimension": 1})
    with pytest.raises(ValueError, match="lacks the variable 'anisotropy'"):
        check_profile(profile.drop_vars("anisotropy"))
    with pytest.raises(ValueError, match="'dimension' must have the dimensions"):
        check_profile(profile.assign(dimension=profile["dimension"].isel(estimator=0, drop=True)))
    with pytest.raises(ValueError, match="is empty"):
        check_profile(profile.isel(layer=slice(0)))


def test_a_profile_that_cannot_be_written_leaves_nothing(profile, tmp_path):
    with pytest.raises(FileNotFoundError, match="create it first"):
        save_profile(profile, tmp_path / "absent" / "p.nc")
    unwritable = profile.assign_attrs(bad=object())
    with pytest.raises(TypeError, match="Invalid value for attr"):
        save_profile(unwritable, tmp_path / "p.nc")
    assert os.listdir(tmp_path) == []  # noqa: PTH208
