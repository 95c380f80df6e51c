"""Intrinsic dimension of transformer hidden states, layer by layer, and the LoRA ranks that follow from it.

GeLoRA (geometric adaptive ranks, arXiv 2412.09250) is what ``plan_ranks`` and ``finetune`` do; GeoLoRA, one letter
apart (dynamical low-rank integration, arXiv 2410.18720), is another method.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gelora import plots as plots
    from gelora import theory as theory
    from gelora.citing import citation as citation
    from gelora.comparison import compare_profiles as compare_profiles
    from gelora.estimation import estimate as estimate
    from gelora.estimation import estimate_representations as estimate_representations
    from gelora.finetuning.runner import finetune as finetune
    from gelora.plan import RankPlan as RankPlan
    from gelora.profile import open_profile as open_profile
    from gelora.profile import save_profile as save_profile
    from gelora.ranks import plan_ranks as plan_ranks
    from gelora.registry import available_estimators as available_estimators
    from gelora.registry import make_estimator as make_estimator
    from gelora.representations import extract_representations as extract_representations
    from gelora.study import compare as compare
else:
    # Resolved on first use: `import gelora` loads neither torch nor transformers.
    _HOMES = {
        "compare": "gelora.study",
        "compare_profiles": "gelora.comparison",
        "estimate": "gelora.estimation",
        "estimate_representations": "gelora.estimation",
        "extract_representations": "gelora.representations",
        "open_profile": "gelora.profile",
        "save_profile": "gelora.profile",
        "citation": "gelora.citing",
        "plan_ranks": "gelora.ranks",
        "RankPlan": "gelora.plan",
        "finetune": "gelora.finetuning.runner",
        "available_estimators": "gelora.registry",
        "make_estimator": "gelora.registry",
    }

    def __getattr__(name):
        if name in ("plots", "theory"):
            return import_module(f"gelora.{name}")
        if name == "__version__":
            from importlib.metadata import version

            return version("gelora")
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'gelora' has no attribute {name!r}")

    def __dir__():
        return [*__all__, "__version__"]


__all__ = [
    "RankPlan",
    "available_estimators",
    "citation",
    "compare",
    "compare_profiles",
    "estimate",
    "estimate_representations",
    "extract_representations",
    "finetune",
    "make_estimator",
    "open_profile",
    "plan_ranks",
    "plots",
    "save_profile",
    "theory",
]
