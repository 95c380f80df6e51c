"""HDF5 files of others: whatever gelora does not write is refused before it is read, and damage with its reason."""

import gc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from gelora.hdf5 import MAX_NAMES, OpenedFile, open_hdf5
from gelora.netcdf import MAX_BYTES, json_attribute, read_dataset, write_dataset

SMALL = xr.Dataset(
    {"numbers": ("x", np.arange(4.0)), "texts": ("x", np.array(["a", "", "c" * 40, "d"], dtype=object))},
    attrs={"schema": "mine", "schema_version": 1},
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_dataset(SMALL, tmp_path / "small.nc")


def read(file: Path) -> xr.Dataset:
    return read_dataset(file, made_by="gelora estimate")


def unsealed(file: Path) -> bytes:
    return file.read_bytes()[:-80]


def place_of(file: Path, name: str) -> int:
    with h5py.File(file) as opened:
        return int(opened[name].id.get_offset())


def test_what_is_written_is_read_by_us_and_by_xarray_alike(file: Path) -> None:
    assert read(file).identical(SMALL)
    with xr.open_dataset(file, engine="h5netcdf") as opened:
        assert opened.load().identical(SMALL)
    assert unsealed(file) + file.read_bytes()[-80:] == file.read_bytes()
    file.write_bytes(unsealed(file))  # as an older gelora wrote it, or another program
    assert read(file).identical(SMALL)


def test_variables_of_no_values_are_read(tmp_path: Path) -> None:
    none = xr.Dataset({"ranks": ("matrix", np.arange(0)), "names": ("matrix", np.array([], dtype="<U3"))})
    found = read(write_dataset(none.assign(more=("x", np.arange(2.0))), tmp_path / "none.nc"))
    assert found["ranks"].shape == found["names"].shape == (0,)
    assert found["more"].values.tolist() == [0.0, 1.0]


def test_times_are_not_decoded(tmp_path: Path) -> None:
    days = xr.Dataset({"days": ("x", np.array([1e300]), {"units": "days since 2000-01-01"})})
    assert read(write_dataset(days, tmp_path / "days.nc"))["days"].item() == 1e300


def test_any_other_byte_is_noticed_by_the_checksum(file: Path) -> None:
    content = file.read_bytes()
    for place in range(0, len(content) - 80, 997):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match="its checksum is not that of what it holds"):
            read(file)


