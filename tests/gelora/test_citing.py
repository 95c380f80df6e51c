"""What a result rests on is cited, each work once, in BibTeX that another program reads."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import gelora
from examples import example_plan, example_profile
from gelora.citing import _ADAPTERS

CITATION_FILE = Path(__file__).resolve().parents[2] / "CITATION.cff"


def keys(text: str) -> list[str]:
    return re.findall(r"^@\w+\{([^,]+),", text, re.M)


def cited_profile(citations: dict[str, str]) -> xr.Dataset:
    return example_profile([[5.0, 6.0], [4.0, 8.0]]).assign_attrs(citations=json.dumps(citations))


def test_without_a_result_the_library_and_the_paper_are_cited() -> None:
    assert keys(gelora.citation()) == ["gelora", "EdDib2024"]
    assert f"version = {{{gelora.__version__}}}" in gelora.citation()


def test_a_profile_cites_its_estimators_and_what_two_of_them_share_once() -> None:
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(200, 2)), rng.normal(size=(200, 5))]
    estimators = ["twonn", "mle(k1=5)", "local:mle(n_neighbors=60)"]
    profile = gelora.estimate_representations(clouds, estimator=estimators, progress=False)
    found = keys(gelora.citation(profile))
    assert found == ["gelora", "EdDib2024", "Facco2017", "LevinaBickel2004", "MacKayGhahramani2005", "Ruppik2025"]
    assert len(keys("\n".join(json.loads(profile.attrs["citations"]).values()))) == 6  # two of them twice


def test_an_estimator_that_cites_nothing_is_named() -> None:
    assert "% the estimator 'mine' cites nothing" in gelora.citation(cited_profile({"mine": ""}))


def test_a_plan_cites_its_rule_and_the_estimator_behind_it() -> None:
    plan = example_plan([3, 4])
    object.__setattr__(plan, "provenance", {"profile": {"estimator": "gride(scan_to=8)"}, "more_profiles": []})
    assert keys(gelora.citation(plan)) == ["gelora", "EdDib2024", "Denti2022", "DiNoia2024"]
    assert keys(gelora.citation(example_plan([2, 2], "uniform"))) == ["gelora"]
    assert "Fisher information" in gelora.citation(example_plan([2, 2], "fisher"))
    for damaged in ({"profile": "x", "more_profiles": None}, {"profile": None}):
        object.__setattr__(plan, "provenance", damaged)
        assert keys(gelora.citation(plan)) == ["gelora", "EdDib2024"]
    object.__setattr__(plan, "provenance", {"profile": {"estimator": "a label of mine"}})
    assert '% the estimator "a label of mine" is not known here' in gelora.citation(plan)


def test_a_record_and_a_comparison_cite_their_adapters() -> None:
    record = xr.Dataset(attrs={"schema": "gelora-training-record", "adapter": "geolora", "policy": "uniform"})
    assert keys(gelora.citation(record)) == ["gelora", "Schotthoefer2025"]
    study = {
        "estimator": "mle",
        "methods": [
            {"adapter": "lora", "policy": "geometric", "ranks": {}},
            {"adapter": "dora(alpha=4)", "policy": "uniform", "ranks": {}},
            {"adapter": "lora", "policy": "recommended", "ranks": {"estimator": "twonn"}},
        ],
    }
    comparison = xr.Dataset(attrs={"schema": "gelora-comparison", "study": json.dumps(study)})
    expected = ["gelora", "EdDib2024", "LevinaBickel2004", "MacKayGhahramani2005", "Hu2021", "Liu2024", "Facco2017"]
    assert keys(gelora.citation(comparison)) == expected


def test_bars_and_trees_cite_persistent_homology_and_no_rule_of_ranks() -> None:
    from gelora.topology import persistence, spanning_tree

    cloud = np.random.default_rng(0).normal(size=(30, 3))
    for found in (persistence(cloud, degrees=(0,)), spanning_tree(cloud)):
        assert keys(gelora.citation(found)) == ["gelora", *keys(gelora.citation("ph"))[1:]]
        assert "EdDib2024" not in gelora.citation(found)


def test_several_results_are_cited_together() -> None:
    assert keys(gelora.citation("twonn", "twonn(fit='likelihood')", "sora")) == ["gelora", "Facco2017", "Ding2023"]


def test_every_adapter_has_its_citation_and_every_entry_parses() -> None:
    bibtex = pytest.importorskip("pybtex.database", reason="pybtex comes with the extra `dev`")
    from gelora.finetuning.adapters import ADAPTERS

    assert _ADAPTERS.keys() == ADAPTERS.keys()
    names = [name for name in gelora.available_estimators() if not name.startswith("skdim:")]
    text = gelora.citation(*ADAPTERS, *names, "skdim:lPCA", "gelora")
    parsed = bibtex.parse_string(text, "bibtex")
    assert list(parsed.entries) == keys(text)
    for key, entry in parsed.entries.items():
        assert entry.persons["author"], key
        assert {"title", "year"} <= entry.fields.keys(), key


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (3, TypeError, "`results` must be profiles, rank plans"),
        (xr.Dataset(), ValueError, "`results` must be made by gelora"),
        ("twonnn", ValueError, "`results` has 'twonnn', no estimator and no adapter.* did you mean 'twonn'"),
        ("dorra", ValueError, "did you mean 'dora'"),
    ],
)
def test_what_cannot_be_cited_is_refused(result: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gelora.citation(result)  # type: ignore[arg-type]


@pytest.mark.skipif(not CITATION_FILE.is_file(), reason="CITATION.cff is in the source tree only")
def test_the_citation_file_says_what_the_library_says_of_itself() -> None:
    import yaml

    record = yaml.safe_load(CITATION_FILE.read_text(encoding="utf-8"))
    assert record["version"] == gelora.__version__
    own, _ = gelora.citation().split("\n\n", 1)
    assert f"license = {{{record['license']}}}" in own
    assert record["title"] in own.replace("{", "").replace("}", "")
    identifiers = [
        entry["value"].removeprefix("arXiv:") for one in record["references"] for entry in one["identifiers"]
    ]
    cited = gelora.citation("gelora", "geolora")
    assert len(identifiers) == 2
    assert all(f"eprint = {{{number}}}" in cited for number in identifiers)
