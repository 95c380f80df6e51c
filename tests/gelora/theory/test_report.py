"""The report: its numbers are those of its parts, its verdicts follow from them, its file holds it."""

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import xarray as xr

from gelora import estimate
from gelora.ranks import plan_ranks
from gelora.theory import fisher_ranks, jacobian_spectra, open_report, save_report, theory_report, theory_table
from tiny_models import ragged_batch, tiny_model, tiny_texts, tiny_tokenizer

TEXTS = tiny_texts(120)
PLAIN: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "progress": False}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("bert", hf.AutoModelForSequenceClassification.from_config)


@pytest.fixture(scope="module")
def profile(model: Any) -> xr.Dataset:
    return estimate(model, TEXTS, estimator=["twonn", "mle"], **PLAIN)


@pytest.fixture(scope="module")
def plan(model: Any) -> Any:
    return plan_ranks(None, model, "uniform", rank=2)


def labelled() -> list[dict[str, torch.Tensor]]:
    return [{**ragged_batch(6, seed=seed), "labels": torch.arange(6) % 2} for seed in range(2)]


@pytest.fixture(scope="module")
def report(model: Any, profile: xr.Dataset, plan: Any) -> xr.Dataset:
    return theory_report(
        model, profile, TEXTS, plan=plan, labelled_batches=labelled(), estimator="mle", n_points=3, **PLAIN
    )


def test_a_report_holds_the_dimensions_of_the_profile(report: xr.Dataset, profile: xr.Dataset) -> None:
    row = profile.sel(estimator="mle")
    np.testing.assert_array_equal(report["dimension"].values, row["dimension"].values[1:])
    np.testing.assert_array_equal(report["standard_error"].values, row["standard_error"].values[1:])
    np.testing.assert_array_equal(report["rise"].values, np.diff(row["dimension"].values))
    assert report["block"].values.tolist() == [1, 2]
    assert report.attrs["estimator"] == "mle"


def test_a_report_holds_the_largest_ranks_over_the_points(report: xr.Dataset, model: Any, plan: Any) -> None:
    spectra = jacobian_spectra(model, TEXTS, plan=plan, n_points=3, **PLAIN)
    assert report["respect"].values.tolist() == ["input", "parameters", "both"]
    np.testing.assert_array_equal(report["jacobian_rank"].values, spectra["rank"].max("point").values)
    np.testing.assert_array_equal(
        report["jacobian_energy_rank_99"].values, spectra["energy_rank_99"].max("point").values
    )
    assert not report["jacobian_lower_bound"].values.any()
    for number, block in enumerate((1, 2)):
        assert report["n_adapted"].values[number] == sum(m.n_parameters for m in plan.modules if m.block == block)


def test_a_report_holds_the_fisher_ranks(report: xr.Dataset, model: Any, plan: Any) -> None:
    found = fisher_ranks(model, labelled(), plan=plan)
    assert list(found) == [("encoder", 1), ("encoder", 2)]
    assert report["fisher_rank"].values.tolist() == [one.rank for one in found.values()]
    assert report["fisher_effective_rank"].values.tolist() == [one.effective_rank for one in found.values()]
    assert report["fisher_saturated"].values.tolist() == [float(one.saturated) for one in found.values()]
    assert report.attrs["n_labelled"] == 12


def test_verdicts_follow_from_the_numbers(report: xr.Dataset) -> None:
    rank = report["jacobian_rank"].sel(respect="both").values
    assert (report["bound_holds"].values == (report["dimension"].values <= rank)).all()
    assert (report["corollary_holds"].values == (report["rise"].values <= report["n_adapted"].values)).all()
    np.testing.assert_array_equal(report["gap"].values, rank - report["dimension"].values)
    assert rank.tolist() == [31, 31]
    assert report["vacuous"].values.tolist() == [True, True]


