"""Reading a study: what it says is what is run, and an error names the line and the key."""

from pathlib import Path
from typing import Any

import pytest

from gelora.study.entries import MAX_BYTES, read_yaml
from gelora.study.reading import read_study, read_task
from gelora.study.specification import Range

BASE = """\
model: some/model
tasks: [cola]
methods:
  - lora
  - full
output: out
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_study_reads_as_it_stands(tmp_path: Path) -> None:
    text = BASE + "seeds: [3, 4]\ntraining: {max_steps: 30, learning_rate: {default: 1e-3, full: 5.0e-5}}\n"
    study = read_study(write(tmp_path, text))
    assert study.model == "some/model"
    assert study.seeds == (3, 4)
    assert study.output == tmp_path / "out"  # beside the file, wherever it is read from
    task, (lora, full) = study.tasks[0], study.methods
    assert study.options(task, lora) == {"max_steps": 30, "learning_rate": 1e-3}
    assert study.options(task, full) == {"max_steps": 30, "learning_rate": 5e-5}
    assert study.reference == "lora"


def test_the_methods_options_overrule_the_tasks_and_these_the_studys() -> None:
    study = read_study(
        {
            "model": "m",
            "tasks": [{"name": "cola", "training": {"dropout": 0.2, "max_steps": 5}}, "rte"],
            "methods": [{"name": "lora", "training": {"dropout": 0.3}}, "full"],
            "training": {"dropout": 0.1, "max_steps": 9},
            "output": "o",
        }
    )
    (cola, rte), (lora, full) = study.tasks, study.methods
    assert study.options(cola, lora) == {"dropout": 0.3, "max_steps": 5}
    assert study.options(cola, full) == {"dropout": 0.2, "max_steps": 5}
    assert study.options(rte, full) == {"dropout": 0.1, "max_steps": 9}


def test_paths_are_beside_the_file_but_overrules_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "glue" / "cola").mkdir(parents=True)
    (tmp_path / "weights").mkdir()
    file = write(tmp_path, BASE.replace("some/model", "weights") + "data_dir: glue\n")
    study = read_study(file)
    assert study.model == str(tmp_path / "weights")
    assert study.tasks[0].data_dir == str(tmp_path / "glue" / "cola")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "cola").mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    study = read_study(file, model="weights", data_dir=".", output="results")
    assert (study.model, study.output) == ("weights", Path("results"))
    assert study.tasks[0].data_dir == "cola"


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (BASE.replace("- full", "- fulll"), 5, "methods[1]"),
        (BASE.replace("[cola]", "[colla]"), 2, "tasks[0]"),
        (BASE + "seeds: [0, -1]\n", 7, "seeds[1]"),
        (BASE + "seeds: [1, 1]\n", 7, "seeds"),
        (BASE + "seedz: [0]\n", 7, "seedz"),
        (BASE + "training:\n  max_steps: 0\n", 8, "training.max_steps"),
        (BASE + "training:\n  batch_sise: 8\n", 8, "training.batch_sise"),
        (BASE + "training:\n  seed: 8\n", 8, "training.seed"),
        (BASE + "training:\n  learning_rate:\n    fulll: 1.0\n", 9, "training.learning_rate.fulll"),
        (BASE + "training:\n  learning_rate:\n    full: -1.0\n", 9, "training.learning_rate.full"),
        (BASE + "reference: dora\n", 7, "reference"),
        (BASE + "estimation:\n  estimator: twonnn\n", 8, "estimation.estimator"),
        (BASE + "search:\n  holdout: 0.2\n", 7, "search"),
        (BASE + "search:\n  space:\n    learning_rate: 3\n", 9, "search.space.learning_rate"),
        (BASE + "search:\n  space: {learning_rate: [1.0]}\n  n_trials: 3\n", 9, "search.n_trials"),
        (BASE.replace("- full", "- {name: full, rank: 3}"), 5, "methods[1]"),
        (BASE.replace("- full", "- {name: x, adapter: lora, rank: 3, budget: 9}"), 5, "methods[1]"),
        (BASE.replace("- full", "- {name: x, adapter: lora, policy: geometricc}"), 5, "methods[1]"),
        (BASE.replace("- full", "- {name: ../x, adapter: lora}"), 5, "methods[1]"),
        (BASE.replace("- full", "- lora"), 5, "methods[1]"),
        (BASE.replace("- full", "- {name: sora, search: {learning_rate: [1.0]}}"), 5, "methods[1].search"),
        (BASE.replace("[cola]", "\n  - {name: cola, data_dir: nowhere}"), 3, "tasks[0].data_dir"),
        (BASE + "model: again\n", 7, "model"),
    ],
)
def test_an_error_names_the_line_and_the_key(tmp_path: Path, text: str, line: int, key: str) -> None:
    with pytest.raises(ValueError, match=rf"study\.yaml, line {line}: `{key.replace('[', '.').replace(']', '.')}` "):
        read_study(write(tmp_path, text))


def test_a_missing_key_is_named_at_the_top(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have the key 'methods'"):
        read_study(write(tmp_path, "model: m\ntasks: [cola]\noutput: o\n"))


def test_what_is_no_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"study\.yaml is not readable YAML: .*line 2"):
        read_study(write(tmp_path, "model: m\ntasks: [cola\noutput: o: p\n"))


def test_values_that_repeat_without_end_are_refused(tmp_path: Path) -> None:
    doubled = "\n".join(f"x{i}: &x{i} [{', '.join(['*x' + str(i - 1)] * 10)}]" for i in range(1, 9))
    with pytest.raises(ValueError, match="repeats or nests values without end"):
        read_yaml(write(tmp_path, "x0: &x0 [1]\n" + doubled))
    with pytest.raises(ValueError, match=r"not readable YAML|without end"):
        read_yaml(write(tmp_path, "a: " + "[" * 5000))


def test_a_file_that_is_far_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="that is no study"):
        read_yaml(write(tmp_path, "#" * (MAX_BYTES + 1)))


def test_python_objects_are_not_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 1: `model` has a value that is no plain YAML"):
        read_yaml(write(tmp_path, "model: !!python/object/apply:os.getcwd []\n".replace("[]", "x")))


@pytest.mark.parametrize(("text", "number"), [("1e-3", 1e-3), ("2E5", 2e5), ("-1.5e-2", -1.5e-2), ("1.0e-3", 1e-3)])
def test_numbers_with_an_exponent_are_numbers(tmp_path: Path, text: str, number: float) -> None:
    assert read_yaml(write(tmp_path, f"rate: {text}"))["rate"].value == number


def test_there_must_be_a_file() -> None:
    with pytest.raises(FileNotFoundError, match="there is no file 'nowhere.yaml'"):
        read_study("nowhere.yaml")
    wrong: Any = 3
    with pytest.raises(TypeError, match="`study` must be the path"):
        read_study(wrong)


def test_a_search_gives_every_method_as_many_trials() -> None:
    base: dict[str, Any] = {"model": "m", "tasks": ["cola"], "output": "o"}
    space = {"space": {"learning_rate": [1e-4, 1e-3, 1e-2], "dropout": [0.0, 0.1]}}
    own = {"name": "full", "search": {"learning_rate": [1e-5, 5e-5, 1e-4]}}
    study = read_study(base | {"methods": ["lora", own], "search": space})
    assert study.search is not None
    assert study.search.n_trials == 6
    searches = [study.search_for(method) for method in study.methods]
    assert [search.space["learning_rate"] for search in searches if search] == [(1e-4, 1e-3, 1e-2), (1e-5, 5e-5, 1e-4)]
    with pytest.raises(ValueError, match="as many trials as for the other methods, 6, not 2"):
        read_study(base | {"methods": ["lora", own | {"search": {"learning_rate": [1e-5]}}], "search": space})
    ranges = {"space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}, "n_trials": 4}
    found = read_study(base | {"methods": ["lora"], "search": ranges}).search
    assert found is not None
    assert (found.engine, found.n_trials) == ("optuna", 4)
    assert found.space["learning_rate"] == Range(low=1e-4, high=1e-2, log=True)
    with pytest.raises(ValueError, match="must have low < high"):
        read_study(base | {"methods": ["lora"], "search": {"space": {"dropout": {"low": 0.2, "high": 0.1}}}})
    with pytest.raises(ValueError, match="must be a list of numbers, as the engine is grid"):
        read_study(base | {"methods": ["lora"], "search": {"engine": "grid", **{"space": ranges["space"]}}})


def test_a_users_own_task_is_described_in_the_study(tmp_path: Path) -> None:
    task = {"name": "mine", "train": "a.parquet", "validation": "b.parquet", "text": "text", "metric": "accuracy"}
    study = read_study({"model": "m", "tasks": [task], "methods": ["lora"], "output": "o"})
    assert study.tasks[0].task.text == ("text",)
    assert study.tasks[0].task.metrics == ("accuracy",)
    assert study.tasks[0].task.train == "a.parquet"


CHECKOUT = Path(__file__).resolve().parents[3]


def test_the_study_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = CHECKOUT / "docs" / "comparing.md"
    if not page.exists():
        pytest.skip("the documentation is not here")
    blocks = [part.split("```")[0] for part in page.read_text(encoding="utf-8").split("```yaml\n")[1:]]
    (tmp_path / "glue" / "cola").mkdir(parents=True)
    study = read_study(write(tmp_path, "\n".join(blocks)))
    assert [task.task.name for task in study.tasks] == ["cola", "mine"]
    assert len(study.methods) == 10
    assert study.search is not None
    assert study.search.n_trials == 3


@pytest.mark.parametrize("name", ["study.yaml", "squad.yaml"])
def test_the_measured_studies_are_readable(name: str) -> None:
    file = CHECKOUT / "docs" / "benchmarks" / "comparison" / name
    if not file.exists():
        pytest.skip("the benchmarks are not here")
    assert read_study(file).tasks


def test_a_task_reads_from_a_file_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "name: mine\nproblem: question_answering\ntext: [question, passage]\nlabel: gold\ntrain: a.jsonl\n"
        "validation: b.jsonl\nanswering: {stride: 7, null_threshold: 0.5}\n"
    )
    found = read_task(file)
    assert (found.task.name, found.task.problem, found.task.text) == (
        "mine",
        "question_answering",
        ("question", "passage"),
    )
    assert (found.task.train, found.task.validation) == (str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))
    assert (found.task.answering.stride, found.task.answering.null_threshold) == (7, 0.5)
    assert found.data_dir is None
    file.write_text("name: squad_v2\nanswering: {stride: 9}\n")
    assert (read_task(file).task.problem, read_task(file).task.answering.stride) == ("question_answering", 9)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("name: cola\nlabell: x\n", r"mine.yaml, line 2: `labell` is not known here.*did you mean 'label'"),
        ("name: cola\ntraining: {max_steps: 3}\n", r"mine.yaml, line 2: `training` is not known here"),
        ("- cola\n", r"mine.yaml, line 1: `task` must be a mapping"),
        ("text: sentence\n", r"`task` must have the key 'name'"),
        ("name: squad\nanswering: {strides: 3}\n", r"mine.yaml, line 2: `answering.strides` is not known here"),
    ],
)
def test_an_error_in_a_task_names_the_line_and_the_key(tmp_path: Path, text: str, error: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=error):
        read_task(file)
    with pytest.raises(FileNotFoundError, match="`task`: there is no file"):
        read_task(tmp_path / "absent.yaml")
