"""What the reference pages say of the code is what the code says of itself."""

import ast
import dataclasses
import doctest
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gelora_estimators as ge
from gelora.citing import citation as cite
from gelora.registry import available_estimators

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is in the source tree only")

# Section of the page → class, and options that the names of the section fix.
SECTIONS: Mapping[str, tuple[Any, set[str]]] = {
    "twonn": (ge.TwoNN, set()),
    "gride": (ge.Gride, set()),
    "mle": (ge.MLE, set()),
    "ph": (ge.PersistentHomology, set()),
    "corrint": (ge.CorrelationIntegral, set()),
    "spectral": (ge.Spectral, set()),
    "local": (ge.LocalDimension, {"estimator"}),
    "minibatch": (ge.MiniBatch, {"estimator"}),
    "calibrated": (ge.CalibratedEstimator, {"estimator"}),
}
# What makes every diagnostic appear.
RUNS = {
    "twonn": [ge.TwoNN(decimations=2), ge.TwoNN(fit="posterior")],
    "gride": [ge.Gride(scale="plateau", interval="subsampling"), ge.Gride(scale="kstar")],
    "mle": [ge.MLE(pointwise=True)],
    "ph": [ge.PersistentHomology()],
    "corrint": [ge.CorrelationIntegral(scan_to=8)],
    "spectral": [ge.Spectral()],
    "local": [ge.LocalDimension()],
    "minibatch": [ge.MiniBatch(batch_size=100)],
    "calibrated": [ge.calibrated(ge.MLE(interval="pointwise"), n_replicates=3)],
}


def section(label: str) -> str:
    text = (DOCS / "reference" / "estimators.md").read_text(encoding="utf-8")
    found = re.search(rf"^\({label}\)=\n(.*?)(?=^\([a-z-]+\)=\n|\Z)", text, re.M | re.S)
    assert found, f"the page has no section {label!r}"
    return found[1]


def bibliography() -> dict[str, dict[str, str]]:
    """Return the fields of each entry, without braces and accents' commands."""
    text = (DOCS / "references.bib").read_text(encoding="utf-8")
    return {key: fields_of(entry) for key, entry in re.findall(r"^@\w+\{(\w+),\n(.*?)\n\}$", text, re.M | re.S)}


def fields_of(entry: str) -> dict[str, str]:
    found = re.findall(r"^\s*(\w+) = \{(.*?)\},?$(?=\n\s*\w+ = |\Z)", entry, re.M | re.S)
    return {name: " ".join(value.split()) for name, value in found}


def listed() -> dict[str, str]:
    """Return what stands under each key on the page of references."""
    text = (DOCS / "references.md").read_text(encoding="utf-8")
    return {key: " ".join(entry.split()) for key, entry in re.findall(r"^(\w+)\n: (.*?)(?=\n\n|\Z)", text, re.M | re.S)}


@pytest.mark.parametrize("label", SECTIONS)
def test_every_option_of_an_estimator_is_documented_with_its_default(label: str) -> None:
    kind, fixed = SECTIONS[label]
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section(label), re.M)
    documented = {name: ast.literal_eval(default) for name, default in rows}
    assert documented == {one.name: one.default for one in dataclasses.fields(kind) if one.name not in fixed}


@pytest.mark.filterwarnings("ignore:the dimension depends on the scale:UserWarning")
@pytest.mark.parametrize("label", SECTIONS)
def test_every_diagnostic_of_an_estimator_is_documented(label: str) -> None:
    cloud = np.random.default_rng(0).normal(size=(400, 3))
    for estimator in RUNS[label]:
        found = estimator(cloud, rng=np.random.default_rng(0))
        text = section(label).split("**Diagnostics.**")[1]
        for name in found.diagnostics:
            assert f"`{name}`" in text, f"{label}: the page lacks the diagnostic {name!r}"


def test_every_registered_estimator_of_ours_has_a_section() -> None:
    page = (DOCS / "reference" / "estimators.md").read_text(encoding="utf-8")
    ours = [name for name in available_estimators() if not name.startswith("correlation")]
    missing = [name for name in ours if not re.search(rf"^(## .*|\| )`{re.escape(name)}`", page, re.M)]
    assert not missing


