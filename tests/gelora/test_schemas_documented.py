"""What the page on files says of each file is what the file holds."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import gelora
from gelora import topology
from gelora.netcdf import read_dataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "files.md"

pytestmark = [
    pytest.mark.skipif(not PAGE.is_file(), reason="the documentation is in the source tree only"),
    pytest.mark.filterwarnings("ignore:another draw of:UserWarning"),
]

# By the heading of its section: files of one kind, with different optional parts.
DATASETS = ("Profile", "Training record", "Comparison", "Theory report", "Persistence", "Spanning tree")
ROW = re.compile(r"^\| (`[^|]*) \|(.*)\|$", re.M)


def section(title: str) -> str:
    """Return the text under a heading of the page."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert found, f"the page has no section {title!r}"
    return found[1]


def names_in(text: str) -> set[str]:
    """Return what stands in backticks, as single names."""
    return {name for quoted in re.findall(r"`([^`]+)`", text) for name in re.findall(r"[\w.]+", quoted)}


def variables_of(title: str) -> dict[str, tuple[set[str], str]]:
    """Return dimensions and type of each variable in a section's table."""
    table = section(title).split("| attribute |")[0]
    rows = {names.strip("`"): rest.split("|") for names, rest in ROW.findall(table)}
    return {name: (set(re.findall(r"\w+", cells[0])), cells[1].strip()) for name, cells in rows.items()}


def attributes_of(title: str) -> set[str]:
    """Return the names in the first column of a section's table of attributes."""
    return {name for names, _ in ROW.findall(section(title).split("| attribute |")[1]) for name in names_in(names)}


def type_of(variable: xr.DataArray) -> str:
    return "text" if variable.dtype.kind in "OUT" else str(variable.dtype)


def keys_in(value: Any) -> Iterator[str]:
    """Yield the keys of nested mappings whose names are fixed."""
    for key, inner in value.items():
        yield key
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            yield from keys_in(inner[0])
        elif isinstance(inner, dict) and key not in ("dimensions", "versions", "blocks", "options", "rows"):
            yield from keys_in(inner)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    words = ["film", "play", "song", "good", "bad", "long", "short", "old", "new", "was", "is", "very"]
    draws = np.random.default_rng(0).choice(words, size=(300, 9))
    return [" ".join(row) for row in draws]


@pytest.fixture(scope="module")
def profile(folder_of: Callable[[str], Path], folder: Path, texts: list[str]) -> xr.Dataset:
    made = gelora.estimate(
        str(folder_of("bert")),
        texts,
        estimator=["mle", "twonn"],
        n_samples=None,
        n_replicates=4,
        store=folder / "store",
        progress=False,
    )
    gelora.save_profile(made, folder / "profile.nc")
    return made


@pytest.fixture(scope="module")
def plan(profile: xr.Dataset, folder_of: Callable[[str], Path], folder: Path) -> gelora.RankPlan:
    made = gelora.plan_ranks(profile, str(folder_of("bert")), estimator="mle")
    made.save(folder / "plan.json")
    return made


@pytest.fixture(scope="module")
def run(plan: gelora.RankPlan, folder_of: Callable[[str], Path], sentiment: Any, folder: Path) -> Path:
    options = {"max_steps": 2, "batch_size": 16, "progress": False}
    gelora.finetune(str(folder_of("bert")), sentiment, plan, output_dir=folder / "run", **options)
    return folder / "run"


@pytest.fixture(scope="module")
def study(folder_of: Callable[[str], Path], sentiment: Any, folder: Path) -> dict[str, Any]:
    for split in ("train", "validation"):
        pd.DataFrame(getattr(sentiment, split)).to_parquet(folder / f"{split}.parquet")
    task = {"name": "sentiment", "text": "sentence", "metric": "accuracy"}
    task |= {split: str(folder / f"{split}.parquet") for split in ("train", "validation")}
    return {
        "model": str(folder_of("bert")),
        "tasks": [task],
        "methods": ["lora-r2"],
        "training": {"max_steps": 1, "batch_size": 8},
        "search": {"space": {"learning_rate": [1e-3]}},
        "output": str(folder / "results"),
    }


@pytest.fixture(scope="module")
def made(
    folder: Path,
    profile: xr.Dataset,
    plan: gelora.RankPlan,
    run: Path,
    study: dict[str, Any],
    texts: list[str],
    folder_of: Callable[[str], Path],
) -> dict[str, list[xr.Dataset]]:
    """Return the netCDF files of each kind as they are read back."""
    from gelora.stopping import UntilStable
    from gelora.theory import save_report, theory_report

    model = str(folder_of("bert"))
    rule = UntilStable(confidence=0.01, n_replicates=4, first=250)
    auto = gelora.estimate(model, texts, estimator="mle", n_samples=rule, progress=False)
    gelora.save_profile(auto, folder / "auto.nc")
    clouds = [np.random.default_rng(0).normal(size=(300, 3))]
    near = gelora.estimate_representations(clouds, estimator="twonn(neighbors='faiss')", progress=False)
    gelora.save_profile(near, folder / "near.nc")
    report = theory_report(model, profile, texts[:8], plan=plan, estimator="mle", n_points=1, progress=False)
    save_report(report, folder / "theory.nc")
    gelora.compare(study, progress=False)
    states = gelora.extract_representations(model, texts[:40], progress=False)
    topology.save_persistence(topology.persistence(states, layer=1), folder / "persistence.nc")
    topology.save_spanning_tree(topology.spanning_tree(states, layer=1), folder / "tree.nc")
    paths = {
        "Profile": ["profile.nc", "auto.nc", "near.nc"],
        "Training record": ["run/record.nc"],
        "Comparison": ["results/comparison.nc"],
        "Theory report": ["theory.nc"],
        "Persistence": ["persistence.nc"],
        "Spanning tree": ["tree.nc"],
    }
    return {title: [read_dataset(folder / path, made_by="") for path in files] for title, files in paths.items()}


