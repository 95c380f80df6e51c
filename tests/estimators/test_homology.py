"""Bars in every degree, the spanning tree as a graph, and the line through the energies of subsamples."""

import sys

import networkx
import numpy as np
import pytest
from scipy.sparse import csgraph
from scipy.spatial.distance import pdist, squareform

from gelora_estimators import DegenerateCloudError, persistence_diagram
from gelora_estimators.clouds import flat_torus, gaussian, sphere
from gelora_estimators.homology import (
    bars,
    growth_line,
    line_fit,
    log_energy,
    size_covariance,
    spanning_tree_graph,
)

LIBRARIES = ["giotto", "ripser"]
BACKENDS = ["torch", *LIBRARIES]
CLOUD = gaussian(120, 4, 10, np.random.default_rng(0))


def polygon(n):
    angles = 2.0 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.smoke), *LIBRARIES])
def test_a_grid_has_bars_of_its_step_and_one_that_never_dies(backend):
    grid = 0.25 * np.stack(np.meshgrid(np.arange(8.0), np.arange(9.0)), axis=-1).reshape(-1, 2)
    found = persistence_diagram(grid, backend=backend)
    np.testing.assert_allclose(found, [[0.0, 0.25]] * 71 + [[0.0, np.inf]], rtol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("backend", BACKENDS)
def test_finite_bars_of_degree_zero_equal_the_tree_of_scipy(backend, shift):
    expected = np.sort(csgraph.minimum_spanning_tree(squareform(pdist(CLOUD))).data)
    found = persistence_diagram(CLOUD + shift, backend=backend)
    np.testing.assert_allclose(found[:-1, 1], expected, rtol=1e-5 if backend != "torch" else 1e-8)
    assert found[-1].tolist() == [0.0, np.inf]


@pytest.mark.parametrize("backend", LIBRARIES)
def test_a_regular_polygon_has_one_loop_that_lives_from_its_side_to_its_inscribed_triangle(backend):
    found = persistence_diagram(polygon(40), degree=1, backend=backend)
    # The loop is born with the sides and filled by the first triangle that holds the centre: 14 steps of 40.
    np.testing.assert_allclose(found, [[2.0 * np.sin(np.pi / 40), 2.0 * np.sin(14 * np.pi / 40)]], rtol=1e-6)


@pytest.mark.smoke
def test_a_noisy_circle_has_one_long_bar_of_degree_one():
    rng = np.random.default_rng(1)
    circle = sphere(150, 1, 20, rng) + 0.02 * rng.standard_normal((150, 20))
    found = persistence_diagram(circle, degree=1)
    lengths = np.sort(found[:, 1] - found[:, 0])
    assert lengths[-1] > 1.0
    assert lengths[-2] < 0.2


@pytest.mark.parametrize("backend", LIBRARIES)
def test_an_octahedron_has_one_void(backend):
    corners = np.concatenate([np.eye(3), -np.eye(3)])
    found = persistence_diagram(3.0 * corners, degree=2, backend=backend)
    np.testing.assert_allclose(found, [[3.0 * np.sqrt(2.0), 6.0]], rtol=1e-6)


def test_giotto_and_ripser_agree_and_order_bars_by_birth():
    cloud = flat_torus(120, 2, 6, np.random.default_rng(2))
    first, second = (persistence_diagram(cloud, degree=1, backend=backend) for backend in LIBRARIES)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert np.all(np.diff(first[:, 0]) >= 0.0)
    assert np.all(first[:, 1] > first[:, 0])


@pytest.mark.parametrize("factor", [1e-200, 1e4, 1e200])
@pytest.mark.parametrize("degree", [0, 1])
def test_births_and_deaths_scale_with_the_unit(degree, factor):
    plain = persistence_diagram(CLOUD, degree=degree)
    np.testing.assert_allclose(persistence_diagram(CLOUD * factor, degree=degree), plain * factor, rtol=1e-6)


@pytest.mark.parametrize("degree", [0, 1])
def test_copies_change_no_diagram(degree):
    repeated = np.concatenate([CLOUD, CLOUD[:30]])
    np.testing.assert_allclose(
        persistence_diagram(repeated, degree=degree), persistence_diagram(CLOUD, degree=degree), rtol=1e-6
    )


def test_degree_one_falls_back_on_ripser_where_giotto_is_missing(monkeypatch):
    usual = persistence_diagram(CLOUD, degree=1)
    monkeypatch.setitem(sys.modules, "gph", None)
    monkeypatch.setattr("gelora_estimators.homology.find_spec", lambda name: None)
    np.testing.assert_allclose(persistence_diagram(CLOUD, degree=1), usual, rtol=1e-6)


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize(("backend", "module", "hint"), [("giotto", "gph", r"gelora\[giotto\]"), ("ripser",) * 3])
def test_a_missing_library_names_what_to_install_and_what_else_serves(backend, module, hint, degree, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    other = "torch" if degree == 0 else {"giotto": "ripser", "ripser": "giotto"}[backend]
    with pytest.raises(ImportError, match=rf"`backend='{backend}'`.*pip install.*{hint}.*use backend='{other}'"):
        persistence_diagram(CLOUD, degree=degree, backend=backend)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degree": 1, "backend": "torch"}, r"`backend` must be 'giotto' or 'ripser'.*got 'torch' with degree=1"),
        ({"degree": -1}, r"`degree` must be an integer of at least 0, got -1"),
        ({"backend": "gudhi"}, r"`backend` must be one of 'auto', 'torch', 'giotto', 'ripser', got 'gudhi'"),
        ({"max_points": 119}, r"`points` must hold at most max_points=119 distinct points in degree 0, got 120"),
        ({"max_points": 1}, r"`max_points` must be an integer of at least 2, got 1"),
    ],
)
def test_what_cannot_be_done_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        persistence_diagram(CLOUD, **options)


