"""Tasks and their data: what is read from where, and what is refused with which words."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from gelora.finetuning.tasks import GLUE_TASKS, Task, find_task, load_task

ROWS = [{"text": f"row {i}", "label": ("no", "yes")[i % 2]} for i in range(6)]
OFFICIAL_ROWS = {
    "cola": (8551, 1043),
    "sst2": (67349, 872),
    "mrpc": (3668, 408),
    "stsb": (5749, 1500),
    "rte": (2490, 277),
}


def make_task(**changes: Any) -> Task:
    return Task(**{"name": "mine", "text": ("text",), "train": ROWS, "validation": ROWS[:4]} | changes)


def with_label(label: Any, n: int = 6) -> list[dict[str, Any]]:
    return [*ROWS[: n - 1], {"text": "the last", "label": label}]


@pytest.mark.parametrize("name", OFFICIAL_ROWS)
def test_a_benchmark_set_has_its_official_rows_and_labels(name: str, data_dir: Path) -> None:
    data = load_task(name, data_dir / name)
    assert (len(data.train), len(data.validation)) == OFFICIAL_ROWS[name]
    assert data.num_labels == (1 if name == "stsb" else 2)
    assert data.train.column_names == [*data.task.text, "label"]


def test_cola_labels_are_the_ones_in_the_file(data_dir: Path) -> None:
    data = load_task("cola", data_dir / "cola", n_validation=50)
    stored = pd.read_parquet(data_dir / "cola" / "validation.parquet").set_index("sentence")["label"]
    assert [stored[row["sentence"]] for row in data.validation] == list(data.validation["label"])
    assert data.train.features["label"].names == ["unacceptable", "acceptable"]


def test_every_glue_task_has_the_official_metric_and_score() -> None:
    metrics = {name: task.metrics for name, task in GLUE_TASKS.items()}
    assert metrics == {
        "cola": ("matthews_correlation",),
        "sst2": ("accuracy",),
        "mrpc": ("accuracy", "f1"),
        "stsb": ("pearson", "spearman"),
        "qqp": ("accuracy", "f1"),
        "mnli": ("accuracy",),
        "mnli_mm": ("accuracy",),
        "qnli": ("accuracy",),
        "rte": ("accuracy",),
        "wnli": ("accuracy",),
    }
    assert all(task.score == task.metrics for task in GLUE_TASKS.values())
    assert find_task("mnli_mm").hub_name == "mnli"
    assert find_task("MNLI-mm").hub_splits == ("train", "validation_mismatched")


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_a_folder_of_any_file_type_gives_the_same_data(suffix: str, tmp_path: Path) -> None:
    for split, rows in (("train", ROWS), ("dev", ROWS[:4])):
        frame, file = pd.DataFrame(rows), tmp_path / f"{split}.{suffix}"
        match suffix:
            case "csv" | "tsv":
                frame.to_csv(file, index=False, sep="\t" if suffix == "tsv" else ",")
            case "parquet":
                frame.to_parquet(file)
            case _:
                frame.to_json(file, orient="records", lines=suffix == "jsonl")
    data = load_task(Task(name="mine", text=("text",)), tmp_path)
    assert data.task.label_names == ("no", "yes")
    assert list(data.train["label"]) == [0, 1, 0, 1, 0, 1]
    assert data.fingerprint() == load_task(make_task()).fingerprint()


def test_own_data_may_be_a_dataset_a_frame_a_list_or_a_file(tmp_path: Path) -> None:
    from datasets import Dataset

    file = tmp_path / "rows.csv"
    pd.DataFrame(ROWS).to_csv(file, index=False)
    forms = (ROWS, pd.DataFrame(ROWS), Dataset.from_list(ROWS), file, str(file))
    assert len({load_task(make_task(train=form)).fingerprint() for form in forms}) == 1


def test_classes_named_in_a_schema_keep_their_order(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["yes", "no"])})
    rows = Dataset.from_list([{"text": "a", "label": 0}, {"text": "b", "label": 1}], features=features)
    for split in ("train", "validation"):
        rows.to_parquet(tmp_path / f"{split}.parquet")
    assert load_task(make_task(train=rows, validation=rows)).task.label_names == ("yes", "no")
    assert load_task(Task(name="mine", text=("text",)), tmp_path).task.label_names == ("yes", "no")
    data = load_task(Task(name="mine", text=("text",), label_names=("no", "yes")), tmp_path)
    assert list(data.train["label"]) == [1, 0]


@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        ([3, 1, 3], ("1", "3"), [1, 0, 1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        ([True, False, True], ("0", "1"), [1, 0, 1]),
        ([1.0, 0.0, 1.0], ("0", "1"), [1, 0, 1]),
        (["1", "0", "1"], ("0", "1"), [1, 0, 1]),
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
    ],
)
def test_labels_without_names_are_mapped_in_sorted_order(
    labels: list[Any], names: tuple[str, ...], indices: list[int]
) -> None:
    rows = [{"text": "a", "label": label} for label in labels]
    data = load_task(make_task(train=rows, validation=rows))
    assert data.task.label_names == names
    assert list(data.train["label"]) == indices


def test_given_names_are_matched_by_name_or_index() -> None:
    rows = [{"text": "a", "label": label} for label in ("yes", "no", "1", 0)]
    data = load_task(make_task(train=rows, validation=rows, label_names=("no", "yes")))
    assert list(data.train["label"]) == [1, 0, 1, 0]


def test_a_subset_is_drawn_by_the_seed_alone() -> None:
    first, second, other = (load_task(make_task(train=ROWS * 20), n_train=30, seed=seed) for seed in (0, 0, 1))
    assert first.fingerprint() == second.fingerprint() != other.fingerprint()
    assert (len(first.train), len(first.validation)) == (30, 4)


def test_numbers_of_a_regression_stay_numbers() -> None:
    rows = [{"text": "a", "label": value} for value in (0.5, 3, "2.25", -1)]
    data = load_task(make_task(train=rows, validation=rows, problem="regression"))
    assert list(data.train["label"]) == [0.5, 3.0, 2.25, -1.0]
    assert data.task.metrics == ("pearson", "spearman")
    assert data.num_labels == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"text": ("tekst",)}, ValueError, r"the train split .* has no column 'tekst'.*did you mean 'text'\?"),
        ({"label": "lable"}, ValueError, r"has no column 'lable', which the task 'mine' needs.*did you mean 'label'\?"),
        ({"validation": []}, ValueError, r"the validation split .* must hold at least one row"),
        ({"train": pd.DataFrame(ROWS)[:0]}, ValueError, r"the train split .* must hold at least one row, got none"),
        ({"train": with_label(None)}, ValueError, r"1 of 6 rows have none, the first is row 5 \(None\): drop them"),
        ({"train": with_label(float("nan"))}, ValueError, r"a label in every row, 1 of 6 rows have none"),
        ({"train": with_label("")}, ValueError, r"a label in every row, 1 of 6 rows have none"),
        ({"validation": with_label(-1)}, ValueError, r"the validation split must have a label .* row 5 \(-1\)"),
        (
            {"validation": with_label("yep")},
            ValueError,
            r"label 'yep' in row 5 of the validation split is none of the 2",
        ),
        ({"train": ROWS[::2]}, ValueError, r"at least two classes, got only \['no'\]"),
        (
            {"train": [{"text": None, "label": "no"}, *ROWS]},
            TypeError,
            r"must hold strings, got NoneType None in row 0",
        ),
        (
            {"train": [{"text": 3, "label": "no"}, *ROWS]},
            TypeError,
            r"'text' of the train split must hold strings, got int",
        ),
        ({"problem": "regression"}, ValueError, r"label 'no' in row 0 .* must be a finite number for a regression"),
        ({"train": 3}, TypeError, r"`train` must be a datasets.Dataset, a pandas.DataFrame, a list .* got int"),
        ({"train": "rows.csv"}, FileNotFoundError, r"`train`: there is no file of type .* at 'rows.csv'"),
        ({"validation": None}, ValueError, r"`task` 'mine' has `train` but no `validation`: give both"),
        ({"train": None, "validation": None}, ValueError, r"`data_dir` must be given for the task 'mine'"),
    ],
)
def test_data_that_cannot_be_learnt_from_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        load_task(make_task(**changes))


def test_a_whole_dataset_dict_is_refused() -> None:
    from datasets import Dataset, DatasetDict

    rows = DatasetDict({"train": Dataset.from_list(ROWS)})
    with pytest.raises(TypeError, match=r"`train` must be one split of a dataset .*: pass data\['train'\]"):
        load_task(make_task(train=rows))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"text": "sentence"}, TypeError, r"`text` must be a tuple of strings, got 'sentence'"),
        ({"text": ("a", "b", "c")}, ValueError, r"`text` must be one column, or two for pairs"),
        (
            {"problem": "ranking"},
            ValueError,
            r"`problem` must be one of classification, regression, question_answering, language_modelling, "
            r"got 'ranking'",
        ),
        ({"problem": "regression", "label_names": ("a", "b")}, ValueError, r"`label_names` must be left out"),
        ({"label_names": ("a", "a")}, ValueError, r"`label_names` must be two or more different names"),
        ({"metrics": ("acuracy",)}, ValueError, r"`metrics`: 'acuracy' is no metric .*did you mean 'accuracy'\?"),
        ({"metrics": ("pearson",)}, ValueError, r"'pearson' is no metric of a classification"),
        ({"score": ("f1",)}, ValueError, r"`score` must be some of `metrics` \('accuracy',\), got 'f1'"),
        (
            {"label_names": ("a", "b", "c"), "metrics": ("f1",)},
            ValueError,
            r"`metrics`: 'f1' is of two classes, got 3: use 'f1_macro'",
        ),
    ],
)
def test_a_task_that_contradicts_itself_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_task(**changes)


def test_f1_of_three_classes_found_in_the_data_is_refused() -> None:
    rows = [{"text": "a", "label": label} for label in "abc"]
    with pytest.raises(ValueError, match=r"`metrics`: 'f1' is of two classes, got 3"):
        load_task(make_task(train=rows, validation=rows, metrics=("f1",)))


def test_an_unknown_task_is_answered_with_the_nearest_and_the_list() -> None:
    with pytest.raises(ValueError, match=r"`task`: there is no 'colla', choose of \['cola'.*did you mean 'cola'\?"):
        find_task("colla")
    with pytest.raises(TypeError, match=r"`task` must be the name of a GLUE task or a Task, got int"):
        find_task(3)  # type: ignore[arg-type]


def test_a_folder_that_is_missing_or_incomplete_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"`data_dir`: there is no folder '.*nowhere'"):
        load_task("cola", tmp_path / "nowhere")
    (tmp_path / "train.csv").write_text("sentence,label\na,0\nb,1\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"has no file validation\{.*\}; it holds \['train.csv'\]"):
        load_task("cola", tmp_path)
    with pytest.raises(ValueError, match=r"`data_dir` and the task's own `train` are both given: leave one out"):
        load_task(make_task(), tmp_path)


def test_an_unreachable_hub_is_answered_with_data_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def unreachable(*names: str) -> None:
        assert names == ("nyu-mll/glue", "rte")
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        FileNotFoundError, match=r"`data_dir` was not given and 'nyu-mll/glue rte' could not .*no route"
    ):
        load_task("rte")


def test_the_hub_is_asked_for_the_splits_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = datasets.Dataset.from_list(
        [{"premise": "a", "hypothesis": "b", "label": label, "idx": 0} for label in (0, 1, 2)]
    )
    sets = {"train": rows, "validation_matched": rows, "validation_mismatched": rows.select([0, 1])}
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: sets)
    assert len(load_task("mnli").validation) == 3
    assert len(load_task("mnli-mm").validation) == 2


def test_any_set_on_the_hub_can_be_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked = []

    def load(*names: str) -> Any:
        asked.append(names)
        rows = datasets.Dataset.from_list(ROWS)
        return {"train": rows, "test": rows.select([0, 1, 2])}

    monkeypatch.setattr(datasets, "load_dataset", load)
    fields: dict[str, Any] = {"name": "imdb", "hub_repository": "stanfordnlp/imdb", "text": ("text",)}
    data = load_task(Task(**fields, hub_splits=("train", "test")))
    assert (len(data.train), len(data.validation), data.source) == (6, 3, "stanfordnlp/imdb")
    assert load_task(Task(**fields, hub_splits=("train", "test"), hub_name="plain")).source == "stanfordnlp/imdb plain"
    assert asked == [("stanfordnlp/imdb",), ("stanfordnlp/imdb", "plain")]
    with pytest.raises(
        ValueError, match=r"`hub_splits`: 'stanfordnlp/imdb' has no split 'validation', it has \['train'"
    ):
        load_task(Task(**fields))
    assert Task(name="mine", text=("a",), hub_name="rte").hub_repository == "nyu-mll/glue"


def test_a_set_of_images_on_the_hub_can_be_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import numpy as np
    from PIL import Image

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    picture = Image.fromarray(np.zeros((4, 4, 3), dtype=np.uint8))
    rows = datasets.Dataset.from_dict({"img": [picture] * 4, "label": [0, 1, 0, 1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: {"train": rows, "test": rows})
    task = Task(name="cifar", image="img", hub_repository="somebody/cifar", hub_splits=("train", "test"))
    data = load_task(task, n_validation=2)
    assert (data.task.label_names, data.source, len(data.validation)) == (("no", "yes"), "somebody/cifar", 2)


def test_files_may_be_named_by_the_splits_of_the_set_or_as_usual(tmp_path: Path) -> None:
    for name in ("train", "test"):
        pd.DataFrame(ROWS).to_parquet(tmp_path / f"{name}.parquet")
    assert len(load_task(Task(name="mine", text=("text",), hub_splits=("train", "test")), tmp_path).validation) == 6


@pytest.mark.parametrize("count", [0, -1, 2.5, True])
def test_a_subset_of_no_rows_is_refused(count: Any) -> None:
    with pytest.raises(ValueError, match=rf"`n_train` must be a positive integer or None for all rows, got {count!r}"):
        load_task(make_task(), n_train=count)


def test_a_parquet_file_of_other_tools_carries_no_class_names(tmp_path: Path) -> None:
    from gelora.finetuning.tables import _parquet_class_names

    pd.DataFrame(ROWS).to_parquet(tmp_path / "a.parquet")
    assert _parquet_class_names(tmp_path / "a.parquet") == {}


@pytest.mark.parametrize("labels", [["1", "0"], [1, 2]])
def test_where_classes_are_numbers_a_number_is_a_name_and_no_index(labels: list[Any]) -> None:
    rows = [{"text": "a", "label": label} for label in ("0", "2")]
    other = [{"text": "a", "label": label} for label in labels]
    with pytest.raises(ValueError, match=r"the label .?1.? in row 0 of the validation split is none of the 2 classes"):
        load_task(make_task(train=rows, validation=other))