def test_the_options_of_what_batches_hold_are_documented() -> None:
    from gelora_estimators import minibatch

    own = {one.name for one in dataclasses.fields(ge.MiniBatch)}
    for make in (minibatch.twonn, minibatch.mle, minibatch.gride):
        for name in set(make.__signature__.parameters) - own:  # type: ignore[attr-defined]
            assert f"`{name}`" in section("minibatch"), name


def test_every_option_of_the_estimators_of_scikit_dimension_is_documented() -> None:
    from gelora_estimators import skdim

    rows = dict(re.findall(r"^\| `skdim:(\w+)` \|[^|]*\|([^|]*)\|", section("skdim"), re.M))
    assert rows.keys() == set(skdim.ESTIMATORS)
    common = {"random_state", "verbose", "n_jobs"}
    for name, options in rows.items():
        known = skdim._parameters(skdim._load(name)) - common
        assert set(re.findall(r"`(\w+)`", options)) == known, name


# Section → what it quotes of the benchmark manifolds, and of the coverage of intervals.
QUOTED = {
    "twonn": [("M9_Affine", "15.1"), ("M10d_Cubic", "40.4")],
    "mle": [("M5b_Helix2d", "2.5"), ("M13b_Spiral", "1.3"), ("Mp3_Paraboloid", "6.1")],
    "ph": [("M13b_Spiral", "1.6"), ("M5b_Helix2d", "2.8"), ("Mp3_Paraboloid", "4.5")],
    "corrint": [("Mbeta", "3.5"), ("Mp3_Paraboloid", "3.2"), ("M13b_Spiral", "4.2")],
    "spectral": [("M5a_Helix1d", "2.4"), ("M8_Nonlinear", "23.8"), ("Mp3_Paraboloid", "1.0")],
}
COVERED = [
    ("twonn", "product of circles", 10, "twonn", "12.4 ± 0.5", "0.5 %"),
    ("mle", "ball", 5, "mle", "4.56 ± 0.05", "none of 400"),
    ("ph", "product of circles", 5, "ph", "5.80 ± 0.08", "no interval"),
    ("local", "product of circles", 10, "local:twonn", "12.3", ""),
    ("calibrated", "cube", 10, "twonn, calibrated", "", "74.5 %"),
    ("calibrated", "cube", 10, "mle, calibrated", "", "1.5 %"),
    ("calibrated", "cube", 10, "twonn, calibrated with cubes", "", "96.5 %"),
]


