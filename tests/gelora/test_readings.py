"""Readings kept beside a store: an estimation that was cut off makes what is missing, and that alone."""

import json
import logging
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from gelora import measuring
from gelora.estimation import estimate, estimate_representations
from gelora.readings import READINGS, Reading, keep, kept_reading
from gelora.representations import extract_representations
from gelora.store import open_store
from gelora_estimators.protocol import DimensionEstimate
from tiny_models import ragged_batch, tiny_model

LAYERS = 3
ESTIMATORS = ["twonn", "gride", "mle"]
TIMES = ("estimation_seconds", "extraction_seconds", "created")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "s"
    extract_representations(tiny_model("bert"), ragged_batch(300), n_samples=None, store=folder, progress=False)
    return folder


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Path:
    """Give a store that no estimator has read."""
    shutil.copytree(store, tmp_path / "s")
    return tmp_path / "s"


def profile_of(store: Path, estimator: Any = ESTIMATORS, **options: Any) -> xr.Dataset:
    usual: dict[str, Any] = {"n_replicates": 4, "n_samples": None, "progress": False, "scheduler": "serial"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimate(tiny_model("bert"), ragged_batch(300), estimator=estimator, store=store, **(usual | options))


def assert_same(found: xr.Dataset, wanted: xr.Dataset) -> None:
    xr.testing.assert_identical(found.drop_attrs(), wanted.drop_attrs())
    for name, value in wanted.attrs.items():
        assert name in TIMES or str(found.attrs[name]) == str(value), name


class Searches:
    """Counts the searches for neighbours."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, search = 0, measuring.nearest_distances

        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            return search(*arguments, **options)

        monkeypatch.setattr(measuring, "nearest_distances", counted)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Searches:
    return Searches(monkeypatch)


def files(store: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (store / READINGS).iterdir()}


@pytest.mark.parametrize("scheduler", ["serial", "threads"])
def test_what_is_kept_is_not_made_again_and_comes_back_to_the_bit(
    own: Path, searches: Searches, scheduler: str
) -> None:
    first = profile_of(own, scheduler=scheduler)
    assert searches.count == LAYERS
    assert len(files(own)) == LAYERS * (len(ESTIMATORS) + 1)
    assert_same(profile_of(own, scheduler=scheduler), first)
    assert searches.count == LAYERS
    in_memory = extract_representations(tiny_model("bert"), ragged_batch(300), n_samples=None, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        elsewhere = estimate_representations(in_memory, estimator=ESTIMATORS, n_replicates=4, progress=False)
    xr.testing.assert_identical(first.drop_attrs(), elsewhere.drop_attrs())


def test_a_missing_reading_is_made_again_alone(own: Path, searches: Searches) -> None:
    first, before = profile_of(own), files(own)
    gone = sorted(before)[:2]
    for name in gone:
        (own / READINGS / name).unlink()
    assert_numbers(profile_of(own), first)
    after = files(own)
    assert sorted(after) == sorted(before)
    assert sorted(name for name in after if after[name] != before[name]) == gone
    assert LAYERS < searches.count <= LAYERS + 2


def test_what_a_reading_depends_on_is_in_its_name(own: Path) -> None:
    profile_of(own, "twonn")
    n = LAYERS * 2
    assert len(files(own)) == n
    for estimator, options in (
        ("twonn(discard=0.2)", {}), ("twonn", {"seed": 1}), ("twonn", {"n_replicates": 0}),
        ({"other label": "twonn"}, {}),
    ):  # fmt: skip
        before = len(files(own))
        profile_of(own, estimator, **options)
        assert len(files(own)) >= before + LAYERS


def plain(points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
    return DimensionEstimate(float(np.asarray(points).shape[1]), n_points=len(points))


def test_readings_of_code_that_may_change_are_not_kept(own: Path) -> None:
    profile_of(own, {"mine": plain})
    assert len(files(own)) == LAYERS  # the covariates


def test_a_reading_comes_back_with_what_was_warned_of(tmp_path: Path) -> None:
    half = DimensionEstimate(
        math.nextafter(3.0, 4.0), n_points=7, diagnostics={"n_copies": 2.0, "curve": np.arange(3.0)}
    )
    whole = DimensionEstimate(
        1 / 3, 0.1, (float("-inf"), 2.5), 14, np.array([1.0, 2.0]), np.array([0.1, float("nan")])
    )  # fmt: skip
    reading = Reading(whole, "none", [None, half], 0.25)
    told = (reading, [(UserWarning, "small"), (RuntimeWarning, "steep")])
    keep(tmp_path / "r.json", told)
    found = kept_reading(tmp_path / "r.json")
    assert found is not None
    assert repr(found) == repr(told)

    class Odd(UserWarning):
        """A category that another process may not have."""

    keep(tmp_path / "odd.json", (reading, [(Odd, "strange")]))
    assert not (tmp_path / "odd.json").exists()
    assert kept_reading(None) is kept_reading(tmp_path / "odd.json") is None


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "list"])
def test_a_damaged_reading_is_made_again(own: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    first = profile_of(own, "twonn")
    for file in (own / READINGS).iterdir():
        text = file.read_text()
        digit = next(i for i, letter in enumerate(text) if letter.isdigit() and i > len(text) // 2)
        file.write_text(
            {
                "cut": text[: len(text) // 2],
                "flip": text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :],
                "empty": "",
                "list": "[]",
            }[damage]
        )
    with caplog.at_level(logging.WARNING, "gelora"):
        assert_numbers(profile_of(own, "twonn"), first)
    assert sum("is damaged" in record.getMessage() for record in caplog.records) == LAYERS * 2
    for file in (own / READINGS).iterdir():
        assert set(json.loads(file.read_text())) == {"digest", "content"}


def assert_numbers(found: xr.Dataset, wanted: xr.Dataset) -> None:
    xr.testing.assert_identical(found.drop_attrs(), wanted.drop_attrs())


def test_states_that_are_made_again_are_read_again(own: Path) -> None:
    first = profile_of(own, "twonn")
    before = files(own)
    open_store(own).files_of(0)[0].unlink()
    assert_numbers(profile_of(own, "twonn"), first)
    after = files(own)
    assert sorted(after) == sorted(before)
    assert all(after[name] != before[name] for name in before)


def test_what_cannot_be_kept_is_no_error(
    own: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / READINGS).write_text("a file is in the way")
    with caplog.at_level(logging.WARNING, "gelora"):
        found = profile_of(own, "twonn")
    assert float(found["dimension"].min()) > 0
    assert "is not kept" in caplog.text
