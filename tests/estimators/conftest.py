"""Every registered estimator, as the entry points name them."""

from importlib.metadata import entry_points

import pytest

# Options that make scikit-dimension's slow ones fast enough for a test, and batches small enough.
FAST_OPTIONS = {"skdim:PH": {"nsteps": 5, "subsamples": 2}, "skdim:DANCo": {"D": 4}}
FAST_OPTIONS |= {f"minibatch:{name}": {"batch_size": 30} for name in ("twonn", "mle", "gride")}


@pytest.fixture
def registered(request):
    """One registered estimator."""
    found = {point.name: point for point in entry_points(group="gelora.estimators")}
    assert request.param in found, "nothing is registered: install the checkout with pip install -e ."
    return found[request.param].load()(**FAST_OPTIONS.get(request.param, {}))


def pytest_generate_tests(metafunc):
    """Give ``registered`` every registered name; none at all is a failure, not a skip."""
    if "registered" in metafunc.fixturenames:
        names = sorted({point.name for point in entry_points(group="gelora.estimators")})
        metafunc.parametrize("registered", names or ["nothing"], indirect=True)
