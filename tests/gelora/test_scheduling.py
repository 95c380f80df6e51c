"""Tasks of an estimation: the same numbers wherever they run, also where a worker dies; nothing global changes."""

import json
import os
import threading
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib as mpl
import numpy as np
import pytest
import torch
import xarray as xr

from gelora.catching import caught
from gelora.estimation import estimate, estimate_representations
from gelora.representations import extract_representations
from gelora.scheduling import Scheduler, n_threads
from gelora_estimators.protocol import DimensionEstimate
from tiny_models import ragged_batch, tiny_model
from two_processes import run_in_two_processes
from watchful import Watchful

ESTIMATORS = ["twonn", "mle(k1=3, k2=5)"]
NUMBERS = ("dimension", "standard_error", "dimension_replicates", "mean_norm", "mean_nearest_distance", "n_points")


def clouds(n: int = 300) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(n, d)) for d in (2, 4, 6)]


def measure(scheduler: str | None, points: Any = None, **options: Any) -> xr.Dataset:
    given = clouds() if points is None else points
    own: dict[str, Any] = {"estimator": ESTIMATORS, "n_replicates": 4, "progress": False} | options
    return estimate_representations(given, scheduler=scheduler, **own)


def assert_same(found: xr.Dataset, wanted: xr.Dataset) -> None:
    for name in NUMBERS:
        np.testing.assert_array_equal(found[name].values, wanted[name].values)
    assert found["undefined"].equals(wanted["undefined"])


def test_threads_give_the_bits_of_a_run_in_turn() -> None:
    assert_same(measure("threads"), measure("serial"))
    assert_same(measure(None), measure("serial"))
    assert 1 <= n_threads() <= 4


def test_a_cluster_of_processes_gives_the_same_also_where_one_of_them_is_killed(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    model, data = tiny_model("bert"), ragged_batch(300)
    stored = extract_representations(model, data, n_samples=None, store=tmp_path / "store", progress=False)
    options: dict[str, Any] = {"progress": False, "n_replicates": 4}
    with pytest.warns(UserWarning, match="own, layer 0 .* seen 300 points .the first of 3 alike"):
        wanted = measure("serial", stored, estimator={"own": Watchful(tmp_path), "twonn": "twonn"})
    folder = tmp_path / "who"
    folder.mkdir()
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster, set_as_default=False),
        pytest.warns(UserWarning, match="own, layer 0 .* seen 300 points .the first of 3 alike"),
    ):
        found = measure(
            cluster.scheduler_address,
            stored,
            estimator={"own": Watchful(folder, deadly=True), "twonn": "twonn"},
            **options,
        )
    assert_same(found, wanted)
    assert (folder / "killed").exists()
    assert str(os.getpid()) not in {file.name.split("-")[0] for file in folder.iterdir()}


class Mine:
    """An estimator in a module that no other process knows."""

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        return DimensionEstimate(1.0)


def test_an_estimator_that_the_workers_cannot_import_is_an_error_and_no_endless_wait() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        pytest.raises((ImportError, AttributeError)),
    ):
        measure(cluster.scheduler_address, estimator={"mine": Mine()})


def test_an_active_client_is_used_without_being_asked_for() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        assert Scheduler().remote
        assert_same(measure(None), measure("serial"))
    assert not Scheduler().remote


def test_what_is_no_scheduler_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"`scheduler` must be 'threads', 'serial' or the address.*did you mean 'threads'"
    ):
        measure("thread")
    # Before the model has run.
    with (
        pytest.raises(ValueError, match="`scheduler` must be"),
        mock.patch("gelora.estimation.extract_representations"),
    ):
        estimate(tiny_model("bert"), ragged_batch(30), scheduler="thread")
    pytest.importorskip("distributed")
    with pytest.raises(OSError, match="no dask scheduler answers at 'tcp://127.0.0.1:9'"):
        Scheduler("tcp://127.0.0.1:9", patience=1)


