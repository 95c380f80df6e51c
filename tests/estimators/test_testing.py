"""check_estimator: our estimators pass, and for every check a bad estimator fails it by name."""

import dataclasses
import warnings
from importlib.metadata import entry_points

import numpy as np
import pytest

from gelora_estimators import (
    DegenerateCloudError,
    DimensionEstimate,
    EstimatorContractError,
    Gride,
    TwoNN,
    as_points,
    check_estimator,
)
from gelora_estimators.testing import CHECKS

GOOD = TwoNN(interval="chi2")


def times(estimate, factor):
    return dataclasses.replace(estimate, dimension=estimate.dimension * factor, interval=(np.nan, np.nan))


def scaled_by(factor):
    """Return an estimator that multiplies a good number by something it should not look at."""

    def estimate(points, *, rng):
        return times(GOOD(points, rng=rng), factor(points))

    return estimate


def answers_where(condition):
    """Return an estimator that gives a number on degenerate clouds of one kind."""

    def estimate(points, *, rng):
        try:
            return GOOD(points, rng=rng)
        except DegenerateCloudError:
            if condition(np.asarray(points)):
                return DimensionEstimate(1.0, n_points=len(points))
            raise

    return estimate


def n_distinct(points):
    return len(np.unique(points, axis=0)) if len(points) else 0


def writes_to_input(points, *, rng):
    found = GOOD(points, rng=rng)
    if isinstance(points, np.ndarray) and points.flags.writeable:
        points[0] = 0.0
    return found


def needs_writable(points, *, rng):
    if isinstance(points, np.ndarray) and not points.flags.writeable:
        raise ValueError("assignment destination is read-only")
    return GOOD(points, rng=rng)


class Remembers:
    """Counts the clouds it has seen."""

    def __init__(self):
        self.seen = set()

    def __call__(self, points, *, rng):
        found = GOOD(points, rng=rng)
        self.seen.add(as_points(points).tobytes())
        return times(found, len(self.seen))


class DrawsFromEntropy:
    def __call__(self, points, *, rng):
        return times(GOOD(points, rng=rng), 1 + 1e-9 * np.random.default_rng().random())


def needs_an_array(points, *, rng):
    return times(GOOD(points, rng=rng), points.shape[0] / points.shape[0])


def needs_a_numpy_array(points, *, rng):
    return GOOD(points.astype(np.float64) if hasattr(points, "shape") else points, rng=rng)


def sets_filters(points, *, rng):
    warnings.filterwarnings("ignore", message="anything at all")
    return GOOD(points, rng=rng)


def sets_print_options(points, *, rng):
    np.set_printoptions(precision=3)
    return GOOD(points, rng=rng)


def seeds_the_global_generator(points, *, rng):
    np.random.seed(0)  # noqa: NPY002
    return GOOD(points, rng=rng)


@dataclasses.dataclass(frozen=True)
class WrongDistances:
    k: int = 2

    def __call__(self, points, *, rng):
        return GOOD(points, rng=rng)

    def from_distances(self, distances, n, rng, *, indices=None):
        return times(GOOD.from_distances(distances, n, rng, indices=indices), 1.001)


def array(points):
    return np.asarray(as_points(points), dtype=np.float64)


BAD = {
    "returns_estimate": [
        ("a float", lambda points, *, rng: GOOD(points, rng=rng).dimension),
        ("no count", lambda points, *, rng: dataclasses.replace(GOOD(points, rng=rng), n_points=0)),
        ("nan", lambda points, *, rng: dataclasses.replace(GOOD(points, rng=rng), dimension=np.nan)),
        ("interval", lambda points, *, rng: dataclasses.replace(GOOD(points, rng=rng), interval=(90.0, 99.0))),
        ("no rng keyword", lambda points: GOOD(points, rng=np.random.default_rng(0))),
    ],
    "input_unchanged": [("writes", writes_to_input)],
    "read_only": [("needs a writable array", needs_writable)],
    "stateless": [("remembers", Remembers)],
    "reproducible": [("draws from entropy", DrawsFromEntropy)],
    "row_order": [("looks at the first row", scaled_by(lambda points: 1 + 10 * abs(array(points)[0, 0])))],
    "shift": [("looks at the mean", scaled_by(lambda points: 1 + np.linalg.norm(array(points).mean(axis=0))))],
    "rotation": [("looks at an axis", scaled_by(lambda points: 1 + array(points)[:, 0].std()))],
    "scale": [("looks at the size", scaled_by(lambda points: 1 + array(points).std()))],
    "zero_padding": [("counts coordinates", scaled_by(lambda points: array(points).shape[1]))],
    "accuracy": [("three times too large", scaled_by(lambda _: 3.0))],
    "nan": [("drops NaN", lambda points, *, rng: GOOD(np.nan_to_num(array_or_self(points), nan=0.5), rng=rng))],
    "inf": [("answers", answers_where(lambda points: np.isinf(points).any()))],
    "constant": [("answers", answers_where(lambda points: len(points) > 3 and n_distinct(points) == 1))],
    "few_points": [("answers", answers_where(lambda points: len(points) == 3))],
    "all_copies": [("answers", answers_where(lambda points: 1 < n_distinct(points) < len(points)))],
    "rounding_noise": [("answers", answers_where(lambda points: n_distinct(points) > 3))],
    "copies": [("counts copies", scaled_by(lambda points: 1 + len(array(points)) - n_distinct(array(points))))],
    "float32": [("by type", scaled_by(lambda points: 1.2 if str(getattr(points, "dtype", "")) == "float32" else 1.0))],
    "float16": [("by type", scaled_by(lambda points: 1.2 if str(getattr(points, "dtype", "")) == "float16" else 1.0))],
    "bfloat16": [("knows NumPy only", needs_a_numpy_array)],
    "list": [("needs an array", needs_an_array)],
    "global_state": [
        ("filters", sets_filters),
        ("print options", sets_print_options),
        ("generator", seeds_the_global_generator),
    ],
    "from_distances": [("another number", WrongDistances())],
}


