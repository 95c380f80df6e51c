"""Images in: a folder of files, a data set with an image column or images in memory, decoded one at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gelora.messages import nearest
from gelora.provenance import fingerprint

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


@dataclass(frozen=True, slots=True)
class Images:
    """Images that are decoded when they are asked for.

    Parameters
    ----------
    length : int
        How many.
    get : callable
        From a row to a PIL image, not yet decoded.
    source : str
        Where they come from.
    """

    length: int
    get: Callable[[int], Any]
    source: str

    def __len__(self) -> int:
        return self.length

    def open(self, row: int, mode: str | None = None) -> Any:
        """Decode one image, converted to ``mode`` where one is given.

        Raises
        ------
        ValueError
            If that cannot be done, naming the row and the reason.
        """
        try:
            image = self.get(row)
            image.load()
        except (OSError, SyntaxError) as error:  # what PIL raises for files that are damaged or no images
            raise ValueError(
                f"the image in row {row} of {self.source} cannot be read ({error}): replace the file or leave it out"
            ) from error
        return image if mode is None else image.convert(mode)

    def parts(self) -> Iterator[bytes]:
        """Yield mode, size and pixels of each image, one at a time, for a fingerprint."""
        for row in range(self.length):
            image = self.open(row)
            yield f"{image.mode} {image.size}".encode()
            yield image.tobytes()

    def fingerprint(self) -> str:
        """Return the SHA-256 of all pixels in order."""
        return fingerprint(self.parts())


def is_images(data: Any) -> bool:
    """Say whether ``data`` is something `read_images` reads."""
    if isinstance(data, str | Path):
        return Path(data).is_dir()
    if isinstance(data, Images):
        return True
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return bool(_image_columns(data))
    return isinstance(data, list | tuple) and bool(data) and _is_image(data[0])


def read_images(data: Any, column: str | Sequence[str] | None = None) -> Images:
    """Read images without decoding them; what it returned before is returned as it is.

    Parameters
    ----------
    data : str, Path, datasets.Dataset or list of PIL images
        A folder is searched with its subfolders, in order of the paths.
    column : str, optional
        Which image column of a data set that has several.

    Raises
    ------
    FileNotFoundError
        If a folder holds no images.
    ValueError
        If the column is none of images, or has to be named.
    """
    if isinstance(data, Images):
        return data
    if isinstance(data, str | Path):
        files = sorted(file for file in Path(data).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise FileNotFoundError(
                f"`data`: the folder {str(data)!r} holds no images ({', '.join(IMAGE_SUFFIXES)}); texts are read from "
                "a file, give its path"
            )
        return Images(len(files), lambda row: _open_file(files[row]), str(data))
    if hasattr(data, "column_names"):
        columns = _image_columns(data)
        name = column if isinstance(column, str) else (columns[0] if len(columns) == 1 and column is None else None)
        if name not in columns:
            raise ValueError(
                f"`text_column` must name one of the image columns {columns}, got {column!r}"
                f"{nearest(str(column), columns)}"
            )
        return Images(len(data), lambda row: data[row][name], "a data set in memory")
    images = list(data)
    return Images(len(images), lambda row: images[row], f"{type(data).__name__} of images in memory")


def _open_file(file: Path) -> Any:
    from PIL import Image

    return Image.open(file)


def _image_columns(data: Any) -> list[str]:
    features = getattr(data, "features", None) or {}
    return [name for name, feature in features.items() if type(feature).__name__ == "Image"]


def _is_image(value: Any) -> bool:
    return type(value).__module__.startswith("PIL.") and hasattr(value, "convert")