def test_a_large_cloud_is_refused_in_degree_two_unless_it_is_asked_for():
    with pytest.raises(ValueError, match=r"max_points=200 distinct points in degree 2, got 201: pass a subsample"):
        persistence_diagram(np.arange(201.0)[:, None], degree=2)
    assert persistence_diagram(np.arange(201.0)[:, None], degree=2, max_points=201).shape == (0, 2)


def test_one_point_has_no_diagram():
    with pytest.raises(DegenerateCloudError, match="1 distinct points"):
        persistence_diagram(np.zeros((1, 3)))


@pytest.mark.smoke
def test_the_graph_is_the_tree_that_networkx_finds():
    cloud = CLOUD[:40]
    distances = squareform(pdist(cloud))
    complete = networkx.from_numpy_array(distances)
    expected = networkx.minimum_spanning_tree(complete)
    found = spanning_tree_graph(cloud)
    assert networkx.is_tree(found)
    assert sorted(found.nodes) == list(range(40))
    assert {frozenset(edge) for edge in found.edges} == {frozenset(edge) for edge in expected.edges}
    assert found.size(weight="weight") == pytest.approx(expected.size(weight="weight"), rel=1e-12)
    assert all(length == pytest.approx(distances[i, j]) for i, j, length in found.edges(data="weight"))


def test_nodes_are_rows_of_the_input_and_copies_are_counted():
    cloud = np.concatenate([CLOUD[:3], CLOUD[:3], CLOUD[3:10]])
    graph = spanning_tree_graph(cloud)
    assert sorted(graph.nodes) == [0, 1, 2, *range(6, 13)]
    assert graph.graph["n_copies"] == 3
    assert all(
        length == pytest.approx(np.linalg.norm(cloud[i] - cloud[j])) for i, j, length in graph.edges(data="weight")
    )


def test_a_missing_networkx_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ImportError, match=r"`spanning_tree_graph` needs networkx.*pip install networkx"):
        spanning_tree_graph(CLOUD)