def array_or_self(points):
    return points if hasattr(points, "detach") else np.asarray(points)


@pytest.fixture(autouse=True)
def process_state():
    """Undo what bad estimators do to the process."""
    state = np.random.get_state()  # noqa: NPY002
    with warnings.catch_warnings(), np.printoptions():
        yield
    np.random.set_state(state)  # noqa: NPY002


# What they cannot bear at n = 300, seen by running all checks. Those that count linear directions read 3 on a 2-sphere
# and more than 4 on a flat 3-torus by design (lPCA, FisherS, spectral); MOM and DANCo read 4.2 and 4.5 on that torus
# with their default 100 neighbours; KNN draws a handful of points by row and reads 2 and 8 on the 3-torus and the
# 5-dimensional Gaussian.
UNBEARABLE = {
    "skdim:DANCo": {"accuracy"},
    "skdim:FisherS": {"accuracy"},
    "skdim:KNN": {"accuracy", "row_order"},
    "skdim:MOM": {"accuracy"},
    "skdim:lPCA": {"accuracy"},
    "spectral": {"accuracy"},
}
# With their defaults ESS takes 29 s a call at this size and PH 3.5 s; ESS then also reads 5.5 on the torus.
OPTIONS = {f"minibatch:{name}": {"batch_size": 150} for name in ("twonn", "mle", "gride")}
OPTIONS |= {"skdim:ESS": {"n_neighbors": 10}, "skdim:PH": {"nsteps": 10, "subsamples": 3}}
SLOW = {"skdim:DANCo", "skdim:ESS", "skdim:PH"}  # 13 to 40 s for all checks
# Subsamples and batches are drawn by row, so another order of rows is another draw.
TOLERANCE = {"ph": {"tolerance": 0.08}} | {
    f"minibatch:{name}": {"tolerance": 0.15} for name in ("twonn", "mle", "gride")
}
REGISTERED = [
    pytest.param(point, id=point.name, marks=[pytest.mark.slow] if point.name in SLOW else [])
    for point in sorted(entry_points(group="gelora.estimators"))
    if point.dist is not None and point.dist.name == "gelora"
]


@pytest.mark.parametrize("point", REGISTERED)
def test_every_registered_estimator_keeps_the_contract(point):
    estimator = point.load()(**OPTIONS.get(point.name, {}))
    check_estimator(estimator, n=300, skip=UNBEARABLE.get(point.name, ()), **TOLERANCE.get(point.name, {}))


@pytest.mark.parametrize("estimator", [TwoNN(fit="likelihood"), Gride(scan_to=64), Gride(scale="plateau")], ids=repr)
def test_other_options_keep_the_contract(estimator):
    check_estimator(estimator, n=300)


@pytest.mark.smoke
def test_a_class_is_called_without_arguments_first():
    check_estimator(TwoNN, n=200, skip=set(CHECKS) - {"returns_estimate", "nan"})


@pytest.mark.parametrize(
    ("check", "bad"),
    [pytest.param(check, bad, id=f"{check}-{name}") for check, cases in BAD.items() for name, bad in cases],
)
def test_a_bad_estimator_fails_the_check_made_for_it(check, bad):
    with pytest.raises(EstimatorContractError, match=f"check '{check}'"):
        check_estimator(bad, n=200, skip=set(CHECKS) - {check})


def test_every_check_has_a_bad_estimator_and_a_line_in_the_documentation():
    assert set(BAD) == set(CHECKS)
    assert all(f"``{name}``" in check_estimator.__doc__ for name in CHECKS)


def test_a_contract_error_is_an_assertion_error():
    assert issubclass(EstimatorContractError, AssertionError)


def test_an_unknown_name_in_skip_is_refused_with_the_list():
    with pytest.raises(ValueError, match=r"`skip` must hold names of checks \(returns_estimate.*got offset"):
        check_estimator(GOOD, skip=("offset",))
