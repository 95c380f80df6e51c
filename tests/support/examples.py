"""A made-up profile and a made-up plan, for what draws and prints them."""

from dataclasses import replace

import numpy as np
import xarray as xr

from gelora.blocks import Architecture
from gelora.plan import ModuleRank, RankPlan
from gelora.plan_uncertainty import PlanUncertainty
from gelora.profile import COVARIATES, ESTIMATES, make_profile

NAN = float("nan")


def example_profile(
    dimension: list[list[float]], stacks: list[str] | None = None, *, intervals: bool = True
) -> xr.Dataset:
    values = np.array(dimension)
    n_estimators, n_layers = values.shape
    stacks = stacks or ["encoder"] * n_layers
    layers = [stacks[:i].count(stack) for i, stack in enumerate(stacks)]
    half = 0.4 if intervals else NAN
    estimates = {"dimension": values, "standard_error": np.where(np.isnan(values), NAN, 0.2)}
    estimates |= {"ci_low": values - half, "ci_high": values + 1.5 * half}
    assert estimates.keys() == set(ESTIMATES)
    return make_profile(
        estimators=["mle", "twonn", "ph"][:n_estimators],
        estimates=estimates,
        n_points=np.full(values.shape, 1994),
        undefined=np.where(np.isnan(values), "all points equal", ""),
        covariates={name: np.ones(n_layers) for name in COVARIATES},
        stacks=stacks,
        layers=layers,
        names=[f"block.{i}" for i in range(n_layers)],
        attributes={"model": "/home/models/tiny", "pooling": "mean", "n_texts": 2000},
    )


def example_plan(ranks: list[int], policy: str = "geometric", *, stack: str = "encoder", key_rank: int = 0) -> RankPlan:
    modules = tuple(
        ModuleRank(
            stack=stack,
            block=block,
            role=role,
            name=f"{block}.{role}",
            rank=key_rank or rank if role == "key" else rank,
            alpha=2.0 * rank,
            in_features=8,
            out_features=8,
        )
        for block, rank in enumerate(ranks, start=1)
        for role in ("query", "key", "value", "output")
        if rank
    )
    return RankPlan(
        policy=policy,
        modules=modules,
        architecture=Architecture(model_type="tiny", blocks={stack: len(ranks)}, width=8),
        weights_fingerprint="",
        scaling=2.0,
    )


def uncertain(plan: RankPlan, stability: float, *, n_settling: float = 31_910.8) -> RankPlan:
    """Return the plan with a made-up uncertainty: its last matrix is as stable as the whole."""
    count = len(plan.modules)
    least = [0.99] * (count - 1) + [stability]
    return replace(
        plan,
        uncertainty=PlanUncertainty(
            ranks=(1, 2),
            probabilities=((0.7, 0.3),) * count,
            expected=(1.3,) * count,
            module_stability=tuple(least),
            stability=stability,
            n_examples=2000,
            n_settling=n_settling,
            confidence=0.9,
            n_replicates=20,
        ),
    )
