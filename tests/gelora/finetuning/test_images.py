"""Image classification: scikit-learn's digits, a small ViT, profile, ranks, fine-tuning, saved and loaded."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import gelora
from gelora.finetuning.classifiers import load_classifier
from gelora.finetuning.images import ImageRows
from gelora.finetuning.loading import load_adapter
from gelora.finetuning.runner import finetune
from gelora.finetuning.tasks import Task, load_task

CLASSES = tuple(f"digit {number}" for number in range(10))
RUN: dict[str, Any] = {"batch_size": 32, "learning_rate": 1e-2, "progress": False}


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """8 × 8 grey images as 8-bit pixels, and their numbers."""
    from sklearn.datasets import load_digits

    pixels, numbers = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(numbers))  # as stored, the last ones are by other writers
    return np.round(pixels[order].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), numbers[order]


def rows_of(digits: Any, places: slice) -> list[dict[str, Any]]:
    images, numbers = (part[places] for part in digits)
    return [{"picture": image, "what": CLASSES[number]} for image, number in zip(images, numbers, strict=True)]


@pytest.fixture(scope="session")
def task(digits: Any) -> Task:
    return Task(
        name="digits",
        image="picture",
        label="what",
        label_names=CLASSES,
        train=rows_of(digits, slice(0, 640)),
        validation=rows_of(digits, slice(1500, 1700)),
    )


@pytest.fixture(scope="session")
def vit(digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bare ViT that has learnt digits, without its head, and its image processor."""
    from transformers import ViTConfig, ViTForImageClassification
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
    config = ViTConfig(**sizes, image_size=8, patch_size=2, num_channels=1, num_labels=10)
    model = ViTForImageClassification(config).train()
    images, numbers = (torch.tensor(part[:1400]) for part in digits)
    pixels = (images.float()[:, None] / 255 - 0.5) / 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(300):
        chosen = torch.randint(0, 1400, (64,), generator=torch.Generator().manual_seed(step))
        loss = model(pixel_values=pixels[chosen], labels=numbers[chosen].long()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("vit")
    model.vit.save_pretrained(folder)
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def plan(vit: Path, digits: Any) -> Any:
    images = [Image.fromarray(image) for image in digits[0][:400]]
    profile = gelora.estimate(vit, images, estimator="twonn", progress=False)
    return gelora.plan_ranks(profile, vit)


@pytest.fixture(scope="session")
def tuned(vit: Path, task: Task, plan: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("digits") / "run"
    options = RUN | {"max_steps": 120, "eval_steps": 120, "save_steps": 120}
    return finetune(vit, task, plan, output_dir=output, **options), output


def test_a_profile_of_images_has_a_dimension_for_each_layer_and_gives_ranks(vit: Path, digits: Any, plan: Any) -> None:
    images = [Image.fromarray(image) for image in digits[0][:300]]
    profile = gelora.estimate(vit, [*images, *images[:20]], estimator=["twonn", "mle"], progress=False)
    assert profile.sizes["layer"] == 4
    assert np.isfinite(profile["dimension"]).all()
    assert profile.attrs["text_copies_removed"] == 20
    assert {module.role for module in plan.modules} == {"query", "key", "value", "output"}
    assert len(plan.modules) == 12


def test_a_folder_a_dataset_and_pictures_in_memory_give_one_profile(vit: Path, digits: Any, tmp_path: Path) -> None:
    from datasets import Dataset, Features
    from datasets import Image as Column

    images = [Image.fromarray(image) for image in digits[0][:60]]
    for place, image in enumerate(images):
        image.save(tmp_path / f"{place:03}.png")
    column = Dataset.from_dict({"picture": images}, features=Features({"picture": Column()}))
    found = [gelora.estimate(vit, data, estimator="mle", progress=False) for data in (images, tmp_path, column)]
    for one in found[1:]:
        np.testing.assert_array_equal(one["dimension"], found[0]["dimension"])
        assert one.attrs["data_fingerprint"] == found[0].attrs["data_fingerprint"]
    pixels = (torch.tensor(digits[0][:60]).float()[:, None] / 255 - 0.5) / 0.5
    tensors = gelora.estimate(vit, {"pixel_values": pixels}, estimator="mle", progress=False)
    np.testing.assert_allclose(tensors["dimension"], found[0]["dimension"], rtol=1e-4)


def test_a_vit_learns_digits_with_lora_of_the_planned_ranks(tuned: Any, plan: Any) -> None:
    record, _ = tuned
    assert record["score"] > 0.9
    assert record["loss"][0] > 2.0  # ten classes, a head that knows nothing
    assert record["rank"].values.tolist() == [module.rank for module in plan.modules]
    assert record["trainable_parameters"].values.tolist() == [plan.n_parameters, 32 * 10 + 10]


def predictions(model: Any, processor: Any, task: Task) -> np.ndarray[Any, Any]:
    images = [Image.fromarray(row["picture"]) for row in task.validation]
    with torch.no_grad():
        pixels = processor(images=images, return_tensors="pt")["pixel_values"]
        found: np.ndarray[Any, Any] = model(pixel_values=pixels).logits.numpy()
    return found


def test_the_saved_folder_predicts_as_the_trained_model(tuned: Any, vit: Path, task: Task) -> None:
    from peft import PeftModel
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    _, output = tuned
    saved = pd.read_parquet(output / "predictions.parquet")[[f"logit_{place}" for place in range(10)]]
    model, processor = load_adapter(output / "adapter")
    np.testing.assert_allclose(predictions(model, processor, task), saved, rtol=0, atol=1e-5)
    base = AutoModelForImageClassification.from_pretrained(vit, num_labels=10)
    by_hand = PeftModel.from_pretrained(base, output / "adapter").eval()
    own = AutoImageProcessor.from_pretrained(output / "adapter")
    np.testing.assert_allclose(predictions(by_hand, own, task), saved, rtol=0, atol=1e-5)
    card = (output / "adapter" / "README.md").read_text(encoding="utf-8")
    assert "base = AutoModelForImageClassification.from_pretrained(" in card
    assert 'processor = AutoImageProcessor.from_pretrained("<this folder>")' in card


@pytest.mark.parametrize("adapter", ["geolora(interval=5)", "sora", "adalora", "eva", "pfeiffer", "full"])
def test_other_adapters_train_and_save_a_vit_too(
    adapter: str, vit: Path, task: Task, plan: Any, tmp_path: Path
) -> None:
    options = RUN | {"max_steps": 25, "eval_steps": 25, "save_steps": 25, "n_validation": 100, "learning_rate": 3e-3}
    given = None if adapter == "full" else plan
    record = finetune(vit, task, given, adapter, output_dir=tmp_path / "out", **options)
    assert record["loss"][-3:].mean() < record["loss"][:3].mean()
    saved = pd.read_parquet(tmp_path / "out" / "predictions.parquet")
    model, processor = load_adapter(tmp_path / "out" / "adapter")
    chosen = load_task(task, n_validation=100)
    images = list(chosen.validation["image"])
    with torch.no_grad():
        logits = model(pixel_values=processor(images=images, return_tensors="pt")["pixel_values"]).logits
    np.testing.assert_allclose(logits, saved[[f"logit_{place}" for place in range(10)]], rtol=0, atol=1e-5)


def write_folders(task: Task, folder: Path) -> Path:
    for split in ("train", "validation"):
        for place, row in enumerate(getattr(task, split)):
            target = folder / split / row["what"]
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(row["picture"]).save(target / f"{place:04}.png")
    return folder


def test_folders_named_by_class_are_a_task(task: Task, vit: Path, plan: Any, tmp_path: Path) -> None:
    folder = write_folders(task, tmp_path / "data")
    found = load_task("images", folder)
    assert found.task.label_names == CLASSES
    assert (len(found.train), len(found.validation)) == (640, 200)
    kept = {(CLASSES[row["label"]], row["image"].tobytes()) for row in found.validation}
    assert kept == {(row["what"], row["picture"].tobytes()) for row in task.validation}
    options = RUN | {"max_steps": 4, "eval_steps": 4, "save_steps": 4, "n_train": 64, "n_validation": 20}
    record = finetune(vit, "images", plan, data_dir=folder, output_dir=tmp_path / "out", **options)
    assert record.attrs["n_train"] == 64


def test_a_dataset_and_rows_in_memory_are_the_same_task(task: Task) -> None:
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as Column

    features = Features({"picture": Column(), "what": ClassLabel(names=list(CLASSES))})
    splits = {
        split: Dataset.from_list(
            [
                {"picture": Image.fromarray(row["picture"]), "what": CLASSES.index(row["what"])}
                for row in getattr(task, split)[:50]
            ],
            features=features,
        )
        for split in ("train", "validation")
    }
    own = Task(name="digits", image="picture", label="what", **splits)
    rows = Task(
        name="digits",
        image="picture",
        label="what",
        label_names=CLASSES,
        train=task.train[:50],
        validation=task.validation[:50],
    )
    found, expected = load_task(own), load_task(rows)
    assert found.task.label_names == CLASSES
    assert found.fingerprint() == expected.fingerprint()
    other = load_task(rows, n_train=49)
    assert other.fingerprint() != expected.fingerprint()


def test_a_folder_and_rows_in_memory_have_one_fingerprint(task: Task, tmp_path: Path) -> None:
    found = load_task("images", write_folders(task, tmp_path / "data"))
    by_class = {split: sorted(getattr(task, split), key=lambda row: row["what"]) for split in ("train", "validation")}
    rows = load_task(Task(name="digits", image="picture", label="what", **by_class))
    assert found.fingerprint() == rows.fingerprint()
    assert found.validation["label"] == rows.validation["label"]
    relabelled = [*by_class["train"][:-1], by_class["train"][-1] | {"what": CLASSES[0]}]
    other = Task(name="digits", image="picture", label="what", **by_class | {"train": relabelled})
    assert load_task(other).fingerprint() != found.fingerprint()


def test_columns_of_pixels_and_of_other_formats_are_read(task: Task) -> None:
    from datasets import Array2D, Dataset, Features, List, Value
    from datasets import Image as Column

    rows = task.train[:40]

    def column(feature: Any, values: list[Any]) -> Any:
        features = Features({"picture": feature, "what": Value("string")})
        return Dataset.from_dict({"picture": values, "what": [row["what"] for row in rows]}, features=features)

    arrays = [row["picture"] for row in rows]
    pixels = column(Array2D((8, 8), "uint8"), arrays)
    nested = column(List(List(Value("uint8"))), [array.tolist() for array in arrays])
    images = column(Column(), [Image.fromarray(array) for array in arrays])
    expected = load_task(Task(name="rows", image="picture", label="what", train=rows, validation=rows)).fingerprint()
    stored = images.cast_column("picture", Column(decode=False))
    for data in (pixels, nested, images, images.with_format("torch"), stored):
        own = Task(name="columns", image="picture", label="what", train=data, validation=data)
        assert load_task(own).fingerprint() == expected
    halves = column(List(List(Value("float32"))), [(array / 255).tolist() for array in arrays])
    with pytest.raises(TypeError, match=r"the image in row 0 of the train split must be .* of type float32, shape"):
        load_task(Task(name="halves", image="picture", label="what", train=halves, validation=halves))


def test_hidden_folders_are_no_classes(task: Task, tmp_path: Path) -> None:
    folder = write_folders(task, tmp_path / "data")
    whole = load_task("images", folder)
    for split in ("train", "validation"):
        (folder / split / ".ipynb_checkpoints").mkdir()
        Image.new("L", (8, 8)).save(folder / split / ".ipynb_checkpoints" / "0.png")
        (folder / split / CLASSES[0] / "._0.png").write_bytes(b"left behind by an archive")
    found = load_task("images", folder)
    assert found.task.label_names == CLASSES
    assert found.fingerprint() == whole.fingerprint()


def test_a_picture_edited_in_memory_is_taken_as_it_is_now(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    picture = Image.open(tmp_path / "red.png")
    picture.paste("blue", (0, 0, 8, 8))
    rows = [{"picture": picture, "label": label} for label in ("a", "b")]
    found = load_task(Task(name="mine", image="picture", train=rows, validation=rows))
    assert found.train[0]["image"].getpixel((3, 3)) == (0, 0, 255)


def test_arrays_of_one_channel_are_those_without_it(task: Task) -> None:
    flat = [{"picture": row["picture"], "what": row["what"]} for row in task.train[:40]]
    deep = [row | {"picture": row["picture"][:, :, None]} for row in flat]
    marks = [
        load_task(Task(name="mine", image="picture", label="what", train=rows, validation=rows)).fingerprint()
        for rows in (flat, deep)
    ]
    assert marks[0] == marks[1]


def test_rows_can_be_sent_to_the_workers_of_a_loader(task: Task, vit: Path) -> None:
    from transformers import AutoImageProcessor

    rows = ImageRows(load_task(task).validation, AutoImageProcessor.from_pretrained(vit), "L")
    sent = pickle.loads(pickle.dumps(rows))  # noqa: S301
    assert len(sent) == 200
    assert torch.equal(sent[7]["pixel_values"], rows[7]["pixel_values"])
    assert sent[7]["labels"] == rows[7]["labels"]


def test_a_bare_model_made_in_memory_gets_the_head_of_its_kind(task: Task, vit: Path) -> None:
    """Of DeiT there are two image classifiers, and its configuration names none."""
    from transformers import AutoImageProcessor, DeiTConfig, DeiTModel

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = DeiTModel(DeiTConfig(**sizes, image_size=8, patch_size=4, num_channels=1))
    own = AutoImageProcessor.from_pretrained(vit)
    found = load_classifier(model, load_task(task, n_train=50), tokenizer=own)
    assert type(found.model).__name__ == "DeiTForImageClassification"
    assert found.model.config.num_labels == 10


def test_a_folder_whose_class_train_lacks_is_refused(task: Task, tmp_path: Path) -> None:
    folder = write_folders(task, tmp_path / "data")
    (folder / "validation" / CLASSES[3]).rename(folder / "validation" / "digit eleven")
    with pytest.raises(ValueError, match=r"the label 'digit eleven' in row \d+ of the validation split is none of"):
        load_task("images", folder)


@pytest.mark.parametrize("head", [False, True])
def test_a_loaded_model_is_tuned_and_left_as_it_was(
    head: bool, vit: Path, task: Task, plan: Any, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor, ViTForImageClassification, ViTModel

    if head:
        model: Any = ViTForImageClassification.from_pretrained(vit, num_labels=10)
    else:
        model = ViTModel.from_pretrained(vit, add_pooling_layer=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = AutoImageProcessor.from_pretrained(vit)
    steps = RUN | {"max_steps": 6, "eval_steps": 6, "save_steps": 6, "n_train": 96, "n_validation": 40}
    record = finetune(model, task, plan, output_dir=tmp_path / "out", tokenizer=own, **steps)
    assert record.attrs["model_class"] == "ViTForImageClassification"
    assert record["trainable_parameters"].values.tolist() == [plan.n_parameters, 32 * 10 + 10]
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_finished_run_is_told_from_one_with_another_processor(
    vit: Path, task: Task, plan: Any, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor

    steps = RUN | {"max_steps": 2, "eval_steps": 2, "save_steps": 2, "n_train": 64, "n_validation": 20}
    first = finetune(vit, task, plan, output_dir=tmp_path / "out", **steps)
    again = finetune(vit, task, plan, output_dir=tmp_path / "out", **steps)
    assert again.attrs["created"] == first.attrs["created"]
    other = AutoImageProcessor.from_pretrained(vit, image_mean=[0.4])
    with pytest.raises(ValueError, match="tokenizer"):
        finetune(vit, task, plan, output_dir=tmp_path / "out", tokenizer=other, **steps)


def test_the_command_line_tunes_on_folders_of_images(vit: Path, task: Task, plan: Any, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from gelora.cli import app

    folder = write_folders(task, tmp_path / "data")
    plan.save(tmp_path / "plan.json")
    arguments = {
        "model": vit,
        "task": "images",
        "data-dir": folder,
        "plan": tmp_path / "plan.json",
        "output": tmp_path / "out",
        "max-steps": 2,
        "n-train": 64,
        "n-validation": 20,
    }
    flat = [str(part) for name, value in arguments.items() for part in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["finetune", *flat, "--no-progress"])
    assert result.exit_code == 0, result.output
    model, _ = load_adapter(tmp_path / "out" / "adapter")
    assert model.config.num_labels == 10


def test_a_tokenizer_is_no_image_processor(vit: Path, task: Task, plan: Any, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(TypeError, match=r"`tokenizer` must be an image processor for images, got \w+: give AutoImage"):
        finetune(vit, task, plan, output_dir=tmp_path / "out", tokenizer=words, **RUN)
    assert not (tmp_path / "out").exists()


def test_images_of_several_sizes_need_a_processor_that_resizes(vit: Path, plan: Any, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    sizes = ((8, 8), (8, 12))
    rows = [{"image": np.zeros(size, np.uint8), "label": label} for size in sizes for label in ("a", "b")]
    mine = Task(name="mine", image="image", train=rows, validation=rows)
    own = AutoImageProcessor.from_pretrained(vit, do_resize=False)
    with pytest.raises(ValueError, match=r"the pixel values of all images must be of one shape, got .* `do_resize`"):
        finetune(vit, mine, plan, output_dir=tmp_path / "out", tokenizer=own, **RUN | {"max_steps": 2})


def test_images_are_decoded_only_when_they_are_asked_for(task: Task, tmp_path: Path) -> None:
    folder = write_folders(task, tmp_path / "data")
    broken = folder / "train" / CLASSES[0] / "0000.png"
    whole = next(broken.parent.iterdir()).read_bytes()
    for damaged in (b"no image", whole[:50]):
        broken.write_bytes(damaged)
        found = load_task("images", folder)
        message = r"the image in row \d+ of .*train, '.*0000.png', cannot be read \(.*\): replace the file"
        with pytest.raises(ValueError, match=message):
            found.fingerprint()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"text": ("a",)}, ValueError, r"`text` or `image` must be given, .* got both"),
        ({"image": ""}, ValueError, r"`text` or `image` must be given, .* got neither"),
        ({"problem": "regression"}, ValueError, r"`problem` must be 'classification' for images, got 'regression'"),
    ],
)
def test_a_task_of_neither_texts_nor_images_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Task(**{"name": "mine", "image": "picture"} | changes)


def mine(**changes: Any) -> Task:
    rows = [{"picture": np.zeros((8, 8), np.uint8), "label": label} for label in ("a", "b")]
    return Task(**{"name": "mine", "image": "picture", "train": rows, "validation": rows} | changes)


ROW = {"picture": np.zeros((8, 8), np.uint8), "label": "a"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": "pictures"}, ValueError, r"the train split has no column 'pictures'.*did you mean 'picture'\?"),
        ({"validation": None}, ValueError, r"`task` 'mine' has no `validation` data: give `data_dir`"),
        ({"train": 3}, TypeError, r"`train` must be a datasets.Dataset with an image column or a list of dicts"),
        ({"train": [ROW | {"picture": np.zeros(3)}]}, TypeError, r"the image in row 0 .* array of uint8 .* \(3,\)"),
        ({"train": [ROW, {"label": "b"}]}, TypeError, r"the image in row 1 of the train split .* got NoneType"),
        (
            {"train": [ROW | {"picture": np.zeros((3, 8, 8), np.uint8)}]},
            TypeError,
            r"1, 3 or 4 channels, .*\(3, 8, 8\)",
        ),
        ({"train": []}, ValueError, r"`train` must hold at least one image, got none: give rows of images and labels"),
        ({"validation": []}, ValueError, r"`validation` must hold at least one image, got none"),
        ({"validation": [ROW | {"label": "c"}]}, ValueError, r"the label 'c' in row 0 of the validation split is none"),
        ({"train": [ROW | {"label": None}, ROW]}, ValueError, r"the train split must have a label in every row"),
        ({"train": [ROW, ROW]}, ValueError, r"the train split must have at least two classes, got only \['a'\]"),
    ],
)
def test_image_data_that_do_not_serve_are_named(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_task(mine(**changes))


def test_image_folders_that_do_not_serve_are_named(tmp_path: Path, vit: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no folder 'train'; give one with train/<class>/<image>"):
        load_task("images", tmp_path)
    (tmp_path / "train" / "a").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"holds no images \(.png, .*\) in folders named by class"):
        load_task("images", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"`data`: the folder .* holds no images"):
        gelora.estimate(vit, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"`data_dir` and the task's own `train` are both given"):
        load_task(mine(), tmp_path)


def test_a_model_of_texts_is_refused_for_images(folder_of: Callable[[str], Path], task: Task, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=r"not be loaded by AutoModelForImageClassification"):
        finetune(folder_of("bert"), task, None, "full", output_dir=tmp_path / "out", progress=False)


def test_an_image_column_must_be_named_where_there_are_several(vit: Path) -> None:
    from datasets import Dataset, Features
    from datasets import Image as Column

    image = Image.fromarray(np.zeros((8, 8), np.uint8))
    data = Dataset.from_dict({"a": [image], "b": [image]}, features=Features({"a": Column(), "b": Column()}))
    with pytest.raises(ValueError, match=r"`text_column` must name one of the image columns \['a', 'b'\], got None"):
        gelora.estimate(vit, data, progress=False)
