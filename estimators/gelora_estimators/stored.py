"""From whatever holds numbers to stored rows of float32 or float64.

NumPy only: torch tensors are recognised by their methods, torch itself is never imported here.
"""

import mmap
import tempfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gelora_estimators.protocol import DegenerateCloudError

IndexArray = NDArray[np.int64]
StoredArray = NDArray[np.float32] | NDArray[np.float64]

# Unit round-off doubled, i.e. the spacing of numbers near 1, of the formats NumPy does not know.
_SPACING_OF_FOREIGN_TYPES = {"bfloat16": 2.0**-7, "float8_e4m3fn": 2.0**-3, "float8_e5m2": 2.0**-2}
_CACHED_ELEMENTS = 2**15  # float64 numbers of a block (256 KiB) that several passes go over


def as_points(points: Any) -> StoredArray:
    """Return the points as a float32 or float64 array of shape (n, d), checked.

    Half-precision numbers become float32 (exactly), integers and wider floats become float64.
    A torch tensor may live on any device and require gradients.

    Parameters
    ----------
    points : array_like of shape (n, d)
        NumPy array, torch tensor or nested sequence.

    Returns
    -------
    ndarray of shape (n, d)
        The same numbers; the input itself where nothing had to change, so never write to it.

    Raises
    ------
    TypeError
        For anything that does not hold real numbers.
    ValueError
        For a shape other than (n, d) with d ≥ 1.
    DegenerateCloudError
        For NaN or infinite values, with the number of rows that hold them.

    Examples
    --------
    >>> from gelora_estimators import as_points
    >>> as_points([[0, 1], [2, 3]]).dtype
    dtype('float64')
    """
    return as_stored(points)[0]


def rows_in_cache(ambient: int) -> int:
    """Return how many float64 rows of this length make a block that stays in a core's cache."""
    return max(1, _CACHED_ELEMENTS // ambient)


def as_stored(points: Any) -> tuple[StoredArray, float]:
    """Return the checked array and the relative spacing of the numbers it was given in."""
    array, resolution = _to_numpy(points)
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"`points` must have shape (n, d) with d of at least 1, got shape {array.shape}: "
            "pass one row per point (reshape or pool the hidden states first)."
        )
    stored = array if array.dtype in (np.float32, np.float64) else _widen(array)
    step = rows_in_cache(stored.shape[1])
    n_finite = sum(
        int(np.isfinite(stored[start : start + step]).all(axis=1).sum()) for start in range(0, len(stored), step)
    )
    if n_finite < len(stored):
        raise DegenerateCloudError(
            f"the dimension is undefined: {len(stored) - n_finite} of {len(stored)} points hold NaN or infinite values."
        )
    return stored, resolution


def take_rows(stored: StoredArray, rows: IndexArray) -> StoredArray:
    """Return some rows: of a memory map as another one, in a file without a name, since it may not fit into memory."""
    if not _is_mapped(stored):
        return stored[rows]
    with tempfile.TemporaryFile() as file:  # the map holds on to it
        file.truncate(len(rows) * stored.shape[1] * stored.itemsize)
        kept: StoredArray = np.memmap(file, dtype=stored.dtype, mode="r+", shape=(len(rows), stored.shape[1]))
    step = rows_in_cache(stored.shape[1])
    for start in range(0, len(rows), step):
        kept[start : start + step] = stored[rows[start : start + step]]
    return kept


def _is_mapped(array: Any) -> bool:
    """Say whether an array lies in a memory map."""
    while array is not None:
        if isinstance(array, np.memmap | mmap.mmap):
            return True
        array = getattr(array, "base", None)
    return False


def _to_numpy(points: Any) -> tuple[NDArray[Any], float]:
    """Return any array-like as a NumPy array, with the relative spacing of its stored numbers."""
    if hasattr(points, "detach") and hasattr(points, "cpu"):
        foreign = _SPACING_OF_FOREIGN_TYPES.get(str(points.dtype).removeprefix("torch."))
        tensor = points.detach().cpu()
        array = np.asarray((tensor.float() if foreign is not None else tensor).numpy())
        return array, foreign if foreign is not None else _spacing(array.dtype)
    try:
        array = np.asarray(points)
    except ValueError as error:
        raise ValueError(
            "`points` must have shape (n, d), got a ragged sequence: give every point the same number of coordinates."
        ) from error
    return array, _spacing(array.dtype)


def _spacing(dtype: np.dtype[Any]) -> float:
    """Return the spacing of numbers near 1, or raise if ``dtype`` holds no real numbers."""
    if dtype.name in _SPACING_OF_FOREIGN_TYPES:
        return _SPACING_OF_FOREIGN_TYPES[dtype.name]
    if dtype.kind == "f":
        return max(float(np.finfo(dtype).eps), float(np.finfo(np.float64).eps))
    if dtype.kind in "iu":
        return float(np.finfo(np.float64).eps)
    raise TypeError(
        f"`points` must hold real numbers, got dtype {dtype}: convert to a float array first (points.astype(float))."
    )


def _widen(array: NDArray[Any]) -> StoredArray:
    """Return half precision as float32 (exact), every other format as float64."""
    if array.dtype.itemsize <= 2 and array.dtype.kind not in "iu":
        return array.astype(np.float32)
    return array.astype(np.float64)
