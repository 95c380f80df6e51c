"""Estimators come by name from entry points, gelora's own and anybody's."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from gelora import registry
from gelora.registry import available_estimators, make_estimator, parse_estimator

ROOT = Path(__file__).resolve().parents[2]


def test_names_are_listed_without_importing_any_estimator():
    code = (
        "import sys; from gelora import available_estimators as f; names = f(); "
        "assert not [m for m in ('torch', 'skdim', 'gelora_estimators.twonn') if m in sys.modules]; print(*names)"
    )
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"twonn", "mle", "ph", "gride", "skdim:lPCA"} <= set(names)


def test_the_installed_entry_points_are_those_of_pyproject():
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("no pyproject.toml beside the tests: they run outside the checkout")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][registry.GROUP]
    installed = {p.name: p.value for p in entry_points(group=registry.GROUP) if p.dist and p.dist.name == "gelora"}
    assert installed == declared


@pytest.mark.smoke
def test_an_estimator_is_made_from_its_name_and_options():
    assert make_estimator("mle", k1=3).k1 == 3
    assert make_estimator("mle(k1=3, k2=7)") == make_estimator("mle", k1=3, k2=7)


def test_an_unknown_name_or_option_is_answered_with_the_nearest_and_the_list():
    with pytest.raises(ValueError, match=r"no 'towNN'; did you mean 'twonn'.*'gride'"):
        make_estimator("towNN")
    with pytest.raises(ValueError, match=r"`discrad` is no option .*did you mean 'discard'"):
        make_estimator("twonn", discrad=0.2)
    with pytest.raises(ValueError, match="`k1` is given twice"):
        make_estimator("mle(k1=3)", k1=4)


@pytest.mark.parametrize(
    "text", ["mle(", "mle(3)", "mle(k1=__import__('os'))", "mle(k1=1)(k2=3)", "mle(k1=1);x", "mle(**{})x"]
)
def test_text_that_is_no_call_with_literals_is_refused_and_never_run(text):
    with pytest.raises(ValueError, match="must be a name, or a name with options"):
        parse_estimator(text)


def test_two_distributions_with_one_name_are_an_error_naming_both(monkeypatch):
    class Dist:
        def __init__(self, name):
            self.name = name

    def point(value, dist):
        made = EntryPoint("same", value, registry.GROUP)
        vars(made).update(dist=Dist(dist))
        return made

    twice = [point("a:b", "first-package"), point("c:d", "second-package")]
    monkeypatch.setattr(registry, "entry_points", lambda group: twice)
    with pytest.raises(ValueError, match=r"'same', first-package and second-package"):
        available_estimators()
    monkeypatch.setattr(registry, "entry_points", lambda group: [twice[0], twice[0]])
    assert available_estimators() == ("same",)


def test_a_failing_plug_in_raises_its_own_exception(monkeypatch, tmp_path):
    (tmp_path / "broken_plugin.py").write_text("raise ZeroDivisionError('at import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [EntryPoint("broken", "broken_plugin:X", registry.GROUP)]
    )
    assert available_estimators() == ("broken",)
    with pytest.raises(ZeroDivisionError, match="at import"):
        make_estimator("broken")


def test_a_third_party_distribution_registers_by_entry_point_and_works_by_name(tmp_path):
    """Build and install a real distribution, then use it by name in a fresh interpreter."""
    source = Path(__file__).resolve().parents[1] / "third_party_plugin"
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*install, "--target", site, source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code = """
import numpy as np, gelora
from gelora_estimators.testing import check_estimator
assert "correlation" in gelora.available_estimators()
rng = np.random.default_rng(0)
cloud = rng.uniform(size=(600, 3)) @ rng.normal(size=(3, 10))
profile = gelora.estimate_representations([cloud], estimator="correlation", progress=False)
print(float(profile["dimension"][0, 0]), profile.attrs["estimators"])
check_estimator(gelora.make_estimator("correlation"))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(site), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    dimension, record = done.stdout.split(" ", 1)
    assert 2.4 < float(dimension) < 3.3
    assert "gelora_correlation" in record