def test_a_file_that_is_too_large_is_not_read(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.truncate(MAX_BYTES + 1)  # a hole, which takes no space
    with pytest.raises(ValueError, match=f"it has more than {MAX_BYTES:,} bytes"):
        read(file)


@pytest.mark.parametrize(
    ("place", "new", "reason"),
    [
        (0, b"\xff\xff\xff\xff", "a text of 'texts' is not where it should be"),  # its length
        (4, b"\xff" * 7, "a text of 'texts' is not where it should be"),  # the address of its heap
        (12, b"\x77\x77", "a text of 'texts' is not where it should be"),  # its number there
    ],
)
def test_a_text_that_is_elsewhere_is_refused(file: Path, place: int, new: bytes, reason: str) -> None:
    content, start = unsealed(file), place_of(file, "texts") + place
    file.write_bytes(content[:start] + new + content[start + len(new) :])
    with pytest.raises(ValueError, match=reason):
        read(file)


def test_a_heap_that_would_hold_libhdf5_for_ever_or_goes_on_after_the_end_is_refused(file: Path) -> None:
    content = unsealed(file)
    heap = content.index(b"GCOL\x01")
    for place, new, reason in (
        (16, bytes(16), "a heap of texts is damaged"),  # a free piece of no size
        (24, b"\xff" * 7, "a heap of texts is damaged"),  # the size of the first text
        (8, b"\xff" * 7, "a heap of texts goes on after the end of the file"),
    ):
        start = heap + place
        file.write_bytes(content[:start] + new + content[start + len(new) :])
        with pytest.raises(ValueError, match=reason):
            read(file)


def test_one_long_text_that_stands_in_many_places_is_refused(tmp_path: Path) -> None:
    texts = xr.Dataset({"texts": ("x", np.array(["long" * 2000] + ["b"] * 99, dtype=object))})
    file = write_dataset(texts, tmp_path / "many.nc")
    content, start = unsealed(file), place_of(file, "texts")
    file.write_bytes(content[:start] + content[start : start + 16] * 100 + content[start + 1600 :])
    with pytest.raises(ValueError, match=r"it says to hold more than its [\d,]+ bytes"):
        read(file)


def huge(file: h5py.File) -> None:
    file.create_dataset("x", (10**6, 10**6), "f8")


def compressed(file: h5py.File) -> None:
    file.create_dataset("x", data=np.zeros(10**5), compression="gzip")


def in_pieces(file: h5py.File) -> None:
    file.create_dataset("x", (10**5,), "f8", chunks=(10,))


def elsewhere(file: h5py.File) -> None:
    file.create_dataset("x", (100,), "i1", external=[("/etc/passwd", 0, 100)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    file.create_virtual_dataset("x", layout)


def link_to_a_file(file: h5py.File) -> None:
    file["x"] = h5py.ExternalLink("/etc/passwd", "/x")


def link_to_a_name(file: h5py.File) -> None:
    file["x"] = h5py.SoftLink("/nowhere")


def group(file: h5py.File) -> None:
    file.create_group("x")


def compound(file: h5py.File) -> None:
    file.create_dataset("x", (3,), np.dtype([("a", "f8"), ("b", "i4")]))


def lists(file: h5py.File) -> None:
    file.create_dataset("x", (3,), h5py.vlen_dtype(np.float64))


def long_attribute(file: h5py.File) -> None:
    file.attrs["x"] = np.zeros(5)


def attribute_of_lists(file: h5py.File) -> None:
    value = np.empty(1, dtype=object)
    value[0] = np.zeros(5)
    file.attrs.create("x", value, dtype=h5py.vlen_dtype(np.float64))


def many(file: h5py.File) -> None:
    for number in range(MAX_NAMES + 1):
        file.create_dataset(f"x{number}", data=0.0)


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (huge, "it says to hold more than its"),
        (compressed, "'x' is compressed, in pieces or in another file: save it again, uncompressed"),
        (in_pieces, "'x' is compressed, in pieces"),
        (elsewhere, "'x' is compressed, in pieces or in another file"),
        (virtual, "'x' is compressed, in pieces or in another file"),
        (link_to_a_file, "'x' is a link"),
        (link_to_a_name, "'x' is a link"),
        (group, "'x' is no variable"),
        (compound, "'x' holds neither numbers nor texts"),
        (lists, "'x' holds neither numbers nor texts"),
        (long_attribute, "the attribute 'x' of 'the file' is neither a number nor a text"),
        (attribute_of_lists, "the attribute 'x' of 'the file' is neither a number nor a text"),
        (many, f"it holds more than {MAX_NAMES} variables"),
    ],
)
def test_what_gelora_does_not_write_is_refused(tmp_path: Path, fill: Callable[[h5py.File], None], reason: str) -> None:
    file = tmp_path / "other.nc"
    with h5py.File(file, "w") as opened:
        fill(opened)
    with pytest.raises(ValueError, match=reason):
        open_hdf5(file.read_bytes())
    with pytest.raises(ValueError, match=rf"`path`: '.*other.nc' is not a readable netCDF file.*{reason}"):
        read(file)


def test_a_file_that_opens_half_way_leaves_no_error_behind(file: Path) -> None:
    opened = h5py.File(file)
    opened.close()
    # Without a word of ours its destructor fails too, which pytest turns into an error.
    with pytest.raises((ValueError, KeyError)):
        OpenedFile(opened, "r")
    gc.collect()


@pytest.mark.parametrize("text", ["{", "1" * 5000, "[" * 100_000, 3.5])
def test_an_attribute_that_is_no_json_is_named(text: object) -> None:
    with pytest.raises(ValueError, match="`profile`: its attribute `versions` is damaged: '?"):
        json_attribute(xr.Dataset(attrs={"versions": text}), "versions", "`profile`")
