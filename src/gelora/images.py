"""Images in: a folder of files, a data set with an image column or images in memory, decoded one at a time."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gelora.messages import nearest
from gelora.provenance import fingerprint

if TYPE_CHECKING:
    import torch

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
N_HASHED = 5000
# PIL cuts these at 255 when it converts them, which leaves black and white.
WIDE_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
UNSCALED_MODES = ("I", "F")


def _no_path(_: int) -> str:
    return ""


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
    path_of : callable, optional
        From a row to the path of its file, empty where there is none.
    """

    length: int
    get: Callable[[int], Any]
    source: str
    path_of: Callable[[int], str] = _no_path

    def __len__(self) -> int:
        return self.length

    def open(self, row: int, mode: str | None = None) -> Any:
        """Decode one image, converted to ``mode`` where one is given; 16-bit grey is scaled to 8 bits first.

        Raises
        ------
        ValueError
            If that cannot be done, naming the row, the file and the reason.
        """
        from PIL.Image import DecompressionBombError

        try:
            image = self.get(row)
            if image is None:
                raise ValueError("the row is empty")
            image.load()
            return image if mode is None else _convert(image, mode)
        # What PIL raises for files that are damaged, too large or no images.
        except (OSError, SyntaxError, ValueError, DecompressionBombError) as error:
            path = self.path_of(row)
            where = f"row {row} of {self.source}" + (f", {path!r}," if path else "")
            raise ValueError(
                f"the image in {where} cannot be read ({error}): replace the file or leave it out"
            ) from error

    def parts(self, rows: Iterable[int] | None = None) -> Iterator[bytes]:
        """Yield mode, size and pixels of each image, one at a time, for a fingerprint."""
        for row in range(self.length) if rows is None else rows:
            image = self.open(row)
            yield f"{image.mode} {image.size}".encode()
            yield image.tobytes()

    def fingerprint(self) -> str:
        """Return the SHA-256 of their number and their pixels in order.

        Of more than 5000 images it is that of 5000, spread evenly over the data: those of a large folder are not all
        decoded for the few that a profile needs.
        """
        rows = np.linspace(0, self.length - 1, min(self.length, N_HASHED)).round().astype(np.int64).tolist()
        return fingerprint(chain([str(self.length).encode()], self.parts(rows)))


class Pixels(Mapping[str, Any]):
    """The input of a model for one image, ``pixel_values``, made each time it is asked for and not held.

    Parameters
    ----------
    images : Images
        What the image is of.
    row : int
        Which one.
    processor : callable
        Of transformers: from images to ``pixel_values``.
    mode : str
        What the image is converted to first, see `image_mode`.
    """

    def __init__(self, images: Images, row: int, processor: Callable[..., Any], mode: str) -> None:
        self._images, self._row, self._processor, self._mode = images, row, processor, mode

    def __getitem__(self, key: str) -> "torch.Tensor":
        """Return the pixel values, of shape (channels, height, width)."""
        if key not in self:
            raise KeyError(key)
        image = self._images.open(self._row, self._mode)
        pixels: torch.Tensor = self._processor(images=[image], return_tensors="pt")["pixel_values"][0]
        return pixels

    def __contains__(self, key: object) -> bool:
        """Say whether ``key`` is ``"pixel_values"``, without making them."""
        return key == "pixel_values"

    def __iter__(self) -> Iterator[str]:
        """Yield the one key."""
        return iter(("pixel_values",))

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def digest(self) -> bytes:
        """Return a hash of the pixels of the image, by which copies are known."""
        image = self._images.open(self._row, self._mode)
        return fingerprint((f"{image.mode} {image.size}".encode(), image.tobytes())).encode()


def image_mode(model: Any) -> str:
    """Return what images are converted to for ``model``: ``"L"`` (grey) for one channel, else ``"RGB"``."""
    return "L" if getattr(getattr(model, "config", None), "num_channels", 3) == 1 else "RGB"


def check_processor(processor: Any) -> Any:
    """Return ``processor`` unless it is a tokenizer.

    Raises
    ------
    TypeError
        If it is one.
    """
    if hasattr(processor, "convert_tokens_to_ids"):
        raise TypeError(
            f"`tokenizer` must be an image processor for images, got {type(processor).__name__}: give "
            "AutoImageProcessor.from_pretrained(…)"
        )
    return processor


def stack_pixels(pixels: "Sequence[torch.Tensor]") -> "torch.Tensor":
    """Return the pixel values of several images as one tensor.

    Raises
    ------
    ValueError
        If they differ in size.
    """
    import torch

    shapes = sorted({tuple(one.shape) for one in pixels})
    if len(shapes) > 1:
        raise ValueError(
            f"the pixel values of all images must be of one shape, got {shapes[:3]}: give an image processor with "
            "`do_resize` and `size` as `tokenizer`"
        )
    return torch.stack(list(pixels))


