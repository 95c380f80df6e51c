"""Layers are alike as far as the same rows are neighbours in both: exact, and blind to what keeps neighbours."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from gelora.netcdf import read_dataset, write_dataset
from gelora.replicates import draw_halves
from gelora.representations import extract_representations
from gelora.similarity import RELATIONS, compare_representations
from gelora_estimators.protocol import DegenerateCloudError
from tiny_models import tiny_model

QUIET = {"progress": False, "n_replicates": 0}


def squared(cloud):
    """Return all squared distances, infinite to a point itself."""
    cloud = np.asarray(cloud, dtype=np.float64)
    table = ((cloud[:, None] - cloud[None]) ** 2).sum(axis=2)
    np.fill_diagonal(table, np.inf)
    return table


def brute_force(a, b, k):
    """Return the imbalance from ``a`` to ``b`` and the overlap, by sorting every distance."""
    n = len(a)
    orders = [np.argsort(squared(cloud), axis=1, kind="stable") for cloud in (a, b)]
    ranks = [list(orders[1][i]).index(orders[0][i, 0]) + 1 for i in range(n)]
    common = [len(set(orders[0][i, :k]) & set(orders[1][i, :k])) / k for i in range(n)]
    return 2.0 * np.mean(ranks) / n, np.mean(common)


def clouds_of(n, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n, 3))
    return {
        "cube": x,
        "plane": x[:, :2],
        "shell": (np.tanh(x @ rng.normal(size=(3, 20))) + 1000.0).astype(np.float32),
        "other": rng.normal(size=(n, 4)),
    }


@pytest.mark.smoke
@pytest.mark.parametrize("k", [1, 7])
def test_every_pair_has_the_numbers_of_brute_force(k):
    clouds = clouds_of(120)
    found = compare_representations(clouds, k=k, **QUIET)
    assert found["name_a"].values.tolist() == found["name_b"].values.tolist() == list(clouds)
    for (i, a), (j, b) in itertools.product(enumerate(clouds.values()), repeat=2):
        imbalance, overlap = brute_force(a, b, k)
        assert float(found["information_imbalance"][i, j]) == pytest.approx(imbalance, rel=1e-12)
        assert float(found["information_imbalance_reverse"][j, i]) == pytest.approx(imbalance, rel=1e-12)
        assert float(found["neighborhood_overlap"][i, j]) == pytest.approx(overlap, rel=1e-12)


def test_ties_on_a_grid_are_broken_by_the_number_of_the_row():
    grid = np.array(list(itertools.product(range(9), range(8))), dtype=np.float64)
    turned = np.random.default_rng(0).permutation(grid)
    found = compare_representations([grid, turned], k=3, **QUIET)
    for i, j in itertools.product((0, 1), repeat=2):
        imbalance, overlap = brute_force((grid, turned)[i], (grid, turned)[j], 3)
        assert float(found["information_imbalance"][i, j]) == pytest.approx(imbalance, rel=1e-12)
        assert float(found["neighborhood_overlap"][i, j]) == pytest.approx(overlap, rel=1e-12)


def test_a_cloud_knows_itself_and_nothing_of_an_independent_one():
    rng = np.random.default_rng(0)
    n, k = 800, 20
    found = compare_representations([rng.random((n, 3)), rng.random((n, 5))], k=k, **QUIET)
    imbalance, overlap = found["information_imbalance"].values, found["neighborhood_overlap"].values
    assert np.diag(imbalance).tolist() == [2.0 / n] * 2
    assert np.diag(overlap).tolist() == [1.0] * 2
    assert found.attrs["overlap_by_chance"] == pytest.approx(k / (n - 1))
    # A mean of n ranks that are uniform on 1 … n − 1, each with a deviation of n/√12.
    np.testing.assert_allclose(imbalance[~np.eye(2, dtype=bool)], 1.0, atol=4.0 * 2.0 / np.sqrt(12.0 * n))
    np.testing.assert_allclose(overlap[0, 1], k / (n - 1), rtol=0.2)


def test_more_coordinates_know_fewer_ones_better_than_the_reverse():
    clouds = clouds_of(400)
    imbalance = compare_representations([clouds["cube"], clouds["plane"]], k=5, **QUIET)["information_imbalance"].values
    assert imbalance[0, 1] < 0.7 * imbalance[1, 0]


def test_what_keeps_neighbours_changes_nothing():
    clouds = clouds_of(150)
    rng = np.random.default_rng(1)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    wide = rng.permutation(np.eye(10))[:3]
    plain = compare_representations([clouds["cube"]], [clouds["other"]], k=5, **QUIET)
    for moved in (clouds["cube"] @ rotation, 1e6 * clouds["cube"], clouds["cube"] + 50.0, clouds["cube"] @ wide):
        found = compare_representations([moved], [clouds["other"]], k=5, **QUIET)
        for name in RELATIONS:
            np.testing.assert_allclose(found[name], plain[name], rtol=1e-12)


def test_two_sets_of_layers_give_the_blocks_of_all_layers_together():
    clouds = list(clouds_of(150).values())
    whole = compare_representations(clouds, k=5, n_replicates=4, progress=False)
    parts = compare_representations(clouds[:1], clouds[1:], k=5, n_replicates=4, progress=False)
    assert parts.sizes == {"layer_a": 1, "layer_b": 3}
    for name in RELATIONS:
        for one in (name, f"{name}_standard_error"):
            np.testing.assert_array_equal(parts[one].values, whole[one].values[:1, 1:])


def test_the_order_of_rows_does_not_matter_if_it_is_the_same_in_all_layers():
    clouds = list(clouds_of(150).values())
    order = np.random.default_rng(0).permutation(150)
    plain = compare_representations(clouds, k=5, **QUIET)
    turned = compare_representations([cloud[order] for cloud in clouds], k=5, **QUIET)
    for name in RELATIONS:
        np.testing.assert_allclose(turned[name], plain[name], rtol=1e-12)
    apart = compare_representations([clouds[0]], [clouds[0][order]], k=5, **QUIET)
    assert float(apart["information_imbalance"][0, 0]) > 0.7


def test_rows_that_are_copies_in_any_layer_are_left_out_of_all():
    clouds = [cloud.copy() for cloud in clouds_of(150).values()]
    clouds[0][[140, 141]] = clouds[0][[3, 3]]
    clouds[2][20] = clouds[2][9]
    kept = np.setdiff1d(np.arange(150), [140, 141, 20])
    found = compare_representations(clouds, k=5, **QUIET)
    assert (found.attrs["n_points"], found.attrs["n_copies"]) == (147, 3)
    expected = compare_representations([cloud[kept] for cloud in clouds], k=5, **QUIET)
    for name in RELATIONS:
        np.testing.assert_array_equal(found[name], expected[name])


def test_errors_are_those_of_the_halves_and_of_many_draws():
    estimates, errors = [], []
    for seed in range(30):
        x = np.random.default_rng(seed).normal(size=(150, 4))
        y = x + 0.5 * np.random.default_rng(1000 + seed).normal(size=x.shape)
        found = compare_representations([x], [y], k=10, n_replicates=6, progress=False)
        estimates.append([float(found[name][0, 0]) for name in RELATIONS])
        errors.append([float(found[f"{name}_standard_error"][0, 0]) for name in RELATIONS])
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(estimates, axis=0, ddof=1)
    assert ((ratio > 0.75) & (ratio < 1.8)).all()


def test_errors_are_half_the_differences_of_halves_with_half_as_many_neighbours():
    clouds = list(clouds_of(120).values())
    found = compare_representations(clouds, k=9, n_replicates=4, seed=5, progress=False)
    halves = draw_halves({"": np.arange(120)}, 4, 5).members
    parts = [compare_representations([cloud[half] for cloud in clouds], k=4, **QUIET) for half in halves]
    for name in RELATIONS:
        values = [part[name].values for part in parts]
        squares = [((values[0] - values[1]) / 2) ** 2, ((values[2] - values[3]) / 2) ** 2]
        np.testing.assert_allclose(found[f"{name}_standard_error"], np.sqrt(np.mean(squares, axis=0)), atol=1e-15)


def test_errors_go_by_the_seed_and_are_missing_without_halves():
    clouds = clouds_of(100)
    first, again, other = (
        compare_representations(clouds, k=5, n_replicates=4, seed=seed, progress=False) for seed in (0, 0, 1)
    )
    assert first.drop_vars("undefined_a").equals(again.drop_vars("undefined_a"))
    name = "neighborhood_overlap_standard_error"
    assert (first[name].values[0, 1:] != other[name].values[0, 1:]).all()
    assert np.isnan(compare_representations(clouds, k=5, **QUIET)[name]).all()
    np.testing.assert_array_equal(np.diag(first[name]), 0.0)


def test_a_layer_without_neighbourhoods_is_named_and_the_others_are_compared():
    clouds = clouds_of(120)
    atoms = np.repeat(np.arange(3.0), 40)[:, None] * np.ones(4)
    noisy = np.ones((120, 4), dtype=np.float32)
    noisy[:, 0] += np.arange(120) * np.float32(2.0**-23)
    given = {"atoms": atoms, "cube": clouds["cube"], "noise": noisy, "plane": clouds["plane"]}
    with pytest.warns(UserWarning, match="nothing can be compared with layer [02] of `a`: the dimension is undefined"):
        found = compare_representations(given, k=5, n_replicates=4, progress=False)
    assert [bool(reason) for reason in found["undefined_a"].values] == [True, False, True, False]
    expected = compare_representations([clouds["cube"], clouds["plane"]], k=5, n_replicates=4, progress=False)
    for name in RELATIONS:
        for one in (name, f"{name}_standard_error"):
            np.testing.assert_array_equal(found[one].values[1::2, 1::2], expected[one])
            assert np.isnan(found[one].values[0::2]).all()
            assert np.isnan(found[one].values[:, 0::2]).all()
    with pytest.raises(DegenerateCloudError, match="no layer has a neighbourhood to compare; the dimension is undef"):
        compare_representations([clouds["cube"]], [atoms], k=5, **QUIET)


@pytest.fixture(scope="module")
def extracted():
    tokens = torch.randint(5, 64, (60, 8), generator=torch.Generator().manual_seed(0))
    return [extract_representations(tiny_model("bert", seed=seed), tokens, progress=False) for seed in (0, 1)]


def test_two_models_on_the_same_rows_are_compared_with_their_origin(extracted, tmp_path):
    a, b = extracted
    found = compare_representations(a, b, k=5, progress=False)
    assert found["layer_a"].values.tolist() == list(a.layers)
    assert found["name_b"].values.tolist() == list(b.names)
    assert set(found["stack_a"].values) == {"encoder"}
    assert found.attrs["weights_fingerprint_a"] == a.attributes["weights_fingerprint"]
    assert found.attrs["weights_fingerprint_b"] == b.attributes["weights_fingerprint"]
    arrays = compare_representations(list(a.clouds), list(b.clouds), k=5, progress=False)
    for name in RELATIONS:
        np.testing.assert_array_equal(found[name], arrays[name])
    again = read_dataset(write_dataset(found, tmp_path / "similarity.nc"), made_by="")
    assert again.equals(found)


def test_tokens_of_one_text_stay_in_one_half():
    tokens = torch.randint(5, 64, (40, 6), generator=torch.Generator().manual_seed(0))
    a = extract_representations(tiny_model("bert"), tokens, pooling="tokens", progress=False)
    found = compare_representations(a, k=5, n_replicates=4, progress=False)
    rows = a.rows["encoder"]
    assert len(rows) > len(set(rows.tolist()))
    alone = replace(a, rows={"encoder": np.arange(len(rows))})
    other = compare_representations(alone, k=5, n_replicates=4, progress=False)
    name = "neighborhood_overlap"
    np.testing.assert_array_equal(found[name], other[name])
    assert (found[f"{name}_standard_error"].values != other[f"{name}_standard_error"].values).any()


def test_rows_that_do_not_belong_together_are_refused(extracted):
    a, b = extracted
    moved = replace(b, rows={stack: rows + 1 for stack, rows in b.rows.items()})
    with pytest.raises(ValueError, match=r"`a` and `b` must hold the same rows .* 60 and 60 points of other data rows"):
        compare_representations(a, moved, k=5, **QUIET)
    with pytest.raises(ValueError, match=r"`a` and `b` must hold the same rows in the same order, got 60 and 50"):
        compare_representations(a, [np.ones((50, 3))], k=5, **QUIET)
    with pytest.raises(ValueError, match=r"`b` must hold clouds of the same rows, got \[60, 50\] points: compare"):
        compare_representations(a, [np.ones((60, 3)), np.ones((50, 3))], k=5, **QUIET)
    with pytest.warns(
        UserWarning, match="`a` and `b` were extracted from unlike data: rows of one number are compared"
    ):
        compare_representations(a, replace(b, attributes={**b.attributes, "data_fingerprint": "other"}), k=5, **QUIET)


def test_numbers_of_neighbours_that_make_no_sense_are_refused():
    clouds = clouds_of(40)
    with pytest.raises(ValueError, match="`k` must be an integer of at least 1, got 0"):
        compare_representations(clouds, k=0, **QUIET)
    for k, n_replicates in ((39, 0), (38, 4)):
        with pytest.raises(ValueError, match=rf"`k`={k} needs at least {k + 2} points .* and 21 in a half, got 40 and"):
            compare_representations(clouds, k=k, n_replicates=n_replicates, progress=False)
    with pytest.raises(ValueError, match="`n_replicates` must be even"):
        compare_representations(clouds, k=5, n_replicates=3, progress=False)
