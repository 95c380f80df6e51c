"""The splits of an image task: from folders of files, data sets or memory, decoded only when they are needed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gelora.finetuning.glue import Task
from gelora.finetuning.labels import check_labels_present, class_names, to_classes
from gelora.finetuning.tables import SPLITS, fetch_hub
from gelora.images import IMAGE_SUFFIXES, Images, Pixels, image_files, images_in_column, is_hidden, stack_pixels
from gelora.messages import nearest

if TYPE_CHECKING:
    import torch
    from datasets import Dataset


@dataclass(frozen=True, slots=True)
class ImageTable:
    """One split before its labels are read.

    Parameters
    ----------
    images : Dataset
        One column, ``image``, of images that are decoded when they are asked for.
    labels : sequence
        As stored.
    class_names : tuple of str
        Of stored indices, where the data name them.
    source : str
        Where it comes from.
    """

    images: "Dataset"
    labels: Sequence[Any]
    class_names: tuple[str, ...]
    source: str


def read_image_splits(task: Task, data_dir: str | Path | None) -> dict[str, ImageTable]:
    """Return the train and the validation split of an image task.

    Raises
    ------
    FileNotFoundError
        If a folder is missing or holds no images.
    ValueError, TypeError
        If the data are given twice, not at all, or in a form that is not read.
    """
    own = {split: getattr(task, split) for split in SPLITS}
    given = [split for split, data in own.items() if data is not None]
    if data_dir is not None:
        if given:
            raise ValueError(f"`data_dir` and the task's own `{given[0]}` are both given: leave one out")
        return {split: _read_folder(Path(data_dir), split) for split in SPLITS}
    if not given and task.hub_repository:
        sets, source = fetch_hub(task)
        return {split: _read_dataset(data, task, split, source) for split, data in sets.items()}
    for split in SPLITS:
        if own[split] is None:
            raise ValueError(
                f"`task` {task.name!r} has no `{split}` data: give `data_dir`, a folder with {split}/<class>/<image>, "
                f"or `{split}=` a datasets.Dataset or a list of dicts"
            )
    return {split: _read_own(data, task, split) for split, data in own.items()}


def labelled_images(table: ImageTable, names: Sequence[str], split: str, rows: Sequence[int]) -> "Dataset":
    """Return the chosen rows with columns ``image`` and ``label``."""
    from datasets import ClassLabel, Dataset, Features, concatenate_datasets

    labels = to_classes(table.labels, names, split, table.class_names)
    features = Features({"label": ClassLabel(names=list(names))})
    chosen = Dataset.from_dict({"label": [labels[row] for row in rows]}, features=features)
    return concatenate_datasets([table.images.select(rows), chosen], axis=1)


def find_class_names(table: ImageTable) -> tuple[str, ...]:
    """Return the classes of a split, from what it stores or from the labels that occur."""
    check_labels_present(table.labels, "train", "classification")
    return table.class_names or class_names(table.labels)


def images_of(split: "Dataset", source: str) -> Images:
    """Return the images of a split made by `labelled_images`."""
    return images_in_column(split, "image", source)


class ImageRows(Sequence[Mapping[str, Any]]):
    """Rows of pixel values and labels, made when they are asked for.

    Parameters
    ----------
    split : Dataset
        Columns ``image`` and ``label``.
    processor : callable
        Of transformers: from images to ``pixel_values``.
    mode : str
        What images are converted to first: ``"RGB"``, or ``"L"`` for models of one channel.
    """

    def __init__(self, split: "Dataset", processor: Callable[..., Any], mode: str) -> None:
        self._images, self._processor, self._mode = images_of(split, "the data"), processor, mode
        self._labels = list(split["label"])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: Any) -> Any:
        """Return the row as ``pixel_values`` of shape (channels, height, width), and ``labels``."""
        pixels = Pixels(self._images, int(row), self._processor, self._mode)
        return {**pixels, "labels": self._labels[int(row)]}


def collate_images(rows: Sequence[Mapping[str, Any]]) -> "dict[str, torch.Tensor]":
    """Stack rows of one size into a batch."""
    import torch

    pixels = stack_pixels([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])}


def _read_folder(folder: Path, split: str) -> ImageTable:
    names = ("validation", "val", "test") if split == "validation" else (split,)
    places = [folder / name for name in names if (folder / name).is_dir()]
    if not places:
        raise FileNotFoundError(
            f"`data_dir`: {str(folder)!r} has no folder {names[0]!r}; give one with train/<class>/<image> and "
            "validation/<class>/<image>"
        )
    files = [
        (file, place.name)
        for place in sorted(path for path in places[0].iterdir() if path.is_dir() and not is_hidden(path.name))
        for file in image_files(place)
    ]
    if not files:
        raise FileNotFoundError(
            f"`data_dir`: {str(places[0])!r} holds no images ({', '.join(IMAGE_SUFFIXES)}) in folders named by class"
        )
    return ImageTable(_column([str(file) for file, _ in files]), [name for _, name in files], (), str(places[0]))


def _read_own(data: Any, task: Task, split: str) -> ImageTable:
    source = f"the task's own {split} data"
    if hasattr(data, "column_names") and hasattr(data, "features"):
        return _read_dataset(data, task, split, source)
    if isinstance(data, list | tuple) and all(isinstance(row, Mapping) for row in data):
        _check_any(data, split)
        for name in (task.image, task.label):
            _check_column(name, list(data[0]), task, split)
        images = [_as_image(row.get(task.image), split, place) for place, row in enumerate(data)]
        return ImageTable(_column(images), [row.get(task.label) for row in data], (), source)
    raise TypeError(
        f"`{split}` must be a datasets.Dataset with an image column or a list of dicts with images, got "
        f"{type(data).__name__}"
    )


def _read_dataset(data: Any, task: Task, split: str, source: str) -> ImageTable:
    if isinstance(data.column_names, dict) or not hasattr(data, "__len__"):
        raise TypeError(f"`{split}` must be one split of a dataset of known length: pass data[{split!r}], not streamed")
    _check_any(data, split)
    for name in (task.image, task.label):
        _check_column(name, data.column_names, task, split)
    plain = data.with_format(None)
    feature = data.features[task.label]
    names = tuple(getattr(feature, "names", None) or ())
    return ImageTable(_read_column(plain, task.image, split), list(plain[task.label]), names, source)


def _read_column(data: Any, name: str, split: str) -> "Dataset":
    """Return a column of images, of their paths or bytes, or of arrays of pixels, as a column ``image``."""
    from datasets import Image, Value

    images = data.select_columns([name])
    if name != "image":
        images = images.rename_column(name, "image")
    feature = images.features["image"]
    if isinstance(feature, Image | Value | dict):
        return images.cast_column("image", Image(mode=getattr(feature, "mode", None)))
    while hasattr(feature, "feature"):  # lists of lists
        feature = feature.feature
    arrays = images.with_format("numpy", dtype=np.dtype(feature.dtype))  # else integers become 64-bit
    return _column([_as_image(arrays[row]["image"], split, row) for row in range(len(arrays))])


def _check_any(data: Any, split: str) -> None:
    if not len(data):
        raise ValueError(f"`{split}` must hold at least one image, got none: give rows of images and labels")


def _check_column(name: str, available: Sequence[str], task: Task, split: str) -> None:
    if name not in available:
        raise ValueError(
            f"the {split} split has no column {name!r}, which the task {task.name!r} needs; it has {list(available)}"
            f"{nearest(name, list(available))}"
        )


def _as_image(value: Any, split: str, row: int) -> Any:
    """Return a PIL image, the path of one, or an array of 8-bit pixels as a PIL image."""
    from PIL import Image

    if isinstance(value, Image.Image):
        return value.copy()  # without its file name: a data set would read the file again, not what was made of it
    if isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    pixels = np.asarray(value)
    if pixels.ndim == 3 and pixels.shape[2] == 1:  # one channel
        pixels = pixels[:, :, 0]
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if pixels.dtype != np.uint8 or not fits or not pixels.size:
        raise TypeError(
            f"the image in row {row} of the {split} split must be a PIL image, a path or an array of uint8 of shape "
            "(height, width) or (height, width, channels) with 1, 3 or 4 channels, got "
            f"{type(value).__name__} of type {pixels.dtype}, shape {pixels.shape}"
        )
    return Image.fromarray(pixels)


def _column(images: list[Any]) -> "Dataset":
    from datasets import Dataset, Features, Image

    return Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
