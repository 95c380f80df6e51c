"""Policies: what each promises about ranks and budgets, on real module shapes."""

import io
import math
import warnings

import numpy as np
import pytest
import torch

from gelora.estimation import estimate
from gelora.plan import RankPlan
from gelora.policies import POLICIES, RankProblem
from gelora.ranks import plan_ranks
from gelora.tables import plan_table, scale_table, stability_table
from tiny_models import WIDTH, ragged_batch, tiny_model

UNIT = 4 * 2 * WIDTH  # one rank of one block of the tiny BERT
CONTROLS = ("proportional", "budget", "random", "shuffled", "reversed", "uniform")


def with_dimensions(model, dimensions, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        profile = estimate(model, ragged_batch(120), estimator="mle(k1=3, k2=5)", progress=False, **options)
    found = profile.assign(dimension=(("estimator", "layer"), np.array([dimensions], dtype=float)))
    if "dimension_replicates" in found:
        shift = found["dimension"] - profile["dimension"]
        found["dimension_replicates"] = profile["dimension_replicates"] + shift
    return found


@pytest.fixture(scope="module")
def deep():
    """A BERT of six blocks."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    return BertModel(
        BertConfig(hidden_size=WIDTH, num_hidden_layers=6, num_attention_heads=4, intermediate_size=48, vocab_size=64)
    ).eval()


@pytest.fixture(scope="module")
def profile(deep):
    return with_dimensions(deep, [4.0, 6.3, 5.0, 5.5, 8.6, 8.0, 8.9])  # ranks 4, 1, 2, 5, 1, 2


def ranks(plan):
    return list(plan.block_ranks.values())


@pytest.mark.parametrize("policy", CONTROLS)
@pytest.mark.parametrize("budget", [6 * UNIT, 15 * UNIT, 15 * UNIT + 17, 61 * UNIT - 1])
def test_every_policy_meets_a_budget_to_less_than_one_rank_and_never_above(deep, profile, policy, budget):
    plan = plan_ranks(profile, deep, policy, budget=budget)
    assert budget - UNIT < plan.n_parameters <= budget
    assert min(ranks(plan)) >= 1


def test_controls_cost_what_the_geometric_ranks_cost_where_no_budget_is_given(deep, profile):
    geometric = plan_ranks(profile, deep)
    assert ranks(geometric) == [4, 1, 2, 5, 1, 2]
    for policy in ("proportional", "budget", "random", "shuffled", "reversed"):
        assert plan_ranks(profile, deep, policy).n_parameters == geometric.n_parameters
    assert ranks(plan_ranks(profile, deep, "budget")) == ranks(geometric)
    assert ranks(plan_ranks(profile, deep, "reversed")) == ranks(geometric)[::-1]
    shuffled = [ranks(plan_ranks(profile, deep, "shuffled", seed=seed)) for seed in range(6)]
    assert all(sorted(one) == sorted(ranks(geometric)) and one != ranks(geometric) for one in shuffled)
    assert len(set(map(tuple, shuffled))) > 3
    randoms = [tuple(ranks(plan_ranks(profile, deep, "random", seed=seed))) for seed in range(6)]
    assert len(set(randoms)) > 3
    assert randoms[0] == tuple(ranks(plan_ranks(profile, deep, "random", seed=0)))


def test_geometric_increments_scale_and_proportional_ranks_follow_the_dimension(deep, profile):
    scaled = plan_ranks(profile, deep, "budget", budget=(6 + 9 * 3) * UNIT)
    assert ranks(scaled) == [10, 1, 4, 13, 1, 4]
    dimensions = np.array([6.3, 5.0, 5.5, 8.6, 8.0, 8.9])
    found = np.array(ranks(plan_ranks(profile, deep, "proportional", budget=90 * UNIT)))
    assert found.sum() == 90
    assert np.abs(found - 90 * dimensions / dimensions.sum()).max() < 1


def test_a_function_of_ones_own_is_a_policy(deep, profile):
    def first_only(problem: RankProblem):
        return {key: 5 if key[1] == 1 else 1 for key in problem.costs}

    plan = plan_ranks(profile, deep, first_only)
    assert ranks(plan) == [5, 1, 1, 1, 1, 1]
    assert plan.policy.endswith("first_only")
    assert ranks(plan_ranks(None, deep, first_only)) == [5, 1, 1, 1, 1, 1]
    by_matrix = plan_ranks(
        profile, deep, lambda problem: {m.key: 3 if m.role == "value" else 2 for m in problem.matrices}
    )
    assert {module.role: module.rank for module in by_matrix.modules} == {"query": 2, "key": 2, "value": 3, "output": 2}
    with pytest.raises(
        ValueError, match=r"must return a whole rank for every .* got None for \('encoder', 1, 'query'\)"
    ):
        plan_ranks(profile, deep, lambda problem: {})
    with pytest.raises(ValueError, match=r"got 1\.5"):
        plan_ranks(profile, deep, lambda problem: dict.fromkeys(problem.costs, 1.5))


def test_several_profiles_join_by_the_largest_rise_or_the_mean(deep, profile):
    other = with_dimensions(deep, [4.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0])  # ranks 1, 5, 1, 1, 1, 1
    assert ranks(plan_ranks([profile, other], deep)) == [4, 5, 2, 5, 1, 2]
    # Rises (2.3 + 0)/2, (0 + 4)/2, 0.5/2, 3.1/2, 0, 0.9/2, rounded up, plus one.
    plan = plan_ranks([profile, other], deep, combine="mean")
    assert ranks(plan) == [3, 3, 2, 3, 1, 2]
    assert len(plan.provenance["more_profiles"]) == 1
    assert ranks(plan_ranks([profile], deep)) == ranks(plan_ranks(profile, deep))
    with pytest.raises(ValueError, match="must be joined by one estimator, got .*'mle.*'twonn'"):
        plan_ranks([profile, other.assign_coords(estimator=["twonn"])], deep)
    with pytest.raises(ValueError, match="must have one pooling, got .'last', 'mean'."):
        plan_ranks([profile, other.assign_attrs(pooling="last")], deep)
    with pytest.raises(ValueError, match="`profile` must hold at least one profile, or be None"):
        plan_ranks([], deep)


def test_other_targets_get_the_rank_of_their_block(deep, profile):
    plan = plan_ranks(profile, deep, targets="all-linear")
    assert {module.role for module in plan.modules} == {
        "query", "key", "value", "output", "intermediate.dense", "output.dense",
    }  # fmt: skip
    assert all(module.rank == plan.block_ranks[module.stack, module.block] for module in plan.modules)
    assert plan.check(deep).n_parameters == plan.n_parameters


def test_fisher_ranks_follow_the_effective_rank_of_the_gradients(deep):
    from transformers import BertForSequenceClassification

    model = BertForSequenceClassification(deep.config)
    torch.manual_seed(1)
    batch = {**ragged_batch(24), "labels": torch.arange(24) % 2}
    plan = plan_ranks(None, model, "fisher", data=[batch])
    assert len({module.rank for module in plan.modules}) > 1
    assert max(module.rank for module in plan.modules) <= 24
    budget = 30 * UNIT
    within = plan_ranks(None, model, "fisher", data=[batch], budget=budget)
    assert budget - 2 * WIDTH < within.n_parameters <= budget
    with pytest.raises(ValueError, match="policy='fisher' runs the model: `data` must be given"):
        plan_ranks(None, model, "fisher", budget=budget)


def test_eva_ranks_are_a_policy_within_a_budget(deep):
    batches = [ragged_batch(64, seed=seed) for seed in range(3)]
    plan = plan_ranks(None, deep, "eva", data=batches, budget=12 * UNIT)
    assert 12 * UNIT - UNIT < plan.n_parameters <= 12 * UNIT


def test_policies_that_need_a_profile_or_a_budget_say_so(deep):
    for policy in ("geometric", "proportional", "budget", "shuffled", "reversed", "random"):
        with pytest.raises(ValueError, match="`profile` must be given for policy="):
            plan_ranks(None, deep, policy)
    assert plan_ranks(None, deep, "random", budget=20 * UNIT).n_parameters == 20 * UNIT
    assert set(POLICIES) >= {*CONTROLS, "geometric", "recommended", "eva", "fisher"}


@pytest.fixture(scope="module")
def resampled(deep):
    return with_dimensions(deep, [4.0, 6.3, 5.0, 5.5, 8.6, 8.0, 8.9], n_replicates=40)


def test_a_plan_with_replicates_carries_its_distribution(deep, resampled, tmp_path):
    with pytest.warns(UserWarning, match=r"another draw of 12\d examples would give the same ranks with probability"):
        plan = plan_ranks(resampled, deep, confidence=0.999)
    table = plan.probabilities
    assert table.dims == ("module", "rank")
    assert table.sum("rank").values == pytest.approx(1.0)
    assert (table["rank"].values >= 1).all()
    assert 0 <= plan.stability <= plan.module_stability.values.min() + 1e-12
    assert (plan.expected_ranks.values >= 1).all()
    assert plan.expected_ranks.values == pytest.approx((table * table["rank"]).sum("rank").values, abs=0.02)
    assert RankPlan.load(plan.save(tmp_path / "plan.json")) == plan
    assert plan_ranks(resampled, deep, confidence=0.01).uncertainty.n_settling == plan.uncertainty.n_examples


def test_probabilities_are_those_of_normal_errors_and_pairing(deep, resampled):
    """Replicates of known spread: a rise with normal error has the normal probabilities of its steps."""
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.normal(scale=0.3, size=(400, 1)), 7, axis=1)  # common to all layers: no rise moves
    own = rng.normal(scale=0.4, size=400)
    values = resampled["dimension"].values[0] + noise
    values[:, 4] += own  # layer 4 alone: rise of block 4 is 3.1
    centred = np.stack([values, 2 * resampled["dimension"].values[0] - values], axis=1).reshape(-1, 7)
    made = resampled.drop_dims("scale").drop_vars("dimension_replicates")
    made["dimension_replicates"] = (("estimator", "layer", "replicate"), centred.T[None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plan = plan_ranks(made.assign_attrs(n_rows=120, replicate_rows=60), deep, roles=["query"])
    from scipy.stats import norm

    table = plan.probabilities.isel(module=3)
    for rank in (3, 4, 5, 6):
        step = norm.cdf(rank - 1, 3.1, 0.4) - norm.cdf(rank - 2, 3.1, 0.4)
        assert float(table.sel(rank=rank)) == pytest.approx(step, abs=0.03)
    assert plan.module_stability.values[[0, 1, 2, 5]] == pytest.approx(1.0)  # the common noise cancels
    assert plan.module_stability.values[3] < 0.8


def test_statistics_of_the_rises_move_the_ranks_their_way(deep, resampled):
    noise = np.random.default_rng(1).normal(scale=0.35, size=(200, 7))
    centre = resampled["dimension"].values[0]
    pairs = np.stack([centre + noise, centre - noise], axis=1).reshape(-1, 7)
    made = resampled.drop_dims("scale").drop_vars("dimension_replicates")
    made["dimension_replicates"] = (("estimator", "layer", "replicate"), pairs.T[None])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = {
            name: ranks(plan_ranks(made, deep, statistic=name, confidence=0.95))
            for name in ("point", "mean", "median", "upper")
        }
    # Rises 2.3, −1.3, 0.5, 3.1, −0.6, 0.9 with a standard error of 0.5 each: the upper quantile lies 0.8 above.
    assert found["point"] == found["median"] == [4, 1, 2, 5, 1, 2]
    assert found["upper"] == [5, 1, 3, 5, 2, 3]
    assert found["mean"] == [4, 2, 2, 5, 2, 2]  # the mean of the positive part is above 0 even where a fall is likely


def test_a_multiscale_estimator_gives_a_plan_at_every_scale(deep, resampled):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plan = plan_ranks(resampled, deep)
        single = {scale: plan_ranks(resampled, deep, scale=scale) for scale in (3.0, 5.0)}
    table = plan.ranks_by_scale
    assert table.dims == ("scale", "module")
    assert table["scale"].values.tolist() == [3.0, 4.0, 5.0]
    for scale, one in single.items():
        assert table.sel(scale=scale).values.tolist() == [module.rank for module in one.modules]
        assert one.by_scale.taken == f"{scale:g}"
        assert float(table["stability"].sel(scale=scale)) == pytest.approx(one.stability, abs=0.05)
    assert plan.by_scale.taken == "the estimator's own number"


def test_tables_show_probabilities_and_scales(deep, resampled):
    from rich.console import Console

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plan = plan_ranks(resampled, deep)
    console = Console(width=120, record=True, file=io.StringIO())
    for table in (stability_table(plan), scale_table(plan), plan_table({"it": plan})):
        console.print(table)
    text = console.export_text()
    assert "another draw of" in text
    assert "taken: the estimator's own number" in text
    bare = plan_ranks(with_dimensions(deep, [4.0] * 7).drop_dims("scale"), deep)
    with pytest.raises(ValueError, match="`plan` has no probabilities"):
        stability_table(bare)
    with pytest.raises(ValueError, match="`plan` has one scale only"):
        scale_table(bare)
    assert math.isnan(bare.stability)
    assert bare.probabilities is bare.module_stability is bare.expected_ranks is bare.ranks_by_scale is None


def narrow_keys(rises=7.5):
    """A decoder whose key and value have a far smaller side than its query and output, and a steep profile of it."""
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, num_attention_heads=8, num_key_value_heads=1, num_hidden_layers=2, intermediate_size=48,
        vocab_size=64, pad_token_id=0,
    )  # fmt: skip
    model = LlamaModel(config).eval()
    return model, with_dimensions(model, [2.0, 2.0 + rises, 3.0 + rises], n_replicates=20)


@pytest.mark.parametrize("policy", ["uniform", "budget", "proportional", "random", "shuffled", "reversed"])
@pytest.mark.parametrize("budget", [1500, 3000, 3801])
def test_matrices_at_their_side_leave_the_budget_to_the_others(policy, budget):
    model, profile = narrow_keys()
    plan = plan_ranks(profile.drop_vars("dimension_replicates"), model, policy, budget=budget)
    unit = 2 * (2 * 32 + 32 + 4)  # one rank of query, key, value and output
    assert budget - unit < plan.n_parameters <= budget
    assert all(module.rank <= min(module.in_features, module.out_features) for module in plan.modules)


def test_probabilities_are_those_of_the_plan_where_matrices_have_different_sides():
    model, profile = narrow_keys()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plan = plan_ranks(profile, model)
    assert {module.role: module.rank for module in plan.modules if module.block == 1} == {
        "query": 9, "key": 4, "value": 4, "output": 9,
    }  # fmt: skip
    for module in plan.modules:
        assert float(plan.probabilities.sel(module=module.name, rank=module.rank)) > 0.1
    plain = profile.drop_vars("dimension_replicates")
    assert plan_ranks(plain, model, "budget").n_parameters == plan.n_parameters


def test_uniform_takes_the_cost_of_the_geometric_ranks_and_the_stacks_that_were_read(deep, profile):
    geometric = plan_ranks(profile, deep)
    assert plan_ranks(profile, deep, "uniform").n_parameters == geometric.n_parameters
    two_stacks = tiny_model("t5")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        encoder = estimate(two_stacks, ragged_batch(60), estimator="mle(k1=3, k2=5)", progress=False)
    for policy in ("uniform", "random"):
        plan = plan_ranks(encoder, two_stacks, policy, budget=6000)
        assert {module.stack for module in plan.modules} == {"encoder"}


def test_a_bound_on_eva_ranks_leaves_the_budget_to_other_matrices(deep):
    batches = [ragged_batch(64, seed=seed) for seed in range(3)]
    plan = plan_ranks(None, deep, "eva", data=batches, budget=15 * UNIT, maximum=3)
    assert max(module.rank for module in plan.modules) <= 3
    assert 15 * UNIT - 2 * WIDTH < plan.n_parameters <= 15 * UNIT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 2, "estimator": "mle"}, "`estimator` goes with a profile, and none is given"),
        ({"rank": 2, "scale": 3.0}, "`scale` goes with a profile"),
        ({"rank": 2, "statistic": "mean"}, "`statistic` goes with a profile"),
        ({"rank": 5, "maximum": 4}, "`rank` must not exceed `maximum`, got 5 and 4"),
    ],
)
def test_options_that_would_do_nothing_are_refused(deep, options, message):
    with pytest.raises(ValueError, match=message):
        plan_ranks(None, deep, "uniform", **options)


def test_a_profile_whose_pairs_of_replicates_were_cut_is_refused(deep, resampled):
    with pytest.raises(ValueError, match="`profile` has 5 replicates, but they come in pairs"):
        plan_ranks(resampled.isel(replicate=slice(0, 5)), deep)
    bare = resampled.copy()
    del bare.attrs["n_rows"]
    with pytest.raises(ValueError, match="`profile` lacks the attributes `n_rows` and `replicate_rows`"):
        plan_ranks(bare, deep)
