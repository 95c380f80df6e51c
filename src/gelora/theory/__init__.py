"""Tests of GeLoRA's theorems on a model: ranks of Jacobians and of the Fisher information, beside the dimensions."""

from importlib import import_module
from typing import TYPE_CHECKING

from gelora.theory.adapted import fisher_ranks as fisher_ranks
from gelora.theory.jacobians import jacobian_spectra as jacobian_spectra
from gelora.theory.local import local_dimensionality as local_dimensionality
from gelora.theory.report import open_report as open_report
from gelora.theory.report import save_report as save_report
from gelora.theory.report import theory_report as theory_report
from gelora.theory.report import theory_table as theory_table

if TYPE_CHECKING:
    from gelora.theory.callback import GapCallback as GapCallback
else:

    def __getattr__(name):
        # A subclass of transformers' own class: importing that takes seconds, and only training needs it.
        if name == "GapCallback":
            return import_module("gelora.theory.callback").GapCallback
        raise AttributeError(f"module 'gelora.theory' has no attribute {name!r}")


__all__ = [
    "GapCallback",
    "fisher_ranks",
    "jacobian_spectra",
    "local_dimensionality",
    "open_report",
    "save_report",
    "theory_report",
    "theory_table",
]
