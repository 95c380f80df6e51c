"""Approximate search is asked for by name, measures what it finds exactly, and says how much it misses."""

import importlib
import sys
import threading

import numpy as np
import pytest
import torch

from gelora.estimation import estimate_representations
from gelora.profile import check_profile, open_profile, save_profile
from gelora.registry import make_estimator
from gelora_estimators import MLE, DegenerateCloudError, Gride, LocalDimension, TwoNN, nearest_distances
from gelora_estimators import approximate as module
from gelora_estimators.approximate import approximate_search, search_breadth
from gelora_estimators.calibration import calibrated
from gelora_estimators.clouds import gaussian
from gelora_estimators.minibatch import MiniBatch
from gelora_estimators.points import distinct_rows
from gelora_estimators.search import search
from gelora_estimators.space import search_space
from required import absent


def required_module(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        absent(f"{name} is not installed: pip install 'gelora[approximate]'")


@pytest.fixture(scope="module")
def faiss():
    return required_module("faiss")


@pytest.fixture(scope="module")
def cloud():
    """3,000 points of a Gaussian of 6 dimensions, bent into 64 coordinates."""
    rng = np.random.default_rng(0)
    return np.tanh(gaussian(3000, 6, 64, rng) / 3.0) + 0.01 * rng.standard_normal((3000, 64))


@pytest.fixture(scope="module")
def exact(cloud):
    return nearest_distances(cloud, 104)


@pytest.fixture(scope="module")
def approximate(cloud, faiss):
    return nearest_distances(cloud, 104, neighbors="faiss")


def space_of(points):
    return search_space(distinct_rows(points, minimum=2), torch.device("cpu"))


def blind(library, cloud, breadth, wanted):
    """A poor library: of each point it finds the next few by number, itself among them, one twice, one missing."""
    n = len(cloud.rows)
    numbers = (np.arange(n)[:, None] + np.arange(wanted)) % n
    numbers[:, 2] = numbers[:, 1]
    numbers[:, 3] = -1
    yield 0, numbers[: n // 2]
    yield n // 2, numbers[n // 2 :]


@pytest.fixture
def poor_library(monkeypatch, faiss):
    monkeypatch.setitem(module._FINDERS, "faiss", blind)


def true_share(points, found, rows):
    """The share of the true nearest among those found, by a float64 brute force on some rows."""
    k, hits = found.distances.shape[1], 0
    for row in rows:
        distances = np.sqrt(np.square(points - points[row]).sum(axis=1))
        distances[row] = np.inf
        hits += len(np.intersect1d(np.argsort(distances, kind="stable")[:k], found.indices[row]))
    return hits / (k * len(rows))


def test_the_exact_search_says_that_it_is_exact_and_estimates_say_nothing_of_recall(cloud, exact):
    assert (exact.method, exact.recall) == ("exact", 1.0)
    assert "neighbor_recall" not in TwoNN()(cloud, rng=np.random.default_rng(0)).diagnostics
    profile = estimate_representations([cloud[:500]], estimator=["twonn", "corrint"], progress=False)
    assert "neighbor_recall" not in profile
    assert "neighbor_methods" not in profile.attrs


def test_nearly_all_neighbours_are_found_and_those_that_are_have_their_exact_distances(cloud, exact, approximate):
    assert approximate.method == "faiss"
    assert 0.98 < approximate.recall <= 1.0
    assert (np.diff(approximate.distances, axis=1) >= 0.0).all()
    assert (approximate.distances >= exact.distances).all()
    assert (approximate.indices != np.arange(3000)[:, None]).all()
    difference = cloud[:, None, :] - cloud[approximate.indices[:, :20]]
    expected = np.sqrt(np.square(difference).sum(axis=-1))
    np.testing.assert_allclose(approximate.distances[:, :20], expected, rtol=1e-12)
    same = approximate.indices == exact.indices
    np.testing.assert_array_equal(approximate.distances[same], exact.distances[same])


def test_recall_is_the_share_that_a_brute_force_counts(poor_library):
    points = np.random.default_rng(1).standard_normal((900, 3))
    found = nearest_distances(points, 60, neighbors="faiss")
    expected = true_share(points, found, range(900))
    assert 0.05 < expected < 0.1
    assert found.recall == pytest.approx(expected, abs=1e-12)


def test_recall_is_measured_on_a_sample_of_larger_clouds(cloud, approximate):
    rows = np.random.default_rng(5).choice(3000, 400, replace=False)
    assert approximate.recall == pytest.approx(true_share(cloud, approximate, rows), abs=0.005)


def test_what_a_library_gives_twice_or_not_at_all_counts_once_or_not(poor_library):
    points = np.random.default_rng(1).standard_normal((300, 3))
    found = nearest_distances(points, 5, neighbors="faiss")
    for row, numbers in enumerate(found.indices):
        assert len({*numbers.tolist(), row}) == 6
    assert np.isfinite(found.distances).all()


def test_rows_that_a_library_leaves_short_are_searched_exactly(monkeypatch, faiss):
    def short(library, cloud, breadth, wanted):
        ((_, numbers), _) = blind(library, cloud, breadth, wanted)
        yield 0, np.where(np.arange(len(numbers))[:, None] % 2, numbers, -1)

    monkeypatch.setitem(module._FINDERS, "faiss", short)
    points = np.random.default_rng(1).standard_normal((600, 3))
    found, expected = nearest_distances(points, 5, neighbors="faiss"), nearest_distances(points, 5)
    np.testing.assert_array_equal(found.distances[0:300:2], expected.distances[0:300:2])
    np.testing.assert_array_equal(found.distances[300:], expected.distances[300:])
    assert (found.distances[1:300:2] > expected.distances[1:300:2]).any()


def test_ties_are_in_ascending_order(faiss):
    corners = np.stack(np.meshgrid(*[np.arange(7.0)] * 3), axis=-1).reshape(-1, 3)
    found = nearest_distances(corners, 5, neighbors="faiss")
    tied = found.distances[:, 1:] == found.distances[:, :-1]
    assert tied.sum() > 500
    assert (found.indices[:, 1:] > found.indices[:, :-1])[tied].all()


def test_with_enough_effort_everything_is_found(faiss):
    space = space_of(gaussian(1000, 5, 20, np.random.default_rng(2)))
    squared, indices = approximate_search(space, 10, "faiss", breadth=400)
    expected, numbers = search(space, np.arange(1000), 10)
    np.testing.assert_array_equal(squared, expected)
    np.testing.assert_array_equal(indices, numbers)


def test_a_cloud_not_much_larger_than_the_lists_is_searched_exactly(cloud, faiss):
    few = cloud[:200]
    found, expected = nearest_distances(few, 20, neighbors="faiss"), nearest_distances(few, 20)
    np.testing.assert_array_equal(found.indices, expected.indices)
    assert (found.method, found.recall) == ("faiss", 1.0)


@pytest.mark.parametrize(("kind", "options"), [(TwoNN, {}), (MLE, {}), (Gride, {"scan_to": 32})])
def test_the_dimension_agrees_within_its_standard_error(cloud, exact, approximate, kind, options):
    estimator, read = kind(neighbors="faiss", **options), {}
    for name, lists in (("exact", exact), ("faiss", approximate)):
        rng = np.random.default_rng(0)
        read[name] = estimator.from_distances(lists.distances, 3000, rng, indices=lists.indices, points=cloud)
    assert read["faiss"].dimension == pytest.approx(read["exact"].dimension, abs=read["exact"].standard_error)


def test_two_calls_give_the_same_bits_whatever_the_threads_and_leave_those_as_they_were(cloud, approximate, faiss):
    before, results = faiss.omp_get_max_threads(), []

    def work():
        torch.get_num_threads()  # torch's first word in a thread sets the number that it was told in another
        faiss.omp_set_num_threads(2)
        results.append(nearest_distances(cloud, 104, neighbors="faiss"))
        results.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(results[0].distances, approximate.distances)
    np.testing.assert_array_equal(results[0].indices, approximate.indices)
    assert (results[1], faiss.omp_get_max_threads()) == (2, before)


def test_the_first_columns_do_not_depend_on_how_many_were_asked_for(cloud, approximate):
    assert search_breadth(32, "faiss") == search_breadth(104, "faiss") < search_breadth(200, "faiss")
    short = nearest_distances(cloud, 32, neighbors="faiss")
    np.testing.assert_array_equal(short.distances, approximate.distances[:, :32])
    np.testing.assert_array_equal(short.indices, approximate.indices[:, :32])


def test_copies_are_removed_and_clouds_without_a_dimension_refused_as_before(cloud, faiss):
    again = np.concatenate([cloud[:600], cloud[:40]])
    found, expected = (nearest_distances(again, 5, neighbors=name) for name in ("faiss", "exact"))
    assert (found.n_copies, found.n_points, found.n_near_copies) == (40, 640, 0)
    np.testing.assert_array_equal(found.rows, expected.rows)
    with pytest.raises(DegenerateCloudError, match="all 300 points are equal"):
        nearest_distances(np.ones((300, 4)), 2, neighbors="faiss")


def test_a_memory_map_gives_the_same_as_an_array(cloud, tmp_path, faiss):
    few = cloud[:500].astype(np.float32)
    np.save(tmp_path / "cloud.npy", few)
    mapped = np.load(tmp_path / "cloud.npy", mmap_mode="c")
    found, expected = (nearest_distances(points, 5, neighbors="faiss") for points in (mapped, few))
    np.testing.assert_array_equal(found.distances, expected.distances)


@pytest.mark.parametrize("kind", [TwoNN, MLE, Gride, LocalDimension])
def test_the_option_is_checked_and_kept_by_copies(kind, faiss):
    assert kind(neighbors="faiss").without_error().neighbors == "faiss"
    assert kind().neighbors == "exact"
    with pytest.raises(ValueError, match="`neighbors` must be one of 'exact', 'faiss', 'pynndescent', got 'annoy'"):
        kind(neighbors="annoy")


@pytest.mark.parametrize("name", ["faiss", "pynndescent"])
def test_a_missing_library_is_named_with_what_to_install(monkeypatch, name, cloud):
    monkeypatch.setitem(sys.modules, name, None)
    message = rf"`neighbors='{name}'` needs {name}, which is not installed: pip install 'gelora\[approximate\]'"
    with pytest.raises(ImportError, match=message):
        TwoNN(neighbors=name)
    with pytest.raises(ImportError, match=message):
        nearest_distances(cloud, 2, neighbors=name)
    with pytest.raises(ImportError, match=message):
        approximate_search(space_of(cloud[:50]), 2, name)


def test_estimates_carry_the_recall_whoever_searched(cloud, faiss):
    few, rng = cloud[:500], np.random.default_rng
    estimator = TwoNN(neighbors="faiss", interval="chi2")
    recall = nearest_distances(few, estimator.k, neighbors="faiss").recall
    assert estimator(few, rng=rng(0)).diagnostics["neighbor_recall"] == recall
    wrapped = calibrated(estimator, n_replicates=3, grid=(4, 6, 8))
    assert wrapped.neighbors == "faiss"
    assert wrapped(few, rng=rng(0)).diagnostics["neighbor_recall"] == recall


def test_batches_take_no_approximate_search(faiss):
    with pytest.raises(ValueError, match="`estimator` must search batches exactly, got one with neighbors='faiss'"):
        MiniBatch(estimator=TwoNN(neighbors="faiss"))
    with pytest.raises(ValueError, match="neighbors"):
        make_estimator("minibatch:twonn(neighbors='faiss')")


def test_the_profile_shows_recall_where_the_search_was_approximate(cloud, tmp_path, faiss):
    names = ["twonn(neighbors='faiss')", "twonn", "mle(neighbors='faiss')"]
    clouds = [cloud[:700], cloud[700:1400]]
    profile = estimate_representations(clouds, estimator=names, n_replicates=4, progress=False)
    recall = profile["neighbor_recall"].transpose("estimator", "layer").values
    assert np.isnan(recall[1]).all()
    assert ((recall[[0, 2]] > 0.95) & (recall[[0, 2]] <= 1.0)).all()
    opened = open_profile(save_profile(profile, tmp_path / "profile.nc"))
    assert (
        opened.attrs["neighbor_methods"]
        == '{"twonn(neighbors=\'faiss\')": "faiss", "mle(neighbors=\'faiss\')": "faiss"}'
    )
    np.testing.assert_array_equal(opened["neighbor_recall"], profile["neighbor_recall"])
    check_profile(profile.drop_vars("neighbor_recall"))
    assert "neighbors" not in opened["mean_nearest_distance"].attrs  # TwoNN's own search was exact
    alone = estimate_representations(clouds, estimator=names[1], n_replicates=4, progress=False)
    for key in ("dimension", "mean_nearest_distance", "dimension_replicates"):
        found = profile[key].sel(estimator=names[1:2]) if "estimator" in profile[key].dims else profile[key]
        np.testing.assert_array_equal(found, alone[key])


def test_no_number_of_an_approximate_search_depends_on_who_else_was_asked(cloud, faiss):
    names = ["twonn(neighbors='faiss')", "local:twonn(neighbors='faiss', n_neighbors=130)", "corrint"]
    together = estimate_representations([cloud[:900]], estimator=names, progress=False)
    for name in names:
        alone = estimate_representations([cloud[:900]], estimator=name, progress=False)
        for key in ("dimension", "standard_error", "n_points"):
            np.testing.assert_array_equal(alone[key], together[key].sel(estimator=[name]))


def test_a_search_that_misses_many_neighbours_is_warned_of(poor_library, cloud):
    name = "twonn(neighbors='faiss', interval='chi2')"
    with pytest.warns(UserWarning, match="the neighbours by faiss hold .*% of the true ones in layer 0 .*in 1 of 1"):
        profile = estimate_representations([cloud[:600]], estimator=name, progress=False)
    assert float(profile["neighbor_recall"][0, 0]) < 0.5
    assert profile["mean_nearest_distance"].attrs["neighbors"] == "faiss"


@pytest.mark.slow
def test_pynndescent_finds_nearly_all_the_same_way_each_time_and_leaves_numba_as_it_was(cloud, exact):
    required_module("pynndescent")
    import numba

    before = numba.get_num_threads()
    found, again = (nearest_distances(cloud, 32, neighbors="pynndescent") for _ in range(2))
    np.testing.assert_array_equal(found.indices, again.indices)
    assert found.method == "pynndescent"
    assert found.recall > 0.95
    assert found.recall == pytest.approx(true_share(cloud, found, range(0, 3000, 7)), abs=0.005)
    same = found.indices == exact.indices[:, :32]
    np.testing.assert_array_equal(found.distances[same], exact.distances[:, :32][same])
    assert numba.get_num_threads() == before
    estimator = TwoNN(neighbors="pynndescent", interval="chi2")
    expected = TwoNN(interval="chi2").from_distances(exact.distances, 3000, np.random.default_rng(0))
    read = estimator.from_distances(found.distances, 3000, np.random.default_rng(0))
    assert read.dimension == pytest.approx(expected.dimension, abs=expected.standard_error)
