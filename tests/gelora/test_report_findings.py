"""What a report warns of is in the profile, the plan or the comparison, and nothing else is warned of."""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from comparisons import example_comparison
from examples import example_plan, example_profile, uncertain
from gelora.plan_uncertainty import PlanScales
from gelora.report import comparison_findings, plan_findings, profile_findings
from gelora.report.finding import SEVERITIES, Finding

NAN = float("nan")


def quiet_profile(dimension: list[list[float]] | None = None, **attributes: object) -> xr.Dataset:
    """A profile of which nothing is to be said but that it has no replicates."""
    return example_profile(dimension or [[5.0, 7.0, 6.0]]).assign_attrs(**attributes)


def found(findings: list[Finding], kind: str) -> Finding:
    (one,) = [finding for finding in findings if finding.kind == kind]
    return one


def kinds(findings: list[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def test_of_a_sound_profile_nothing_is_said_but_that_it_has_no_replicates() -> None:
    assert kinds(profile_findings(quiet_profile())) == ["no-replicates"]


def test_what_is_no_profile_is_refused() -> None:
    with pytest.raises(ValueError, match="not a gelora profile"):
        profile_findings(xr.Dataset())


def test_an_undefined_layer_is_a_problem_that_names_layer_reason_and_the_pooling_to_change() -> None:
    profile = quiet_profile([[NAN, 7.0, 6.0]], pooling="cls")
    one = found(profile_findings(profile), "undefined")
    assert one.severity == "problem"
    assert "layer 0" in one.what
    assert "All points equal." in one.what
    assert "mean pooling" in one.remedy
    assert "mean pooling" not in found(profile_findings(quiet_profile([[5.0, NAN, 6.0]])), "undefined").remedy


def test_dimensions_above_log2_of_the_points_are_beyond_what_these_can_tell() -> None:
    assert "ceiling" not in kinds(profile_findings(quiet_profile([[5.0, 10.9, 6.0]])))  # log₂ 1,994 = 10.96
    one = found(profile_findings(quiet_profile([[5.0, 11.0, 12.0]])), "ceiling")
    assert "layers 1 and 2" in one.what
    assert "1,994 points" in one.what
    assert "calibrated" in one.remedy


def test_batches_tell_as_many_dimensions_as_the_points_of_one_batch_and_spectra_have_no_such_bound() -> None:
    def with_class(name: str, **options: object) -> xr.Dataset:
        described = {"mle": {"class": name, "options": options}}
        return quiet_profile([[5.0, 10.5, 6.0]], estimators=json.dumps(described))

    assert "ceiling" not in kinds(
        profile_findings(with_class("gelora_estimators.minibatch.MiniBatch", batch_size=1500))
    )
    assert "ceiling" in kinds(profile_findings(with_class("gelora_estimators.minibatch.MiniBatch", batch_size=1000)))
    high = quiet_profile(
        [[50.0, 60.0]], estimators=json.dumps({"mle": {"class": "gelora_estimators.spectral.Spectral"}})
    )
    assert "ceiling" not in kinds(profile_findings(high))


@pytest.mark.parametrize(
    ("cut", "severity"),
    [(20, "note"), (500, "caution")],
)
def test_cut_texts_are_a_note_where_few_and_a_caution_where_many(cut: int, severity: str) -> None:
    one = found(profile_findings(quiet_profile(n_truncated=cut, max_length=512)), "truncated")
    assert one.severity == severity
    assert f"{cut} of 2,000 texts" in one.what
    assert "512 tokens" in one.what
    assert "max_length" in one.remedy


@pytest.mark.parametrize(("copies", "severity"), [(6, "note"), (800, "caution")])
def test_copies_of_texts_are_counted(copies: int, severity: str) -> None:
    one = found(profile_findings(quiet_profile(text_copies_removed=copies)), "text-copies")
    assert one.severity == severity
    assert f"{copies} of 2,000" in one.what


def test_copies_of_points_are_counted_and_unknown_counts_are_none() -> None:
    profile = quiet_profile([[5.0, 7.0, 6.0], [5.0, 6.0, 6.0]])
    counts = np.array([[0.0, 3.0, 0.0], [NAN, NAN, NAN]])
    one = found(profile_findings(profile.assign(n_copies=(("estimator", "layer"), counts))), "point-copies")
    assert "3 points" in one.what
    assert "layer 1" in one.what
    none = profile.assign(n_copies=(("estimator", "layer"), np.full((2, 3), NAN)))
    assert "point-copies" not in kinds(profile_findings(none))


def test_a_bent_line_and_what_else_an_estimator_warned_of_are_told_with_the_layers() -> None:
    warned = {
        "ph": [
            {"where": "layer 1 of the encoder", "category": "UserWarning", "message": "the line behind it bends: …"},
            {"where": "layer 2 of the encoder", "category": "UserWarning", "message": "the line behind it bends: …"},
        ],
        "gride": [{"where": "layer 0 of the encoder", "category": "UserWarning", "message": "no plateau"}],
        "twonn": [
            {"where": "layer 0 of the encoder", "category": "InformationCeilingWarning", "message": "open above"}
        ],
    }
    findings = profile_findings(quiet_profile(estimator_warnings=json.dumps(warned)))
    assert "layers 1 and 2" in found(findings, "bent-line").what
    assert "no plateau" in found(findings, "estimator").what
    assert "open above" in found(findings, "ceiling").what


def test_warnings_of_a_strange_form_are_left_out_not_fatal() -> None:
    for strange in ([], {"ph": "text"}, {"ph": [1, 2]}, {"ph": [{"where": 3}]}):
        findings = profile_findings(quiet_profile(estimator_warnings=json.dumps(strange)))
        assert "bent-line" not in kinds(findings)


def test_a_search_that_misses_neighbours_is_named_with_its_worst_recall() -> None:
    recall = (("estimator", "layer"), np.array([[0.99, 0.62, NAN]]))
    one = found(profile_findings(quiet_profile().assign(neighbor_recall=recall)), "recall")
    assert "62%" in one.what
    assert "layer 1" in one.what
    assert "exact" in one.remedy


def test_points_that_are_not_finite_are_a_problem() -> None:
    one = found(profile_findings(quiet_profile(n_nonfinite=json.dumps({"block.1": 7}))), "nonfinite")
    assert one.severity == "problem"
    assert "7 points of block.1" in one.what


def test_estimators_that_differ_by_half_are_named_with_their_numbers() -> None:
    one = found(profile_findings(quiet_profile([[5.0, 9.0], [5.5, 4.0]])), "disagreement")
    assert "mle 9.0" in one.what
    assert "twonn says 4.0" in one.what
    assert "disagreement" not in kinds(profile_findings(quiet_profile([[5.0, 6.0], [5.5, 5.0]])))


def test_few_points_are_a_caution() -> None:
    profile = quiet_profile()
    profile["n_points"][:] = 400
    assert "400 points" in found(profile_findings(profile), "few-points").what


def test_a_plan_less_stable_than_asked_is_told_with_the_examples_that_would_settle_it() -> None:
    one = found(plan_findings(uncertain(example_plan([2, 3]), 0.4)), "unstable-ranks")
    assert "0.40" in one.what
    assert "block 2 of the encoder" in one.what
    assert "32,000 examples" in one.remedy
    never = found(plan_findings(uncertain(example_plan([2, 3]), 0.4, n_settling=np.inf)), "unstable-ranks")
    assert "rounding='round'" in never.remedy
    assert "unstable-ranks" not in kinds(plan_findings(uncertain(example_plan([2, 3]), 0.95)))


def test_a_plan_that_moves_with_the_scale_says_how_many_matrices_move() -> None:
    plan = example_plan([2, 3])
    ranks = tuple(module.rank for module in plan.modules)
    scales = PlanScales(
        scales=(2.0, 64.0), ranks=(ranks, (1, *ranks[1:])), stabilities=(NAN, NAN), taken="2", reason="…"
    )
    one = found(plan_findings(replace(plan, by_scale=scales)), "scale-decides")
    assert "1 of 8 matrices" in one.what
    still = replace(scales, ranks=(ranks, ranks))
    assert "scale-decides" not in kinds(plan_findings(replace(plan, by_scale=still)))


def test_a_geometric_plan_of_one_rank_is_plain_lora() -> None:
    assert "uniform-ranks" in kinds(plan_findings(example_plan([2, 2])))
    assert "uniform-ranks" not in kinds(plan_findings(example_plan([2, 2], "uniform")))


def test_a_plan_made_from_other_data_or_weights_than_the_profile_beside_it_is_told() -> None:
    plan = replace(example_plan([2, 3]), provenance={"profile": {"data_fingerprint": "a"}}, weights_fingerprint="w")
    same = quiet_profile(data_fingerprint="a", weights_fingerprint="w")
    assert "another-profile" not in kinds(plan_findings(plan, same))
    assert "other data" in found(plan_findings(plan, same.assign_attrs(data_fingerprint="b")), "another-profile").what
    weights = found(plan_findings(plan, same.assign_attrs(weights_fingerprint="v")), "another-profile")
    assert "other weights" in weights.what


def test_a_comparison_tells_of_runs_that_failed_few_seeds_and_no_difference() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(0.7, 0.05, size=(2, 3, 3))
    scores[0, 0, 0] = NAN
    findings = comparison_findings(example_comparison(scores))
    assert kinds(findings) == ["lacking-runs", "few-seeds", "no-difference"]
    assert findings[0].what.startswith("1 of 18")
    apart = np.repeat(np.array([0.5, 0.9])[None, :, None], 6, axis=2) + rng.normal(0, 0.001, size=(1, 2, 6))
    assert comparison_findings(example_comparison(apart)) == []


def test_without_a_test_nothing_is_said_of_differences() -> None:
    rng = np.random.default_rng(0)
    one_seed = rng.normal(0.7, 0.05, size=(2, 3, 1))
    assert kinds(comparison_findings(example_comparison(one_seed))) == ["few-seeds"]
    one_method = rng.normal(0.7, 0.05, size=(2, 1, 6))
    assert kinds(comparison_findings(example_comparison(one_method))) == []


def test_methods_that_no_test_tells_apart_are_not_called_equal() -> None:
    scores = np.random.default_rng(0).normal(0.7, 0.05, size=(2, 3, 5))
    one = found(comparison_findings(example_comparison(scores)), "no-difference")
    assert one.remedy == "These seeds do not tell the methods apart; give more seeds."


def test_a_difference_of_the_averages_alone_is_told_as_such() -> None:
    # What one task gains by the seed another loses: each task is noisy, their average is not.
    noise = np.array([[[0.0] * 5, [0.1, -0.1, 0.05, -0.06, 0.01]], [[0.0] * 5, [-0.1, 0.1, -0.05, 0.06, -0.01]]])
    shift = np.array([0.0, 0.01])[None, :, None] + np.array([[[0.0] * 5, [1e-3, 0, -1e-3, 5e-4, 0]]])
    findings = comparison_findings(example_comparison(0.7 + noise + shift, methods=["lora", "gelora"]))
    assert kinds(findings) == ["average-differs"]
    assert "in the average over the tasks gelora does (smallest q = " in findings[0].what
    assert "Speak of the average alone" in findings[0].remedy


def test_rounding_to_the_nearest_is_recommended_to_plans_that_do_not_yet() -> None:
    for n_settling in (2e4, np.inf):
        noisy = uncertain(example_plan([2, 3]), 0.4, n_settling=n_settling)
        up, nearest = (replace(noisy, provenance={"options": {"rounding": way}}) for way in ("ceil", "round"))
        assert "rounding='round'" in found(plan_findings(up), "unstable-ranks").remedy
        assert "rounding=" not in found(plan_findings(nearest), "unstable-ranks").remedy


def test_a_larger_budget_is_advised_where_the_plan_has_one() -> None:
    plan = example_plan([2, 2])
    assert "budget" not in found(plan_findings(plan), "uniform-ranks").remedy
    bought = replace(plan, provenance={"options": {"budget": 4000}})
    assert "larger budget" in found(plan_findings(bought), "uniform-ranks").remedy


def test_a_layer_that_several_warnings_speak_of_is_named_once() -> None:
    entries = [
        {"where": f"layer {layer} of the encoder", "category": "UserWarning", "message": message}
        for layer in (0, 1)
        for message in ("no plateau", "few scales")
    ]
    one = found(profile_findings(quiet_profile(estimator_warnings=json.dumps({"mle": entries}))), "estimator")
    assert "warned in layers 0 and 1, first" in one.what


def test_a_dimension_of_zero_is_no_factor_of_disagreement() -> None:
    findings = profile_findings(quiet_profile([[0.0, 6.0], [5.5, 5.0]]))
    assert "disagreement" not in kinds(findings)
    one = found(profile_findings(quiet_profile([[0.0, 9.0], [5.5, 4.0]])), "disagreement")
    assert "up to 2.2: in layer 1" in one.what


def test_findings_come_with_the_gravest_first() -> None:
    profile = quiet_profile([[NAN, 50.0, 6.0]], text_copies_removed=3)
    order = [SEVERITIES.index(finding.severity) for finding in profile_findings(profile)]
    assert order == sorted(order)
    assert set(order) == {0, 1, 2}
