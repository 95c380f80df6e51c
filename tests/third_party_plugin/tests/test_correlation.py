"""The contract of every estimator, tested by gelora's own checks."""

import pytest
from gelora_correlation import CorrelationDimension

from gelora_estimators import check_estimator


def test_the_contract_is_kept() -> None:
    check_estimator(CorrelationDimension)


def test_fractions_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match="`near` and `far` must satisfy"):
        CorrelationDimension(near=0.5, far=0.1)
