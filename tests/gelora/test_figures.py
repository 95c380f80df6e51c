"""Pictures from files: what a file holds is read in it, and one that is not drawn is refused with the reason."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from comparisons import example_comparison
from drawable import rank_record, scale_profile, training_record
from examples import example_plan, example_profile
from gelora import figures
from gelora.figures import KINDS, draw_files
from gelora.finetuning.record import SCHEMA as RECORD_SCHEMA
from gelora.netcdf import write_dataset
from gelora.profile import save_profile
from gelora.scores import save_comparison
from gelora.topology import persistence, save_persistence, save_spanning_tree, spanning_tree


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("results")
    paths = {name: folder / f"{name}.nc" for name in ("profile", "record", "comparison", "bars", "tree")}
    save_profile(scale_profile(), paths["profile"])
    record = training_record([2.0, 1.0], {2: (1.0, 0.5)}).assign(rank_record([[2, 4]], [0], 2).data_vars)
    write_dataset(record.assign_attrs(schema=RECORD_SCHEMA, schema_version=1), paths["record"])
    save_comparison(example_comparison(np.array([[[0.5, 0.6]]]), tasks=["rte"]), paths["comparison"])
    points = np.random.default_rng(0).normal(size=(20, 3))
    save_persistence(persistence(points), paths["bars"])
    save_spanning_tree(spanning_tree(points), paths["tree"])
    return paths | {"plan": example_plan([1, 2]).save(folder / "plan.json")}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the pictures that are written."""
    seen: list[Axes] = []
    save = figures.save_figure

    def keep(draw: Callable[[Axes], object], path: Path) -> Path:
        def both(axes: Axes) -> None:
            seen.append(axes)
            draw(axes)

        return save(both, path)

    monkeypatch.setattr(figures, "save_figure", keep)
    return seen


@pytest.mark.parametrize(
    ("source", "kind", "label"),
    [
        ("profile", None, "relative depth (0: input of the first block, 1: output of the last)"),
        ("profile", "scales", "order of the outer neighbour (logarithmic)"),
        ("plan", None, "block"),
        ("record", None, "step of the optimiser"),
        ("record", "learning_rate", "step of the optimiser"),
        ("comparison", None, "trained parameters without the head"),
        ("bars", None, "birth (distance)"),
        ("bars", "barcode", "distance"),
        ("tree", None, "first principal component"),
    ],
)
def test_a_file_is_drawn_as_what_it_says_to_hold(
    results: dict[str, Path], drawn: list[Axes], tmp_path: Path, source: str, kind: str | None, label: str
) -> None:
    picture = draw_files([results[source]], tmp_path / "p.png", kind=kind)
    assert picture.stat().st_size > 1000
    assert drawn[0].get_xlabel().replace("\n", " ").startswith(label)


def test_the_kinds_of_a_record_are_those_of_the_plot(
    results: dict[str, Path], drawn: list[Axes], tmp_path: Path
) -> None:
    labels = []
    for kind in KINDS["training record"]:
        draw_files([results["record"]], tmp_path / "p.png", kind=kind)
        labels.append(drawn[-1].get_ylabel())
    assert labels == ["loss", "validation score on rte", "learning rate", "rank, mean over the matrices"]


def test_records_of_several_folders_are_named_after_these(
    results: dict[str, Path], drawn: list[Axes], tmp_path: Path
) -> None:
    paths = [tmp_path / name / "record.nc" for name in ("lora", "full")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(results["record"].read_bytes())
    draw_files(paths, tmp_path / "p.png", kind="score")
    assert [text.get_text() for text in drawn[0].get_legend().get_texts()] == ["lora", "full"]


def test_options_reach_the_plot(results: dict[str, Path], drawn: list[Axes], tmp_path: Path) -> None:
    draw_files([results["comparison"]], tmp_path / "p.png", cost="seconds", task="rte")
    assert drawn[0].get_xlabel() == "seconds of estimation and training"
    draw_files([results["profile"]], tmp_path / "p.png", estimator=["twonn"])
    assert [text.get_text() for text in drawn[1].get_legend().get_texts()] == ["twonn"]
    draw_files([results["profile"]], tmp_path / "p.png", kind="scales", estimator=["mle"])
    assert "mle" in drawn[2].get_title(loc="left")


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        (["profile"], {"kind": "ranks"}, "`kind` must be one of profile, scales for a profile, got 'ranks'"),
        (["plan"], {"cost": "seconds"}, "`cost` goes with a comparison, but `source` is a rank plan: leave it out"),
        (["tree"], {"task": "rte"}, "`task` goes with a comparison, but `source` is a spanning tree"),
        (["bars"], {"estimator": "mle"}, "`estimator` goes with a profile, but `source` is a persistence"),
        (["profile"], {"kind": "scales", "estimator": ["mle", "twonn"]}, "`estimator` must be one where scales are dr"),
        (["profile", "plan"], {}, "`source` must be one file, or several rank plans or several training records, got"),
        (["bars", "bars"], {}, "`source` must be one file, or several rank plans or several training records, got"),
        (["plan", "plan"], {}, "`source` has one file twice"),
        ([], {}, "`source` must be one file, or several rank plans or several training records, got none"),
    ],
)
def test_what_does_not_go_together_is_refused(
    results: dict[str, Path], tmp_path: Path, sources: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        draw_files([results[name] for name in sources], tmp_path / "p.png", **options)
    assert not (tmp_path / "p.png").exists()


def test_a_file_of_another_schema_is_refused_with_those_that_are_drawn(tmp_path: Path) -> None:
    write_dataset(example_profile([[5.0]]).assign_attrs(schema="gelora-theory-report"), tmp_path / "t.nc")
    with pytest.raises(
        ValueError, match="none of what is drawn and reported from .nc files, profile, training record, comparison, p"
    ):
        draw_files([tmp_path / "t.nc"], tmp_path / "p.png")
