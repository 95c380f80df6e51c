"""Each option says what it must be, what it got and what to do."""

import dataclasses
import subprocess
import sys

import pytest

import gelora_estimators
from gelora_estimators import (
    MLE,
    CorrelationIntegral,
    Gride,
    LocalDimension,
    PersistentHomology,
    ScikitDimension,
    TwoNN,
)
from gelora_estimators.options import check_device

WITH_DEVICE = [TwoNN, MLE, Gride, LocalDimension, CorrelationIntegral, PersistentHomology]

BAD = [
    (TwoNN, {"fit": "mle"}, r"`fit` must be one of 'regression', 'likelihood', 'posterior', got 'mle'"),
    (TwoNN, {"discard": 1.0}, r"`discard` must be a number in \[0, 1\), got 1.0"),
    (TwoNN, {"discard": "0.1"}, r"`discard` must be a number in \[0, 1\), got '0.1'"),
    (TwoNN, {"discard": float("nan")}, r"`discard` must be a number in \[0, 1\), got nan"),
    (TwoNN, {"interval": "bootstrap"}, r"`interval` must be one of 'subsampling', 'chi2'.*, got 'bootstrap'"),
    (TwoNN, {"confidence": 1}, r"`confidence` must be a number in \(0, 1\), got 1"),
    (TwoNN, {"n_subsamples": 1}, r"`n_subsamples` must be an integer of at least 2, got 1"),
    (MLE, {"k1": 1}, r"`k1` must be an integer of at least 2, got 1"),
    (MLE, {"k1": 2, "average": "mean"}, r"`k1` must be an integer of at least 3, got 2"),
    (MLE, {"k1": 30}, r"`k2` must be an integer of at least 30, got 20"),
    (MLE, {"average": "median"}, r"`average` must be one of 'inverse', 'mean', got 'median'"),
    (MLE, {"unbiased": 1}, r"`unbiased` must be True or False, got 1"),
    (MLE, {"interval": "chi2"}, r"`interval` must be one of 'subsampling', 'pointwise', got 'chi2'"),
    (Gride, {"n1": 0}, r"`n1` must be an integer of at least 1, got 0"),
    (Gride, {"n1": 4, "n2": 4}, r"`n2` must be an integer of at least 5, got 4"),
    (Gride, {"scan_to": 1}, r"`scan_to` must be an integer of at least 2, got 1"),
    (Gride, {"interval": "chi2"}, r"`interval` must be one of 'fisher', 'subsampling', got 'chi2'"),
    (PersistentHomology, {"alpha": 0}, r"`alpha` must be a number in \(0, inf\), got 0"),
    (PersistentHomology, {"n_sizes": 1}, r"`n_sizes` must be an integer of at least 2, got 1"),
    (PersistentHomology, {"n_draws": 0}, r"`n_draws` must be an integer of at least 1, got 0"),
    (PersistentHomology, {"n_repetitions": True}, r"`n_repetitions` must be an integer of at least 1, got True"),
    (PersistentHomology, {"statistic": "mode"}, r"`statistic` must be one of 'median', 'mean', got 'mode'"),
    (PersistentHomology, {"backend": "gudhi"}, r"`backend` must be one of 'torch', 'giotto', 'ripser', got 'gudhi'"),
    (PersistentHomology, {"min_points": 3}, r"`min_points` must be an integer of at least 4, got 3"),
    (PersistentHomology, {"max_points": 80}, r"`max_points` must be an integer of at least 100, got 80"),
    (ScikitDimension, {"estimator": "lpca"}, r"`estimator` must be one of 'CorrInt'.*got 'lpca'"),
    (ScikitDimension, {"estimator": "lPCA", "options": {"alfa": 1}}, r"`options` of skdim:lPCA.*got alfa"),
]


@pytest.mark.parametrize(("kind", "options", "message"), BAD, ids=[f"{k.__name__}-{o}" for k, o, _ in BAD])
def test_a_bad_option_is_named_with_the_requirement_and_the_value(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)


@pytest.mark.parametrize("kind", WITH_DEVICE)
@pytest.mark.parametrize(
    "device", ["gpu", "cuda:", "cuda:one", "cuda:-1", "cuda:0 ", "CPU", "cpu:0", "meta", "mps", "", 3, None]
)
def test_a_mistyped_device_is_noticed_before_any_point_is_read(kind, device):
    with pytest.raises(ValueError, match="device") as caught:
        kind(device=device)
    assert str(caught.value).startswith(
        "`device` must be 'auto', 'cpu', 'cuda' or 'cuda:<number>', got " + repr(device)
    )


@pytest.mark.parametrize("kind", WITH_DEVICE)
@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:13"])
def test_a_device_is_known_by_its_name_whether_it_is_there_or_not(kind, device):
    assert kind(device=device).device == device
    check_device(device)


def test_every_estimator_with_a_device_is_tested_for_it():
    found = (getattr(gelora_estimators, name) for name in dir(gelora_estimators))
    kinds = {kind for kind in found if isinstance(kind, type) and dataclasses.is_dataclass(kind)}
    assert {kind for kind in kinds if "device" in kind.__dataclass_fields__} == set(WITH_DEVICE)


def test_options_are_checked_without_torch():
    code = "import sys, gelora_estimators.options as o; o.check_device('cuda:1'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", [TwoNN, MLE, Gride, PersistentHomology])
def test_an_estimator_is_frozen_hashable_and_takes_keywords_only(kind):
    estimator = kind()
    assert hash(estimator) == hash(kind())
    assert estimator == dataclasses.replace(estimator)
    with pytest.raises(dataclasses.FrozenInstanceError):
        estimator.confidence = 0.5
    with pytest.raises(TypeError, match="positional"):
        kind(1)
