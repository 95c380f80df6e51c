"""Profiles of vision models on images: folders, data sets and pictures in memory, decoded one at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image
from typer.testing import CliRunner

import gelora
import gelora.images
from gelora.images import is_images, read_images
from gelora.representations import extract_representations

Pictures = list[Image.Image]
QUIET: dict[str, Any] = {"progress": False}


def make_vit(channels: int) -> Any:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=channels, initializer_range=0.3)
    return ViTModel(config, add_pooling_layer=False).eval()


def make_processor(channels: int, **options: Any) -> Any:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    normal = {"image_mean": [0.5] * channels, "image_std": [0.5] * channels}
    return ViTImageProcessorPil(**{"size": {"height": 8, "width": 8}, **normal, **options})


@pytest.fixture(scope="module")
def vit() -> Any:
    """A bare ViT of grey images."""
    return make_vit(1)


@pytest.fixture(scope="module")
def processor() -> Any:
    return make_processor(1)


@pytest.fixture(scope="module")
def pictures() -> Pictures:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


@pytest.fixture
def folder(pictures: Pictures, tmp_path: Path) -> Path:
    for place, picture in enumerate(pictures):
        (tmp_path / "pictures" / "ab"[place % 2]).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "pictures" / "ab"[place % 2] / f"{place:02}.png")
    return tmp_path / "pictures"


def column_of(pictures: Pictures, **others: Any) -> Any:
    from datasets import Dataset, Features
    from datasets import Image as Column

    data = Dataset.from_dict({"picture": pictures}, features=Features({"picture": Column()}))
    for name, values in others.items():
        data = data.add_column(name, values)
    return data


@pytest.mark.parametrize(
    ("pooling", "pool"),
    [
        ("mean", lambda states: states.mean(1)),
        ("cls", lambda states: states[:, 0]),
        ("max", lambda states: states.amax(1)),
        ("last", lambda states: states[:, -1]),
        ("tokens", lambda states: states.flatten(0, 1)),
    ],
)
def test_the_clouds_are_the_pooled_hidden_states(
    pooling: str, pool: Callable[[Any], Any], vit: Any, processor: Any, pictures: Pictures
) -> None:
    options = QUIET | {"pooling": pooling, "tokenizer": processor, "batch_size": 7}
    found = extract_representations(vit, pictures, **options)
    pixels = torch.tensor(np.stack([np.asarray(one) for one in pictures])).float()[:, None] / 127.5 - 1
    with torch.no_grad():
        states = vit(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert len(found) == 3
    for layer in range(2):  # the last of them is after the final norm
        np.testing.assert_allclose(found[layer], pool(states[layer]), atol=1e-5)


def test_a_loader_of_pixel_values_gives_the_clouds_of_the_pictures(
    vit: Any, processor: Any, pictures: Pictures
) -> None:
    from torch.utils.data import DataLoader

    rows = [{"pixel_values": processor(images=one, return_tensors="pt")["pixel_values"][0]} for one in pictures]
    loaded = extract_representations(vit, DataLoader(rows, batch_size=6), **QUIET)
    own = extract_representations(vit, pictures, tokenizer=processor, **QUIET)
    for layer in range(3):
        np.testing.assert_allclose(loaded[layer], own[layer], atol=1e-6)


def test_copies_run_once_also_over_rounds(vit: Any, processor: Any, pictures: Pictures) -> None:
    class NeverEnough:
        first, growth = 30, 2.0

        def __call__(self, _: Any) -> bool:
            return False

    options = QUIET | {"tokenizer": processor}
    once = extract_representations(vit, pictures, **options)
    for draw in (None, NeverEnough()):
        found = extract_representations(vit, pictures * 2, n_samples=draw, **options)
        assert found.attributes["text_copies_removed"] == 40
        assert len(found[0]) == 40
        np.testing.assert_allclose(np.sort(found[2], axis=0), np.sort(once[2], axis=0), atol=1e-6)


def test_of_many_images_only_the_drawn_ones_and_a_sample_are_decoded(
    vit: Any, processor: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_file = gelora.images._open_file

    def note(file: Path) -> Any:
        opened.append(file.name)
        return open_file(file)

    monkeypatch.setattr(gelora.images, "_open_file", note)
    monkeypatch.setattr(gelora.images, "N_HASHED", 4)
    found = extract_representations(vit, folder, tokenizer=processor, n_samples=5, **QUIET)
    assert len(found[0]) == 5
    assert found.attributes["n_available"] == 40
    assert 5 <= len(set(opened)) <= 9


def test_the_fingerprint_is_of_the_data_and_not_of_the_draw(
    vit: Any, processor: Any, pictures: Pictures, folder: Path
) -> None:
    options = QUIET | {"tokenizer": processor}
    marks = {
        extract_representations(vit, data, n_samples=n, **options).attributes["data_fingerprint"]
        for data, n in ((folder, 5), (folder, None), (str(folder), 9))
    }
    assert len(marks) == 1
    assert read_images(pictures).fingerprint() == read_images(column_of(pictures)).fingerprint()
    other = [*pictures[:-1], pictures[0]]
    assert read_images(other).fingerprint() != read_images(pictures).fingerprint()
    assert read_images(pictures[:-1]).fingerprint() != read_images(pictures).fingerprint()


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_converted_to_the_channels_of_the_model(channels: int, pictures: Pictures) -> None:
    model, processor = make_vit(channels), make_processor(channels)
    options = QUIET | {"tokenizer": processor}
    grey = extract_representations(model, pictures, **options)
    for mode in ("RGB", "RGBA"):
        same = extract_representations(model, [one.convert(mode) for one in pictures], **options)
        np.testing.assert_allclose(same[2], grey[2], atol=1e-6)


def test_pictures_are_turned_as_the_camera_says(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # the orientation: to be turned by a quarter
    Image.fromarray(pixels).save(tmp_path / "one.png", exif=turned)
    found = read_images(tmp_path)
    assert found.open(0).size == (8, 16)
    np.testing.assert_array_equal(np.asarray(found.open(0)), np.rot90(pixels, -1))
    from datasets import Dataset, Features
    from datasets import Image as Column

    column = Dataset.from_dict({"a": [str(tmp_path / "one.png")]}, features=Features({"a": Column()}))
    assert read_images(column).fingerprint() == found.fingerprint()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_of_sixteen_bits_is_scaled_to_eight(mode: str, tmp_path: Path) -> None:
    """PIL by itself cuts at 255: all but the darkest pixels would be white."""
    eight = np.random.default_rng(2).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(eight.astype(np.uint16) * 257).save(tmp_path / "wide.png")
    assert read_images(tmp_path).open(0).mode == "I;16"
    expected = np.asarray(Image.fromarray(eight).convert(mode))
    np.testing.assert_array_equal(np.asarray(read_images(tmp_path).open(0, mode)), expected)
    from datasets import Dataset, Features
    from datasets import Image as Column

    for column in (Column(), Column(mode=mode)):
        data = Dataset.from_dict({"a": [str(tmp_path / "wide.png")]}, features=Features({"a": column}))
        np.testing.assert_array_equal(np.asarray(read_images(data).open(0, mode)), expected)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_of_no_known_range_are_refused(kind: type, tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), kind)).save(tmp_path / "one.tif")
    with pytest.raises(
        ValueError, match=r"one.tif', cannot be read \(pixels of mode '[FI]' have no known range, scale"
    ):
        read_images(tmp_path).open(0, "RGB")


def test_a_palette_with_transparent_colours_keeps_them_without_a_warning(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P")
    picture.save(tmp_path / "one.png", transparency=b"\x00\x01\x02")
    found = read_images(tmp_path).open(0, "RGB")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(picture.convert("RGB")))


def test_hidden_files_and_folders_are_left_out(folder: Path) -> None:
    whole = read_images(folder).fingerprint()
    (folder / "a" / "._00.png").write_bytes(b"left behind by an archive")
    (folder / ".thumbnails").mkdir()
    Image.new("L", (8, 8)).save(folder / ".thumbnails" / "00.png")
    assert read_images(folder).fingerprint() == whole
    hidden = folder.rename(folder.parent / ".pictures")  # what the user names is read
    assert len(read_images(hidden)) == 40


def test_a_streamed_data_set_is_refused(vit: Any, processor: Any, pictures: Pictures) -> None:
    streamed = column_of(pictures).to_iterable_dataset()
    with pytest.raises(
        TypeError, match=r"`data` must be a data set of known length, got IterableDataset: load it with"
    ):
        extract_representations(vit, streamed, tokenizer=processor, **QUIET)


def test_a_column_is_read_whatever_its_format(vit: Any, processor: Any, pictures: Pictures) -> None:
    from datasets import Image as Column

    data = column_of(pictures)
    own = extract_representations(vit, pictures, tokenizer=processor, **QUIET)
    for same in (data, data.with_format("torch"), data.cast_column("picture", Column(decode=False))):
        found = extract_representations(vit, same, tokenizer=processor, **QUIET)
        np.testing.assert_array_equal(found[2], own[2])


def test_a_named_column_of_texts_is_read_as_texts(pictures: Pictures) -> None:
    data = column_of(pictures, caption=["a text"] * 40)
    assert is_images(data)
    assert is_images(data, "picture")
    assert not is_images(data, "caption")
    assert not is_images(data, ["caption"])
    tokens = column_of(pictures, input_ids=[[1, 2]] * 40)
    assert not is_images(tokens)
    assert is_images(tokens, "picture")


def test_a_vit_gets_ranks_and_a_report_of_the_theorems(vit: Any, processor: Any, pictures: Pictures) -> None:
    from gelora.finetuning.labelled import labelled_batches
    from gelora.finetuning.tasks import Task
    from gelora.theory import theory_report

    profile = gelora.estimate(vit, pictures, estimator="mle", tokenizer=processor, **QUIET)
    assert np.isfinite(profile["dimension"]).all()
    plan = gelora.plan_ranks(profile, vit)
    assert {module.block for module in plan.modules} == {1, 2}
    rows = [{"image": one, "label": "ab"[place % 2]} for place, one in enumerate(pictures)]
    task = Task(name="halves", image="image", train=rows, validation=rows)
    head, batches = labelled_batches(vit, task, tokenizer=processor, n_examples=12, batch_size=4)
    assert [batch["pixel_values"].shape for batch in batches] == [(4, 1, 8, 8)] * 3
    assert head.config.num_labels == 2
    report = theory_report(
        head, profile, pictures, plan=plan, labelled_batches=batches, tokenizer=processor, n_points=2, **QUIET
    )
    assert np.isfinite(report["fisher_effective_rank"]).all()
    ranks = report["jacobian_rank"].values
    assert ((ranks > 0) & (ranks <= 16 * 5)).all()


def test_the_command_line_reads_a_folder_of_images(vit: Any, processor: Any, folder: Path, tmp_path: Path) -> None:
    from gelora.cli import app

    vit.save_pretrained(tmp_path / "vit")
    processor.save_pretrained(tmp_path / "vit")
    output = tmp_path / "profile.nc"
    arguments = ["estimate", "--model", str(tmp_path / "vit"), "--data", str(folder), "--output", str(output)]
    result = CliRunner().invoke(app, [*arguments, "--estimator", "mle", "--no-progress"])
    assert result.exit_code == 0, result.output
    with xr.open_dataset(output) as profile:
        assert profile.sizes["layer"] == 3
    read = gelora.estimate(tmp_path / "vit", folder, estimator="mle", **QUIET)
    assert np.isfinite(read["dimension"]).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 8}, r"`decoder_texts` and `max_length` go with texts: leave them out for images"),
        ({"decoder_texts": ["a"] * 40}, r"`decoder_texts` and `max_length` go with texts"),
        ({"text_column": "picture"}, r"`text_column` names a column of a dataset: leave it out for images"),
        ({"tokenizer": None}, r"`tokenizer` must be given to read images, an image processor: none was found"),
    ],
)
def test_options_of_texts_are_refused_for_images(
    options: dict[str, Any], message: str, vit: Any, processor: Any, pictures: Pictures
) -> None:
    with pytest.raises(ValueError, match=message):
        extract_representations(vit, pictures, **({"tokenizer": processor} | QUIET | options))


def test_a_tokenizer_is_no_image_processor(vit: Any, pictures: Pictures) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(TypeError, match=r"`tokenizer` must be an image processor for images, got \w+: give AutoImage"):
        extract_representations(vit, pictures, tokenizer=words, **QUIET)


def test_images_of_several_sizes_need_a_processor_that_resizes(vit: Any, pictures: Pictures) -> None:
    own = make_processor(1, do_resize=False)
    larger = [pictures[0], pictures[1].resize((12, 8))]
    with pytest.raises(ValueError, match=r"must be of one shape, got \[\(1, 8, 8\), \(1, 8, 12\)\]: give an image pro"):
        extract_representations(vit, larger, tokenizer=own, **QUIET)


def test_a_damaged_image_is_named_with_its_path(vit: Any, processor: Any, folder: Path, pictures: Pictures) -> None:
    broken = folder / "a" / "02.png"
    broken.write_bytes(broken.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"the image in row 1 of .*, '.*a/02.png', cannot be read \(.*\): replace"):
        extract_representations(vit, folder, tokenizer=processor, **QUIET)
    with pytest.raises(ValueError, match=r"row 1 of a data set in memory cannot be read \(the row is empty\)"):
        extract_representations(vit, column_of([pictures[0], None]), tokenizer=processor, **QUIET)  # type: ignore[list-item]