def measured(name: str) -> Any:
    return json.loads((DOCS / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("label", QUOTED)
def test_numbers_that_a_section_quotes_of_manifolds_are_the_measured_ones(label: str) -> None:
    manifolds, text = measured("manifolds")["manifolds"], section(label).split("**When it lies.**")[1]
    for manifold, quoted in QUOTED[label]:
        assert f"{manifolds[manifold]['estimates'][label]['dimension']:.1f}" == quoted, manifold
        assert re.search(rf"(?<![\d.]){re.escape(quoted)}(?!\d)", text), quoted


@pytest.mark.parametrize(("label", "family", "d", "estimator", "value", "share"), COVERED)
def test_numbers_that_a_section_quotes_of_intervals_are_the_measured_ones(
    label: str, family: str, d: int, estimator: str, value: str, share: str
) -> None:
    lines = measured("interval_coverage")["lines"]
    (line,) = (one for one in lines if (one["family"], one["d"], one["estimator"]) == (family, d, estimator))
    text = " ".join(section(label).split("**When it lies.**")[1].split())
    assert value in text
    assert share in text
    digits = len(value.split(" ")[0].partition(".")[2])
    told = [f"{line[name]:.{digits}f}" for name in ("mean", "spread")][: len(value.split(" ± "))]
    assert not value or value == " ± ".join(told)
    coverage = 0.0 if share.startswith("no") else float(share.split(" ")[0] or "nan") / 100 if share else None
    assert coverage is None or line["coverage"] == pytest.approx(coverage, abs=5e-4)


def test_the_page_on_the_command_line_is_what_the_commands_say(monkeypatch: pytest.MonkeyPatch) -> None:
    command_line = load(DOCS / "command_line.py")
    page = (DOCS / "reference" / "command_line.md").read_text(encoding="utf-8")
    assert page == command_line.generate(), "run `python docs/command_line.py`"


def test_keys_years_and_preprints_of_the_references_agree_in_both_files() -> None:
    page, bib = listed(), bibliography()
    assert page.keys() == bib.keys()
    assert list(page) == sorted(page, key=str.lower)
    for key, fields in bib.items():
        assert fields["year"] in page[key], key
        if "eprint" in fields:
            assert f"arXiv:{fields['eprint']}" in page[key], key
        if "title" in fields:
            title = re.sub(r"[{}]", "", fields["title"]).replace("'", "").lower()
            assert title in re.sub(r"[*']", "", page[key]).lower(), key


def test_what_the_estimators_cite_is_in_the_bibliography() -> None:
    bib = bibliography()
    cited = {}
    for kind, _ in SECTIONS.values():
        citation = getattr(kind, "citation", "")
        text = citation if isinstance(citation, str) else ""
        cited |= dict(re.findall(r"@\w+\{(\w+),\n(.*?)\n\}", text, re.S))
    cited |= dict(
        re.findall(r"@\w+\{(\w+),\n(.*?)\n\}", ge.ScikitDimension.citation + ge.LocalDimension().citation, re.S)
    )
    assert {"Facco2017", "Denti2022", "Ruppik2025", "Bac2021"} <= cited.keys()
    for key, entry in cited.items():
        assert fields_of(entry) == bib[key], key


def test_what_the_adapters_cite_is_in_the_bibliography() -> None:
    from gelora.finetuning.adapters import ADAPTERS

    bib = bibliography()
    cited = dict(re.findall(r"@\w+\{(\w+),\n(.*?)\n\}", cite("gelora", *ADAPTERS), re.S))
    assert cited.pop("gelora")
    assert len(cited) == 11
    for key, entry in cited.items():
        assert fields_of(entry) == bib[key], key


def test_every_key_that_pages_and_code_cite_is_among_the_references() -> None:
    known = set(listed())
    for page in DOCS.rglob("*.md"):
        for quoted in re.findall(r"\{ref\}`\(?([^`<]*?)\)? <references>`", page.read_text(encoding="utf-8")):
            assert set(re.split(r", ", quoted)) <= known, f"{page.name}: {quoted}"
    for module in [*(ROOT / "src").rglob("*.py"), *(ROOT / "estimators").rglob("*.py")]:
        keys = re.findall(r"\b[A-Z][A-Za-z]+(?:19|20)\d\d\b", module.read_text(encoding="utf-8"))
        assert set(keys) <= known, module.name


def test_terms_that_the_glossary_links_are_defined_in_it() -> None:
    text = (DOCS / "reference" / "glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(\w[\w ]*)$", text, re.M)
    assert len(terms) == len(set(terms)) > 40
    for quoted in re.findall(r"\{term\}`([^`]+)`", text):
        target = re.search(r"<(.*)>", quoted)
        assert (target[1] if target else quoted) in terms


def test_the_skeleton_of_an_estimator_keeps_the_contract_and_refuses_wrong_orders() -> None:
    skeleton = load(DOCS / "skeletons" / "neighbor_growth.py")
    ge.check_estimator(skeleton.NeighborGrowth)
    assert doctest.testmod(skeleton) == (0, 2)
    with pytest.raises(ValueError, match=r"`k1` and `k2` must be integers with 1 <= k1 < k2, got 3 and 3"):
        skeleton.NeighborGrowth(k1=3, k2=3)
    grid = np.stack(np.meshgrid(np.arange(20.0), np.arange(20.0)), axis=-1).reshape(-1, 2)
    with pytest.raises(ge.DegenerateCloudError, match="neighbours 1 and 2 of all 400 points are equally far"):
        skeleton.NeighborGrowth(k1=1, k2=2)(grid, rng=np.random.default_rng(0))


def load(path: Path) -> Any:
    """Return a module of the documentation, which is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module