def test_a_dimension_above_the_rank_is_called_a_violation(model: Any, profile: xr.Dataset, plan: Any) -> None:
    false = profile.copy(deep=True)
    false["dimension"].loc[{"estimator": "mle"}] = [3.0, 40.0, np.nan]
    report = theory_report(model, false, TEXTS, plan=plan, estimator="mle", n_points=1, **PLAIN)
    np.testing.assert_array_equal(report["bound_holds"].values, [0.0, np.nan])
    np.testing.assert_array_equal(report["corollary_holds"].values, [1.0, np.nan])
    assert np.isnan(report["fisher_rank"].values).all()
    assert np.isnan(report["fisher_saturated"].values).all()


def test_without_adapted_parameters_the_corollary_is_undefined(model: Any, profile: xr.Dataset) -> None:
    report = theory_report(model, profile, TEXTS, labelled_batches=labelled(), estimator="twonn", n_points=1, **PLAIN)
    assert report["respect"].values.tolist() == ["input"]
    assert report["n_adapted"].values.tolist() == [0, 0]
    assert np.isnan(report["corollary_holds"].values).all()
    assert np.isnan(report["fisher_rank"].values).all()
    assert report.attrs["n_labelled"] == 0


def test_labelled_batches_serve_as_data_too(model: Any, profile: xr.Dataset, plan: Any) -> None:
    report = theory_report(
        model, profile, plan=plan, labelled_batches=iter(labelled()), estimator="mle", n_points=2, progress=False
    )
    assert report.attrs["n_points"] == 2
    assert report.attrs["n_labelled"] == 12


def test_probes_that_run_out_are_marked(model: Any, profile: xr.Dataset) -> None:
    report = theory_report(model, profile, TEXTS, estimator="mle", n_points=1, n_probes=4, **PLAIN)
    assert report["jacobian_rank"].values.tolist() == [[4, 4]]
    assert report["jacobian_lower_bound"].values.all()
    assert "≥4" in rendered(report)


def test_where_the_probes_ran_out_below_the_dimension_nothing_is_decided(model: Any, profile: xr.Dataset) -> None:
    options: dict[str, Any] = {"estimator": "mle", "n_points": 1, **PLAIN}
    report = theory_report(model, profile, TEXTS, n_probes=2, **options)
    assert (report["dimension"].values > 2).all()
    assert np.isnan(report["bound_holds"].values).all()
    assert rendered(report).count("undecided") == 2


def test_a_report_comes_back_from_its_file_as_it_was(report: xr.Dataset, tmp_path: Path) -> None:
    path = save_report(report, tmp_path / "report.nc")
    again = open_report(path)
    xr.testing.assert_identical(report, again)
    assert again["vacuous"].dtype == bool


def rendered(report: xr.Dataset) -> str:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    console.print(theory_table(report, "Theorems"))
    return console.export_text()


def test_the_table_fits_a_terminal_and_says_where_a_bound_is_vacuous(report: xr.Dataset) -> None:
    text = rendered(report)
    assert text.count("vacuous") == 2
    assert text.count("≤ 31") == 2
    assert "of the Jacobians at 3 examples, in both" in text
    assert "of 12 labelled examples" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_the_table_shows_violations_and_what_is_undefined(report: xr.Dataset) -> None:
    other = report.copy(deep=True)
    other["bound_holds"][0], other["corollary_holds"][1], other["dimension"][1] = 0.0, np.nan, np.nan
    other["bound_holds"][1], other["fisher_rank"][0] = np.nan, np.nan
    text = rendered(other)
    assert text.count("violated") == 1
    assert text.count("undecided") == 1
    assert "> 31" in text
    assert " – ? 31 " in text


def test_fisher_ranks_of_an_adapted_model_are_those_of_its_factors(model: Any, plan: Any) -> None:
    import peft

    from gelora.fisher import fisher_spectra

    adapted = peft.get_peft_model(copy.deepcopy(model), plan.to_lora_config("SEQ_CLS"))
    found = fisher_ranks(adapted, labelled())
    names = [name for name, _ in adapted.named_parameters() if "lora_" in name and ".layer.0." in name]
    expected = fisher_spectra(adapted, labelled(), {"all": names})["all"]
    np.testing.assert_allclose(found["encoder", 1].eigenvalues, expected.eigenvalues, rtol=1e-6, atol=1e-15)
    assert found["encoder", 1].n_parameters == sum(m.n_parameters for m in plan.modules if m.block == 1)