@pytest.mark.parametrize("backend", LIBRARIES)
def test_points_nearer_than_float32_can_say_leave_bars_of_length_zero(backend):
    line = np.array([[0.0], [1e-60], [1.0]])
    found = bars(np.abs(line - line.T), backend)
    np.testing.assert_allclose(found, [0.0, 1.0])


def test_energies_are_sums_of_powers():
    lengths = np.array([0.0, 0.5, 2.0])
    assert log_energy(lengths, 2.0) == pytest.approx(np.log(0.25 + 4.0))
    assert log_energy(lengths * 1e-300, 2.0) == pytest.approx(np.log(4.25) - 600 * np.log(10))


def test_a_straight_line_has_its_slope_and_no_residual():
    x = np.log([50.0, 70.0, 200.0, 900.0, 2000.0])
    assert line_fit(x, 3.0 + 0.8 * x) == pytest.approx((0.8, 0.0, 0.0), abs=1e-12)


def test_a_line_of_two_slopes_has_the_curvature_of_its_halves():
    x = np.arange(9.0)
    slope, residual, curvature = line_fit(x, np.where(x < 4, x, 4 + 3 * (x - 4)))
    assert (slope, curvature) == (pytest.approx(2.0), pytest.approx(2.0))
    assert residual > 0.5


def test_three_sizes_have_no_curvature():
    assert np.isnan(line_fit(np.arange(3.0), np.arange(3.0))[2])


def test_the_covariance_of_the_whole_cloud_is_not_reduced_by_draws():
    few, many = (size_covariance(np.array([50, 200, 1000]), 1000, n_lines=lines) for lines in (1, 100))
    assert few[-1, -1] == many[-1, -1] == pytest.approx(1.0 / 1000.0)
    # One draw of m points has a variance of 1/m, whatever the size of the cloud it comes from.
    np.testing.assert_allclose(np.diag(few), 1.0 / np.array([50, 200, 1000]))
    np.testing.assert_allclose(few, few.T)
    assert np.linalg.eigvalsh(many).min() > 0.0


def test_draws_of_an_endless_cloud_are_independent():
    found = size_covariance(np.array([50, 200]), 10**9, n_lines=4)
    np.testing.assert_allclose(found, np.diag([1 / 200, 1 / 800]), atol=1e-10)


@pytest.mark.parametrize(("n_repetitions", "n_draws", "statistic"), [(3, 7, "median"), (1, 6, "mean"), (1, 1, "mean")])
def test_the_errors_of_slope_and_curvature_are_their_spread_where_the_covariance_holds(
    n_repetitions, n_draws, statistic
):
    rng = np.random.default_rng(3)
    n, sizes = 1000, np.unique(np.geomspace(50, 1000, 12).astype(int))
    whole = size_covariance(sizes, n, n_lines=np.inf)
    draw = (1.0 - np.square(sizes / n)) / sizes
    root = np.linalg.cholesky(whole + 1e-15 * np.eye(len(sizes)))
    lines = []
    for _ in range(400):
        cloud = root @ rng.standard_normal(len(sizes))
        noise = np.sqrt(draw) * rng.standard_normal((n_repetitions, n_draws, len(sizes)))
        lines.append(growth_line(sizes, 0.7 * np.log(sizes) + cloud + noise, n=n, statistic=statistic))
    for value, error in (("slope", "slope_error"), ("curvature", "curvature_error")):
        spread = np.std([getattr(line, value) for line in lines])
        mean_square = np.sqrt(np.mean([getattr(line, error) ** 2 for line in lines]))
        assert mean_square == pytest.approx(spread, rel=0.12)
    assert np.mean([line.slope for line in lines]) == pytest.approx(0.7, abs=0.002)


def test_a_single_draw_of_three_sizes_has_no_error():
    line = growth_line(np.array([50, 70, 100]), np.log([[[5.0, 6.0, 7.0]]]), n=100, statistic="mean")
    assert np.isnan(line.slope_error)
    assert np.isfinite(line.slope)
