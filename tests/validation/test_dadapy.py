"""Our numbers against those of DADApy 0.3.4, kept in ``dadapy_golden.json`` with the script that made them.

Where the two differ by convention, the test says how, and takes the difference into account exactly.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import brentq

from gelora_estimators import Gride, TwoNN, nearest_distances
from gelora_estimators.corrint import slope_of_counts
from gelora_estimators.neighbors import count_within
from gelora_estimators.scale_choice import adaptive_dimension, binomial_dimension, optimal_neighborhoods

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "dadapy_golden.json").read_text(encoding="utf-8"))
NAMES = list(GOLDEN["clouds"])
# DADApy halves an interval of [0.001, 1000] until it is shorter than 1e-7.
BISECTION = 1e-7
# Its regression goes through scipy's curve_fit, whose steps end at a relative 1e-8.
CURVE_FIT = 1e-7


@pytest.fixture(scope="module")
def clouds(script):
    return script("tests/validation/dadapy_golden.py").clouds()


@pytest.fixture(scope="module")
def neighbors(clouds):
    return {name: nearest_distances(points, 100) for name, points in clouds.items()}


def rng():
    return np.random.default_rng(0)


def test_the_clouds_come_out_bit_for_bit_as_where_the_golden_values_were_made(script, clouds):
    checksum = script("tests/validation/dadapy_golden.py").checksum
    assert {name: checksum(points) for name, points in clouds.items()} == {
        name: GOLDEN["clouds"][name]["checksum"] for name in NAMES
    }
    assert GOLDEN["versions"]["dadapy"] == "0.3.4"


@pytest.mark.smoke
@pytest.mark.parametrize("name", NAMES)
def test_twonn_equals_compute_id_2nn(name, clouds):
    golden = GOLDEN["clouds"][name]["two_nn"]
    regression = TwoNN(interval="chi2")(clouds[name], rng=rng())
    likelihood = TwoNN(fit="likelihood", discard=0.0, interval="chi2")(clouds[name], rng=rng())
    assert regression.dimension == pytest.approx(golden["regression"][0], rel=CURVE_FIT)
    assert likelihood.dimension == pytest.approx(golden["likelihood"][0], rel=1e-9)
    # Their scale is the mean over both neighbours of all points.
    scale = (regression.diagnostics["mean_r1"] + regression.diagnostics["mean_r2"]) / 2
    assert scale == pytest.approx(golden["regression"][2], rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_twonn_on_their_random_subsets_equals_return_id_scaling_2nn(name, clouds):
    # They draw subsets that may overlap, from default_rng(42); our decimation takes disjoint parts. So the subsets are
    # drawn here as they do, and their error is the spread over subsets (ddof 0) by the root of their number.
    golden = GOLDEN["clouds"][name]["two_nn_scaling"]
    points, draws = clouds[name], np.random.default_rng(42)
    for place, size in enumerate(golden["sizes"]):
        n_sets = round(len(points) / size)
        if n_sets == 1:
            sets = [np.arange(len(points))]
        else:
            size = int(np.rint(len(points) * (size / len(points))))
            sets = [draws.choice(len(points), size=size, replace=False) for _ in range(n_sets)]
        found = [TwoNN(interval="chi2")(points[rows], rng=rng()).dimension for rows in sets]
        assert np.mean(found) == pytest.approx(golden["dimension"][place], rel=CURVE_FIT)
        error = np.std(found) / np.sqrt(len(found))
        assert error == pytest.approx(golden["error"][place], rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_posterior_equals_compute_id_2nn_wprior(name, clouds):
    # Their Gamma prior has shape 2 and rate 5 by default, ours 0.001 and 0.001. They keep every ratio.
    golden = GOLDEN["clouds"][name]["two_nn"]
    options = {"fit": "posterior", "discard": 0.0, "prior_shape": 2.0, "prior_rate": 5.0, "interval": "posterior"}
    found = TwoNN(**options)(clouds[name], rng=rng())
    assert found.dimension == pytest.approx(golden["posterior_mean"][0], rel=1e-9)
    assert found.standard_error == pytest.approx(golden["posterior_mean"][1], rel=1e-9)
    shape, rate = found.diagnostics["posterior_shape"], found.diagnostics["posterior_rate"]
    assert (shape - 1.0) / rate == pytest.approx(golden["posterior_mode"], rel=1e-9)


def gride_by_their_rules(log_ratios, n1, n2):
    """Return the root with N − 1 in place of N, after their filter of large ratios."""
    ratios = np.exp(log_ratios)
    high, middle = np.percentile(ratios, [95, 50])
    kept = log_ratios[ratios < 20 * (high - middle) + middle]

    def slope(d):
        odds = 1.0 if n2 - n1 == 1 else (kept / -np.expm1(-d * kept)).sum()
        return (len(kept) - 1) / d - (n2 - 1) * kept.sum() + (n2 - n1 - 1) * odds

    return brentq(slope, 1e-3, 1e3, xtol=1e-12), len(log_ratios) - len(kept)


@pytest.mark.parametrize("name", NAMES)
def test_the_gride_scan_equals_return_id_scaling_gride(name, clouds, neighbors):
    golden = GOLDEN["clouds"][name]["gride"]
    scan = Gride(scan_to=64, interval="fisher")(clouds[name], rng=rng())
    distances = neighbors[name].distances
    assert scan.scales.tolist() == [2, 4, 8, 16, 32, 64]
    for place, n2 in enumerate([2, 4, 8, 16, 32, 64]):
        ours, error = scan.dimension_by_scale[place], scan.diagnostics["standard_error_by_scale"][place]
        theirs, n_dropped = gride_by_their_rules(np.log(distances[:, n2 - 1] / distances[:, n2 // 2 - 1]), n2 // 2, n2)
        assert theirs == pytest.approx(golden["dimension"][place], abs=BISECTION)
        if n_dropped == 0:
            # With I = 1/error² the root moves by −1/(d I) to first order when N becomes N − 1.
            assert ours - error**2 / ours == pytest.approx(golden["dimension"][place], rel=2 / len(distances) ** 2)
            assert error == pytest.approx(golden["error"][place], rel=1.1 / len(distances))
        else:
            # Their filter is against copies, but takes the long tail of a Pareto law of small exponent for them.
            assert (n2, n_dropped) in {(2, 1), (2, 2), (2, 3)}
            assert name in {"line", "square", "paraboloid"}
            assert 0.01 < golden["dimension"][place] / ours - 1.0 < 0.05
        radii = scan.diagnostics["mean_radius_by_scale"]
        first = distances[:, 0].mean() if place == 0 else radii[place - 1]
        assert (first + radii[place]) / 2 == pytest.approx(golden["mean_radius"][place], rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_binomial_dimension_equals_compute_id_binomial_k(name, neighbors):
    golden = GOLDEN["clouds"][name]["binomial_k"]
    distances = neighbors[name].distances
    dimension, error, _ = binomial_dimension(
        distances, np.full(len(distances), golden["k"], dtype=np.int64), golden["ratio"]
    )
    assert dimension == pytest.approx(golden["likelihood"][0], rel=1e-9)
    assert error == pytest.approx(golden["likelihood"][1], rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_correlation_dimension_equals_compute_id_binomial_rk(name, clouds):
    # With one radius for all points their binomial estimator is the slope of the correlation integral between it and
    # its multiple. Their error is the binomial one, which takes the counts of all points for independent.
    golden = GOLDEN["clouds"][name]["binomial_radius"]
    radii = golden["radius"] * np.array([golden["ratio"], 1.0])
    points = clouds[name]
    counts = count_within(points, np.arange(len(points)), radii)
    dimension, error = slope_of_counts(counts, radii)
    assert dimension == pytest.approx(golden["likelihood"][0], rel=1e-9)
    assert error > 1.2 * golden["likelihood"][1]


@pytest.mark.parametrize("name", NAMES)
def test_the_neighbourhoods_equal_compute_kstar(name, neighbors):
    golden = GOLDEN["clouds"][name]["kstar"]
    found = neighbors[name]
    # Their list of maxk = 100 neighbours holds 99 tests; the last neighbour is never a neighbourhood's own.
    ours = optimal_neighborhoods(
        found.distances[:, :99], found.indices[:, :99], golden["dimension"], significance=golden["alpha"]
    )
    assert ours.tolist() == [int(k) for k in golden["kstar"].split()]


@pytest.mark.parametrize("name", NAMES)
def test_the_loop_of_neighbourhood_and_dimension_equals_return_ids_kstar_binomial(name, neighbors):
    golden = GOLDEN["clouds"][name]["kstar_binomial"]
    found = neighbors[name]
    distances, indices = found.distances[:, :99], found.indices[:, :99]
    dimension = golden["dimension"][0]
    for step in range(5):
        kstar = optimal_neighborhoods(distances, indices, dimension, significance=1e-6)
        assert kstar.mean() == pytest.approx(golden["mean_kstar"][step], rel=1e-12)
        # They round the best success probability to 0.2032.
        dimension, error, _ = binomial_dimension(distances, kstar, min(0.975, 0.2032 ** (1.0 / dimension)))
        assert dimension == pytest.approx(golden["dimension"][step + 1], rel=1e-9)
        assert error == pytest.approx(golden["error"][step + 1], rel=1e-9)
    # Ours stops when a step is below a tenth of the error, theirs after five steps.
    ours = adaptive_dimension(distances, indices, start=golden["dimension"][0])
    assert ours.dimension == pytest.approx(golden["dimension"][-1], abs=0.25 * ours.standard_error)


@pytest.mark.parametrize("name", NAMES)
def test_the_neighbourhoods_inside_return_ids_kstar_gride_are_ours(name, neighbors):
    # Their loop with Gride rounds k* up to an even n2 in place and reads log(r_{k*}/r_{k*/2}) of each point. We offer
    # the binomial form only; this holds our k* against a second sequence of dimensions.
    golden = GOLDEN["clouds"][name]["kstar_gride"]
    found = neighbors[name]
    for step in range(5):
        kstar = optimal_neighborhoods(
            found.distances[:, :99], found.indices[:, :99], golden["dimension"][step], significance=1e-6
        )
        even = kstar + kstar % 2
        assert even.mean() == pytest.approx(golden["mean_kstar"][step], rel=1e-12)