def test_fisher_ranks_leave_the_model_as_found(model: Any, plan: Any) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    names = list(dict(model.named_modules()))
    state = torch.random.get_rng_state()
    fisher_ranks(model, labelled(), plan=plan)
    assert list(dict(model.named_modules())) == names
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_profile_of_other_weights_is_warned_of_and_one_of_another_architecture_refused(
    profile: xr.Dataset,
) -> None:
    with pytest.warns(UserWarning, match="the profile was made with other weights"):
        theory_report(tiny_model("bert", seed=5), profile, TEXTS, estimator="mle", n_points=1, **PLAIN)
    with pytest.raises(ValueError, match="the profile was made for bert with 2 encoder"):
        theory_report(tiny_model("gpt2"), profile, TEXTS, estimator="mle", n_points=1, **PLAIN)


def spoilt(profile: xr.Dataset, change: Callable[[xr.Dataset], Any]) -> xr.Dataset:
    other = profile.copy(deep=True)
    return change(other)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda p: p, {}, r"`estimator` must be one of the profile's estimators \['twonn', 'mle'\], got None"),
        (lambda p: p, {"estimator": "mel"}, "got 'mel'; did you mean 'mle'"),
        (lambda p: p, {"estimator": "mle", "data": None}, "`data` must be given, or `labelled_batches`"),
        (
            lambda p: p.isel(layer=[0, 1]),
            {"estimator": "mle"},
            "`profile` lacks layer 2 of the encoder, which `model` has on this data",
        ),
        (
            lambda p: p.assign_attrs(architecture='{"depth": 3}'),
            {"estimator": "mle"},
            "`profile`: its attribute `architecture` is damaged",
        ),
    ],
)
def test_a_wrong_call_is_refused_with_the_remedy(
    model: Any, profile: xr.Dataset, change: Any, options: dict[str, Any], message: str
) -> None:
    arguments = {"data": TEXTS, "n_points": 1, **PLAIN, **options}
    with pytest.raises(ValueError, match=message):
        theory_report(model, spoilt(profile, change), **arguments)


def test_fisher_ranks_need_something_adapted(model: Any) -> None:
    with pytest.raises(ValueError, match="`plan` must say which matrices would be adapted, since `model` has no LoRA"):
        fisher_ranks(model, labelled())


def test_a_file_of_another_kind_or_cut_is_refused(report: xr.Dataset, profile: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`report` is not a gelora theory report"):
        save_report(profile, tmp_path / "no.nc")
    with pytest.raises(ValueError, match="`report` lacks the variable 'gap': it was cut or changed"):
        theory_table(report.drop_vars("gap"))
    with pytest.raises(FileNotFoundError, match="make one with `gelora theory --output`"):
        open_report(tmp_path / "none.nc")


@pytest.mark.slow
def test_the_theorems_hold_on_minilm_and_real_sentences(minilm: Path, data_dir: Path) -> None:
    from gelora.finetuning.labelled import labelled_batches

    headed, batches = labelled_batches(minilm, "sst2", data_dir / "sst2", n_examples=32)
    found = estimate(
        minilm, data_dir / "sst2" / "train.parquet", text_column="sentence", estimator="mle", n_samples=500,
        progress=False,
    )  # fmt: skip
    plan = plan_ranks(found, headed)
    report = theory_report(headed, found, plan=plan, labelled_batches=batches, n_points=1, progress=False)
    assert (report["bound_holds"].values == 1).all()
    assert (report["corollary_holds"].values == 1).all()
    ranks = report["jacobian_rank"].sel(respect="both").values
    assert ((ranks >= 380) & (ranks < 384)).all()  # the norm at the end of each block takes a direction away
    assert report["vacuous"].values.all()
    assert (report["fisher_rank"].values <= 32).all()
    assert (report["fisher_effective_rank"].values > 1).all()
