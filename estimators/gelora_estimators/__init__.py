"""Estimators of intrinsic dimension: points in, number out.

Importing this package imports NumPy only. Estimators, search and tests are loaded when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gelora_estimators.points import DistinctPoints as DistinctPoints
from gelora_estimators.points import as_points as as_points
from gelora_estimators.points import distinct_points as distinct_points
from gelora_estimators.protocol import DegenerateCloudError as DegenerateCloudError
from gelora_estimators.protocol import DimensionEstimate as DimensionEstimate
from gelora_estimators.protocol import DimensionEstimator as DimensionEstimator

if TYPE_CHECKING:
    from gelora_estimators.calibration import CalibratedEstimator as CalibratedEstimator
    from gelora_estimators.calibration import InformationCeilingWarning as InformationCeilingWarning
    from gelora_estimators.calibration import calibrated as calibrated
    from gelora_estimators.calibration_curve import CalibrationCurve as CalibrationCurve
    from gelora_estimators.corrint import CorrelationIntegral as CorrelationIntegral
    from gelora_estimators.gride import Gride as Gride
    from gelora_estimators.homology import persistence_diagram as persistence_diagram
    from gelora_estimators.homology import spanning_tree_graph as spanning_tree_graph
    from gelora_estimators.local import LocalDimension as LocalDimension
    from gelora_estimators.minibatch import MiniBatch as MiniBatch
    from gelora_estimators.mle import MLE as MLE
    from gelora_estimators.neighbors import Neighbors as Neighbors
    from gelora_estimators.neighbors import count_within as count_within
    from gelora_estimators.neighbors import nearest_distances as nearest_distances
    from gelora_estimators.ph import PersistentHomology as PersistentHomology
    from gelora_estimators.scale_choice import choose_scale as choose_scale
    from gelora_estimators.skdim import ScikitDimension as ScikitDimension
    from gelora_estimators.sklearn_adapter import SklearnEstimator as SklearnEstimator
    from gelora_estimators.spanning_tree import SpanningTree as SpanningTree
    from gelora_estimators.spanning_tree import minimum_spanning_tree as minimum_spanning_tree
    from gelora_estimators.spanning_tree import pairwise_distances as pairwise_distances
    from gelora_estimators.spanning_tree import spanning_tree_lengths as spanning_tree_lengths
    from gelora_estimators.spectral import Spectral as Spectral
    from gelora_estimators.testing import EstimatorContractError as EstimatorContractError
    from gelora_estimators.testing import check_estimator as check_estimator
    from gelora_estimators.twonn import TwoNN as TwoNN
else:
    _HOME = {
        "CalibratedEstimator": "calibration",
        "InformationCeilingWarning": "calibration",
        "calibrated": "calibration",
        "CalibrationCurve": "calibration_curve",
        "CorrelationIntegral": "corrint",
        "Gride": "gride",
        "persistence_diagram": "homology",
        "spanning_tree_graph": "homology",
        "LocalDimension": "local",
        "MiniBatch": "minibatch",
        "MLE": "mle",
        "Neighbors": "neighbors",
        "count_within": "neighbors",
        "nearest_distances": "neighbors",
        "PersistentHomology": "ph",
        "choose_scale": "scale_choice",
        "ScikitDimension": "skdim",
        "SklearnEstimator": "sklearn_adapter",
        "SpanningTree": "spanning_tree",
        "minimum_spanning_tree": "spanning_tree",
        "pairwise_distances": "spanning_tree",
        "spanning_tree_lengths": "spanning_tree",
        "Spectral": "spectral",
        "EstimatorContractError": "testing",
        "check_estimator": "testing",
        "TwoNN": "twonn",
    }

    def __getattr__(name):
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

    def __dir__():
        return sorted({*globals(), *_HOME})