@pytest.mark.parametrize("title", DATASETS)
def test_every_variable_of_a_file_is_documented_with_its_dimensions_and_type(
    title: str, made: dict[str, list[xr.Dataset]]
) -> None:
    documented = variables_of(title)
    for dataset in made[title]:
        for name in map(str, dataset.variables):
            assert name in documented, f"{title}: the page lacks the variable {name!r}"
            assert documented[name] == (set(dataset[name].dims), type_of(dataset[name])), name


@pytest.mark.parametrize("title", DATASETS)
def test_every_documented_variable_and_attribute_is_in_a_file(title: str, made: dict[str, list[xr.Dataset]]) -> None:
    variables = {str(name) for dataset in made[title] for name in dataset.variables}
    attributes = {str(name) for dataset in made[title] for name in dataset.attrs}
    assert set(variables_of(title)) == variables
    assert attributes_of(title) == attributes


@pytest.mark.parametrize("title", DATASETS)
def test_the_schema_and_its_version_are_those_of_the_files(title: str, made: dict[str, list[xr.Dataset]]) -> None:
    for dataset in made[title]:
        assert f"`schema` is `{dataset.attrs['schema']}`, version {dataset.attrs['schema_version']}" in section(title)


def test_units_of_the_files_are_those_of_the_page(made: dict[str, list[xr.Dataset]]) -> None:
    for title in DATASETS:
        for dataset in made[title]:
            for name, variable in dataset.variables.items():
                if unit := variable.attrs.get("units"):
                    assert re.search(rf"^\| `{name}` \|[^|]*\|[^|]*\| {unit} \|", section(title), re.M), name


def test_every_key_of_a_rank_plan_is_documented(plan: gelora.RankPlan, folder: Path) -> None:
    record = json.loads((folder / "plan.json").read_text())
    assert set(keys_in(record)) <= names_in(section("Rank plan"))
    assert f"`{record['schema']}`, version {record['schema_version']}" in section("Rank plan")
    assert record["uncertainty"] is not None
    assert record["by_scale"] is not None


def test_the_folder_of_a_run_and_its_files_are_documented(run: Path) -> None:
    text = section("Folder of a run")
    assert {path.name for path in run.iterdir()} <= {name.rstrip("/") for name in re.findall(r"`([^`]+)`", text)}
    checkpoint = {path.name for path in next((run / "checkpoints").iterdir()).iterdir()}
    # PyTorch's own states are named by their kind.
    assert checkpoint - {"optimizer.pt", "scheduler.pt", "rng_state.pth"} <= names_in(text)
    assert set(json.loads((run / "run.json").read_text())) <= names_in(text)
    assert set(pd.read_parquet(run / "predictions.parquet").columns) <= names_in(text)


def test_every_file_of_an_adapter_folder_and_every_key_of_its_facts_is_documented(run: Path) -> None:
    text = section("Adapter folder")
    assert {path.name for path in (run / "adapter").iterdir()} <= names_in(text)
    facts = json.loads((run / "adapter" / "gelora_adapter.json").read_text())
    table = {name for names, _ in ROW.findall(text.split("| key |")[1]) for name in names_in(names)}
    assert set(facts) == table | {"schema", "schema_version"}


def test_the_files_of_a_comparison_are_documented(made: dict[str, list[xr.Dataset]], folder: Path) -> None:
    written = {path.name + "/" * path.is_dir() for path in (folder / "results").iterdir()}
    text = section("Comparison")
    assert all(f"`{name}" in text for name in written - {"comparison.nc"})
    outcome = json.loads(next((folder / "results" / "runs").rglob("outcome.json")).read_text())
    assert set(outcome) <= names_in(text)


def test_every_key_of_a_study_is_documented() -> None:
    from gelora.study import reading

    text = section("Study")
    table = {name for names, _ in ROW.findall(text) for name in names_in(names)}
    assert table == set(reading._KEYS)
    assert set(reading._ESTIMATION) <= names_in(text)
    task = text.split("**A task**")[1].split("**A method**")[0]
    assert set(reading._TASK_KEYS) <= names_in(task)
    assert set(reading._METHOD_KEYS) <= names_in(text.split("**A method**")[1])


def test_every_file_of_a_store_and_every_key_of_its_metadata_is_documented(profile: xr.Dataset, folder: Path) -> None:
    store, text = folder / "store", section("Activation store")
    known = {"encoder_32": "STACK_WIDTH/", "encoder_rows": "STACK_rows/"}
    for path in store.iterdir():
        assert f"`{known.get(path.name, path.name)}" in text, path.name
    meta = json.loads((store / "gelora.json").read_text())
    identity = meta.pop("identity")
    assert set(keys_in(meta)) <= names_in(text)
    assert set(identity) <= names_in(text.split("`identity` holds")[1])
    for path in ("windows", "readings"):
        assert set(json.loads(next((store / path).glob("*.json")).read_text())) <= names_in(text)


def test_a_store_and_a_profile_are_read_without_gelora_as_the_page_says(profile: xr.Dataset, folder: Path) -> None:
    import zarr

    from gelora.store import open_store

    states = zarr.open_array(str(folder / "store" / "encoder_32"), mode="r")
    np.testing.assert_array_equal(np.asarray(states[-1]), open_store(folder / "store").read("encoder", 2))
    with xr.open_dataset(folder / "profile.nc", engine="h5netcdf") as read:
        np.testing.assert_array_equal(read["dimension"].values, profile["dimension"].values)