def is_images(data: Any, column: str | Sequence[str] | None = None) -> bool:
    """Say whether ``data`` is something `read_images` reads; not so where ``column`` names another column than images.

    A data set with token ids is tokenized already, whatever else it has.
    """
    if isinstance(data, str | Path):
        return Path(data).is_dir()
    if isinstance(data, Images):
        return True
    if hasattr(data, "column_names") and hasattr(data, "features"):
        found, names = _image_columns(data), [column] if isinstance(column, str) else list(column or ["input_ids"])
        return bool(found) and not any(name in data.column_names and name not in found for name in names)
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
    TypeError
        If a data set is streamed: rows are drawn from all of it.
    """
    if isinstance(data, Images):
        return data
    if hasattr(data, "column_names") and not hasattr(data, "__len__"):
        raise TypeError(
            f"`data` must be a data set of known length, got {type(data).__name__}: load it without streaming=True"
        )
    if not hasattr(data, "column_names") and column is not None:
        raise ValueError(f"`text_column` names a column of a dataset: leave it out for images, got {column!r}")
    if isinstance(data, str | Path):
        files = image_files(Path(data))
        if not files:
            raise FileNotFoundError(
                f"`data`: the folder {str(data)!r} holds no images ({', '.join(IMAGE_SUFFIXES)}); texts are read from "
                "a file, give its path"
            )
        return Images(len(files), lambda row: _open_file(files[row]), str(data), lambda row: str(files[row]))
    if hasattr(data, "column_names"):
        columns = _image_columns(data)
        name = column if isinstance(column, str) else (columns[0] if len(columns) == 1 and column is None else None)
        if name not in columns:
            raise ValueError(
                f"`text_column` must name one of the image columns {columns}, got {column!r}"
                f"{nearest(str(column), columns)}"
            )
        return images_in_column(data, str(name), "a data set in memory")
    images = list(data)
    return Images(len(images), lambda row: images[row], f"{type(data).__name__} of images in memory")


def image_files(folder: Path) -> list[Path]:
    """Return the image files in ``folder`` and its subfolders, sorted, without hidden ones.

    Hidden are the files and folders whose name begins with a dot, as editors and archives leave them behind.
    """
    found = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(file for file in found if not any(map(is_hidden, file.relative_to(folder).parts)))


def is_hidden(name: str) -> bool:
    """Say whether a file or folder of that name is hidden."""
    return name.startswith(".")


def images_in_column(data: Any, name: str, source: str) -> Images:
    """Return the images of a column of a ``datasets.Dataset``, whatever format it is set to."""
    from datasets import Image

    stored = data.with_format(None).select_columns([name]).cast_column(name, Image(decode=False))
    mode = getattr(data.features[name], "mode", None)
    # No closures: the workers of a DataLoader get them pickled on some systems.
    return Images(len(stored), partial(_stored_image, stored, name, mode), source, partial(_stored_path, stored, name))


def _stored_image(stored: Any, name: str, mode: str | None, row: int) -> Any:
    from datasets import Image

    value = stored[row][name]
    if value is None:
        return None
    if value["bytes"] is None and not Path(value["path"]).is_file():  # inside an archive, or somewhere else
        return Image(mode=mode).decode_example(value)
    image = _open_file(Path(value["path"]) if value["bytes"] is None else BytesIO(value["bytes"]))
    return image if mode is None else _convert(image, mode)


def _stored_path(stored: Any, name: str, row: int) -> str:
    return str((stored[row][name] or {}).get("path") or "")


def _convert(image: Any, mode: str) -> Any:
    """Convert an image to ``mode``, 16-bit grey by way of 8 bits."""
    if image.mode == mode:
        return image
    if image.mode in UNSCALED_MODES:
        raise ValueError(f"pixels of mode {image.mode!r} have no known range, scale them to 8 bits")
    if image.mode in WIDE_MODES:
        from PIL import Image

        scaled = np.asarray(image).astype(np.float64) / 257  # 65535 becomes 255
        image = Image.fromarray(scaled.round().astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # else PIL warns; the colours are the same
    return image.convert(mode)


def _open_file(file: Path | BytesIO) -> Any:
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        return ImageOps.exif_transpose(image)  # turned as the camera says, as in data sets


def _image_columns(data: Any) -> list[str]:
    features = getattr(data, "features", None) or {}
    return [name for name, feature in features.items() if type(feature).__name__ == "Image"]


def _is_image(value: Any) -> bool:
    return type(value).__module__.startswith("PIL.") and hasattr(value, "convert")
