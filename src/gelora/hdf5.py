"""HDF5 files that anybody may have written: looked at before anything in them is read, refused with the reason.

libhdf5 believes a file. What it allocates and where it stops is looked up in it, so that one wrong byte costs
gigabytes or a loop without end. gelora writes few of the things that the format knows, and all others are refused.
"""

import math
import struct
from collections.abc import Mapping
from typing import NoReturn

import h5netcdf
import h5py
import numpy as np

MAX_NAMES = 1000
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP = b"GCOL\x01\x00\x00\x00"
_NOWHERE = (0, 2**64 - 1)
# How a text of any length stands in a variable: its length, the address of a heap, its number there.
_REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
_NUMBERS = (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
_PLAIN = (*_NUMBERS, h5py.h5t.STRING)
# netCDF's own, by which variables and dimensions know each other.
_OWN = {"DIMENSION_LIST": h5py.h5t.VLEN, "REFERENCE_LIST": h5py.h5t.COMPOUND}
_OWN_LIST = "_Netcdf4Coordinates"

Heaps = Mapping[int, Mapping[int, int]]


def open_hdf5(content: bytes) -> h5py.File:
    """Open an HDF5 file from its bytes, for reading, if all of it is what gelora writes.

    Parameters
    ----------
    content : bytes
        All of the file.

    Returns
    -------
    h5py.File
        It holds numbers and texts that lie in the file whole and uncompressed, and together take no more than twice
        its size. There are no groups, no links, no data of other files.

    Raises
    ------
    ValueError
        Saying what else there is, or what is damaged.
    OSError, KeyError, RuntimeError
        libhdf5's own, for a header that is damaged.

    Notes
    -----
    The headers of HDF5's objects have checksums, which libhdf5 looks at. The heaps of texts and the variables have
    none: they are followed here. The texts of attributes are reached through headers alone. A file whose headers are
    forged, checksums and all, may still make libhdf5 allocate up to 4 GiB for one of them before it fails.
    """
    heaps = _heaps(content)
    file = h5py.File(h5py.h5f.open_file_image(content))
    try:
        _check(file, content, heaps)
    except BaseException:
        file.close()
        raise
    return file


class OpenedFile(h5netcdf.File):  # type: ignore[misc]
    """A file open for reading; one that fails to open half-way is dropped without another error."""

    # What the destructor asks for, and the constructor sets too late.
    _writable = False


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


def _check(file: h5py.File, content: bytes, heaps: Heaps) -> None:
    if len(file) > MAX_NAMES:
        _refuse(f"it holds more than {MAX_NAMES} variables")
    size, text = 0, 0
    stored = _check_attributes("the file", file.id)
    for name in file:
        if type(file.get(name, getlink=True)) is not h5py.HardLink:
            _refuse(f"{name!r:.80} is a link")
        item = h5py.h5o.open(file.id, name.encode("utf-8", "surrogateescape"))
        if not isinstance(item, h5py.h5d.DatasetID):
            _refuse(f"{name!r:.80} is no variable")
        own_size, own_text = _check_variable(name, item, content, heaps)
        size, text = size + own_size, text + own_text
        stored += _check_attributes(name, item)
        # One value may be said to stand in many places: a small file would fill the memory.
        if size > 2 * len(content) or text > len(content) or stored > len(content):
            _refuse(f"it says to hold more than its {len(content):,} bytes")


def _check_variable(name: str, variable: h5py.h5d.DatasetID, content: bytes, heaps: Heaps) -> tuple[int, int]:
    """Return the bytes of a variable, and those of its texts."""
    layout, count = variable.get_create_plist(), math.prod(variable.get_space().shape)
    # HDF5 keeps a variable of no values, as the ranks of an adapter without ranks, in pieces: there are none.
    in_pieces = layout.get_layout() != h5py.h5d.CONTIGUOUS and (count or layout.get_layout() != h5py.h5d.CHUNKED)
    if in_pieces or layout.get_nfilters() or layout.get_external_count():
        _refuse(f"{name!r:.80} is compressed, in pieces or in another file: save it again, uncompressed")
    kind = variable.get_type()
    if kind.get_class() not in _PLAIN or (kind.get_class() in _NUMBERS and kind.get_size() > 8):
        _refuse(f"{name!r:.80} holds neither numbers nor texts")
    texts = kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()
    size = count * (_REFERENCE.itemsize if texts else kind.get_size())
    place = variable.get_offset() if count else None
    if place is None:  # a dimension without values
        return size, 0
    if place + size > len(content):
        _refuse(f"{name!r:.80} goes on after the end of the file")
    if not texts:
        return size, 0
    references = np.frombuffer(content, _REFERENCE, count, place).tolist()
    return size, sum(_length(name, reference, heaps) for reference in references)


def _length(name: str, reference: tuple[int, int, int], heaps: Heaps) -> int:
    length, heap, number = reference
    if heap in _NOWHERE:
        return 0
    if length > heaps.get(heap, {}).get(number, -1):
        _refuse(f"a text of {name!r:.80} is not where it should be")
    return length


def _check_attributes(name: str, item: h5py.h5g.GroupID | h5py.h5d.DatasetID) -> int:
    """Return the bytes of the attributes, without texts of any length."""
    count = h5py.h5a.get_num_attrs(item)
    if count > MAX_NAMES:
        _refuse(f"{name!r:.80} has more than {MAX_NAMES} attributes")
    size = 0
    for number in range(count):
        attribute = h5py.h5a.open(item, index=number)
        label = attribute.name.decode("utf-8", "replace")
        kind, n_values = attribute.get_type(), math.prod(attribute.get_space().shape)
        if label in _OWN:
            sound = kind.get_class() == _OWN[label]
        else:
            most = 32 if label == _OWN_LIST else 1
            sound = kind.get_class() in _PLAIN and n_values <= most
        if not sound:
            _refuse(f"the attribute {label!r:.80} of {name!r:.80} is neither a number nor a text")
        size += attribute.get_storage_size()
    return size


def _heaps(content: bytes) -> dict[int, dict[int, int]]:
    """Return the sizes of the texts in every heap of the file, by the heap's address and their number."""
    if not content.startswith(_SIGNATURE):
        _refuse("it does not begin as an HDF5 file does")
    sizes = content[9:11] if content[8:9] in (b"\x02", b"\x03") else content[13:15]
    if sizes != b"\x08\x08":
        _refuse("its addresses do not have 8 bytes")
    found = {}
    place = content.find(_HEAP)
    while place >= 0:
        found[place] = _texts(content, place)
        place = content.find(_HEAP, place + len(_HEAP))
    return found


def _texts(content: bytes, begin: int) -> dict[int, int]:
    """Return the sizes of the texts of the heap at ``begin`` by their numbers."""
    head = struct.Struct("<HHIQ")
    end = begin + int.from_bytes(content[begin + 8 : begin + 16], "little")
    if not begin + head.size <= end <= len(content):
        _refuse("a heap of texts goes on after the end of the file")
    found: dict[int, int] = {}
    place = begin + head.size
    while place + head.size <= end:
        number, _, _, size = head.unpack_from(content, place)
        if number == 0:  # the rest is free; libhdf5 goes on by this size, for ever if it is 0
            if size != end - place:
                _refuse("a heap of texts is damaged")
            break
        place += head.size + -(-size // 8) * 8
        if place > end or number in found:
            _refuse("a heap of texts is damaged")
        found[number] = size
    return found
