"""What importing the package loads."""

import subprocess
import sys

import pytest

import gelora_estimators

HEAVY = ("torch", "scipy", "sklearn", "skdim", "ripser", "gph")


@pytest.mark.smoke
@pytest.mark.parametrize(
    "statement", ["import gelora_estimators", "import gelora_estimators.protocol, gelora_estimators.points"]
)
def test_importing_the_interface_loads_numpy_alone(statement):
    program = f"import sys; {statement}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_using_numpy_points_loads_no_torch():
    program = (
        "import sys, gelora_estimators as g; g.distinct_points([[0.0, 1.0], [2.0, 3.0]]); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_public_name_resolves_and_an_unknown_one_does_not():
    public = [name for name in dir(gelora_estimators) if name[0].isupper() and name != "TYPE_CHECKING"]
    assert {"TwoNN", "MLE", "Gride", "PersistentHomology", "ScikitDimension"} <= set(public)
    assert all(getattr(gelora_estimators, name).__name__ == name for name in public)
    with pytest.raises(AttributeError, match="no attribute 'TwoNM'"):
        gelora_estimators.TwoNM  # noqa: B018