@pytest.mark.filterwarnings("ignore:the data ended")
def test_rounds_run_on_the_scheduler_that_was_asked_for() -> None:
    with mock.patch("gelora.estimation.Scheduler", wraps=Scheduler) as made:
        estimate(tiny_model("bert"), ragged_batch(300), n_samples="auto", scheduler="serial", progress=False)
    assert made.call_args_list
    assert all(call == mock.call("serial") for call in made.call_args_list)


def test_warnings_are_caught_by_thread_and_the_filters_come_back() -> None:
    before = (list(warnings.filters), warnings.showwarning)
    inside, outside = threading.Barrier(2), threading.Barrier(2)
    found: dict[str, list[str]] = {}

    def work(name: str) -> None:
        with caught() as entries:
            inside.wait(10)
            for number in range(20):
                warnings.warn(f"{name} {number}", stacklevel=1)
            outside.wait(10)
        found[name] = [str(entry.message) for entry in entries]

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [f"{name} {number}" for number in range(20)] for name in ("a", "b")}
    assert (list(warnings.filters), warnings.showwarning) == before


def test_threads_that_do_not_catch_warn_as_they_would_without() -> None:
    told: list[str] = []

    def foreign() -> None:
        try:
            warnings.warn("foreign", stacklevel=1)
            warnings.warn("ignored", DeprecationWarning, stacklevel=1)
            told.append("both passed")
        except UserWarning as error:
            told.append(f"raised {error}")

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        with caught() as entries:
            thread = threading.Thread(target=foreign)
            thread.start()
            thread.join()
    assert (told, entries) == (["raised foreign"], [])
    told.clear()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        with caught() as entries:
            for _ in range(2):
                thread = threading.Thread(target=foreign)
                thread.start()
                thread.join()
    assert ([str(entry.message) for entry in seen], entries) == (["foreign", "ignored"], [])


def state() -> tuple[Any, ...]:
    numpy = np.random.get_state()  # noqa: NPY002
    return (
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        numpy[1].tolist(),
        list(warnings.filters),
        warnings.showwarning,
        dict(mpl.rcParams),
        np.geterr(),
    )


def test_24_estimates_at_once_on_one_model_give_the_serial_results_and_leave_everything_as_found(
    tmp_path: Path,
) -> None:
    model = tiny_model("bert").train()
    options: dict[str, Any] = {"estimator": ESTIMATORS, "n_replicates": 4, "n_samples": None, "progress": False}
    data = [ragged_batch(80, seed=seed) for seed in range(24)]
    wanted = [estimate(model, one, **options) for one in data]
    found: dict[int, xr.Dataset] = {}
    before = state()

    def work(number: int) -> None:
        store = tmp_path / str(number) if number % 3 == 0 else None
        found[number] = estimate(model, data[number], store=store, **options)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state() == before
    assert model.training
    assert len(found) == 24
    for number, one in found.items():
        assert_same(one, wanted[number])


TWO = """
import os, sys
from gelora import windows
windows.MOST = 64
from gelora.estimation import estimate
from tiny_models import ragged_batch, tiny_model
profile = estimate(
    tiny_model("bert"), ragged_batch(300), estimator="twonn", n_samples=None, progress=False, device=None,
    store=sys.argv[1], all_processes=True,
)
print(profile["dimension"].values.tolist())
"""


def test_two_processes_divide_the_windows_and_give_the_profile_of_one(tmp_path: Path) -> None:
    printed = run_in_two_processes(TWO, tmp_path, str(tmp_path / "store"))
    wanted = estimate(tiny_model("bert"), ragged_batch(300), estimator="twonn", n_samples=None, progress=False)
    for text in printed:
        found = np.array(json.loads(text))
        np.testing.assert_allclose(found, wanted["dimension"].values, rtol=1e-5)
    assert len(list((tmp_path / "store" / "windows").glob("*.json"))) == 5
    with pytest.raises(ValueError, match="`all_processes` needs a `store`"):
        estimate(tiny_model("bert"), ragged_batch(30), all_processes=True)
