"""What a test does where something it needs is absent."""

import os

import pytest

REQUIRE_ALL = os.environ.get("GELORA_REQUIRE_ALL") == "1"


def absent(reason: str) -> None:
    """Skip the test, or fail it where everything is required."""
    if REQUIRE_ALL:
        pytest.fail(f"required by GELORA_REQUIRE_ALL=1: {reason}")
    pytest.skip(reason)
