"""The estimators of scikit-dimension, called as ``skdim:<name>``."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gelora_estimators.neighbors import nearest_distances
from gelora_estimators.options import check_choice
from gelora_estimators.points import distinct_points
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, FloatArray

ESTIMATORS = (
    "CorrInt",
    "DANCo",
    "ESS",
    "FisherS",
    "GRIDE",
    "KNN",
    "MADA",
    "MLE",
    "MOM",
    "MiND_ML",
    "PH",
    "TLE",
    "TwoNN",
    "lPCA",
)
_FEWEST_POINTS = 10
_OTHER_INPUT = {"DM", "dist", "fit_explained_variance", "precomputed_knn_arrays"}  # say that X holds no points


@dataclass(frozen=True, kw_only=True, slots=True)
class ScikitDimension:
    """One of scikit-dimension's estimators (Bac2021) behind our interface.

    It is run on the distinct points in float64, centred and divided by their root mean square
    norm (its TLE drops distances below an absolute 1e-4, so its answer changes with the unit). The
    warning filters and NumPy's global generator, both of which it changes, are left as found.

    Parameters
    ----------
    estimator : str
        A name from ``ESTIMATORS``, e.g. "lPCA"; also available as ``gelora_estimators.skdim.lPCA``.
    options : mapping of str to object
        Options of that class or of its ``fit`` (e.g. ``n_neighbors``, ``comb`` of the local estimators), but
        none by which ``X`` would hold something else than points. Those that are lengths or
        variances (``epsilon``, ``sigma``, ``noise_var``) hold for the rescaled points. ``random_state`` is
        drawn from ``rng`` unless given; ``verbose`` is False unless given.

    Raises
    ------
    ValueError
        For an unknown estimator or option, with the list of those there are.
    ImportError
        If options are to be checked and scikit-dimension is not installed.

    Notes
    -----
    ``standard_error`` is NaN but for GRIDE, which has one; with ``multiscale=True`` it fills ``scales`` (its n2) and
    ``dimension_by_scale`` too. Local estimators leave their pointwise numbers in
    ``diagnostics["pointwise"]``, in the order of the distinct points. KNN of version 0.5 draws a
    handful of points and is unusable. ESS and PH take about two minutes on 1,000 points of 12
    coordinates, unless ``n_neighbors`` of the one, ``nsteps`` and ``subsamples`` of the other are small.
    lPCA and FisherS count linear directions, not the dimension of a curved manifold (a 2-sphere reads 3).

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import ScikitDimension
    >>> cloud = np.random.default_rng(0).standard_normal((200, 3)) @ np.eye(3, 6)
    >>> ScikitDimension(estimator="lPCA")(cloud, rng=np.random.default_rng(0)).dimension
    3.0
    """

    citation: ClassVar[str] = """@article{Bac2021,
  author = {Bac, Jonathan and Mirkes, Evgeny M. and Gorban, Alexander N. and Tyukin, Ivan and Zinovyev, Andrei},
  title = {Scikit-dimension: a {P}ython package for intrinsic dimension estimation},
  journal = {Entropy},
  volume = {23},
  number = {10},
  pages = {1368},
  year = {2021},
  doi = {10.3390/e23101368}
}"""

    estimator: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("estimator", self.estimator, ESTIMATORS)
        if self.options:
            estimator_class = _load(self.estimator)
            known = _parameters(estimator_class) | _fit_parameters(estimator_class)
            unknown = sorted(set(self.options) - known)
            if unknown:
                raise ValueError(
                    f"`options` of skdim:{self.estimator} must be among {', '.join(sorted(known))}, got "
                    f"{', '.join(unknown)}: see the documentation of scikit-dimension."
                )

    @property
    def name(self) -> str:
        """The name under which the estimator is registered."""
        return f"skdim:{self.estimator}"

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d).

        Raises
        ------
        DegenerateCloudError
            For fewer than 10 distinct points, fewer than 2 coordinates, or where scikit-dimension
            fails or returns no positive finite number, with its reason.
        ImportError
            If scikit-dimension is not installed.
        """
        cloud = distinct_points(points, minimum=_FEWEST_POINTS)
        # scikit-dimension knows no rule for vectors repeated with rounding noise; the search does.
        nearest_distances(points, 1, minimum=_FEWEST_POINTS - 1)
        estimator_class = _load(self.estimator)
        defaults = {"verbose": False, "random_state": int(rng.integers(2**31))}
        known = _parameters(estimator_class)
        options = {name: value for name, value in (defaults | dict(self.options)).items() if name in known}
        fit_options = {name: value for name, value in self.options.items() if name not in known}
        fitted = _fit(estimator_class(**options), fit_options, _unit_size(cloud.points), self.name)
        return _read(fitted, len(cloud.points), cloud.n_copies)


def _fit(estimator: Any, options: Mapping[str, Any], points: FloatArray, name: str) -> Any:
    """Return the fitted estimator, or say why there is no number.

    Raises
    ------
    ValueError
        Where options ask for several dimensions at once.
    DegenerateCloudError
        Where scikit-dimension fails or returns no positive finite number.
    """
    where = f"{name} finds no dimension on these {len(points)} distinct points"
    with _process_state_kept():
        try:
            fitted = estimator.fit(points, **options)
        except (ValueError, IndexError, ArithmeticError, np.linalg.LinAlgError) as error:
            raise DegenerateCloudError(f"{where}: {type(error).__name__}: {error}") from error
    if np.ndim(fitted.dimension_) != 0:
        raise ValueError(
            f"`options` of {name} must ask for one dimension, got {np.size(fitted.dimension_)} of them: "
            "make an estimator for each."
        )
    if not (np.isfinite(fitted.dimension_) and fitted.dimension_ > 0.0):
        raise DegenerateCloudError(f"{where}: it returns {float(fitted.dimension_)}.")
    return fitted


def _read(fitted: Any, n_points: int, n_copies: int) -> DimensionEstimate:
    """Return what a fitted estimator of scikit-dimension knows, in our form."""
    diagnostics: dict[str, float | FloatArray] = {"n_copies": float(n_copies)}
    scales, by_scale = None, None
    if hasattr(fitted, "dimension_pw_"):
        diagnostics["pointwise"] = np.array(fitted.dimension_pw_, dtype=np.float64)
    if hasattr(fitted, "dimension_scales_"):
        # Its scales are n1; ours are n2 = 2 n1.
        scales, by_scale = 2.0 * fitted.scales_, np.array(fitted.dimension_scales_, dtype=np.float64)
        diagnostics["standard_error_by_scale"] = np.array(fitted.error_scales_, dtype=np.float64)
    return DimensionEstimate(
        dimension=float(fitted.dimension_),
        standard_error=float(getattr(fitted, "error_", np.nan)),
        n_points=n_points,
        scales=scales,
        dimension_by_scale=by_scale,
        diagnostics=diagnostics,
    )


def _unit_size(points: FloatArray) -> FloatArray:
    """Return centred points divided by their root mean square norm."""
    scaled = points / np.abs(points).max()
    return np.asarray(scaled / np.sqrt(np.square(scaled).sum(axis=1).mean()))


def _load(name: str) -> type[Any]:
    """Return the class, with warning filters and the global generator as they were."""
    with _process_state_kept():
        try:
            import skdim
        except ImportError as error:
            raise ImportError(
                f"skdim:{name} needs scikit-dimension, which cannot be imported: pip install scikit-dimension."
            ) from error
        found: type[Any] = getattr(skdim.id, name)
    return found


def _parameters(estimator_class: type[Any]) -> set[str]:
    """Return the names of the options; MOM inherits the empty constructor, so has none."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(estimator_class)
    return {name for name, parameter in signature.parameters.items() if parameter.kind not in kinds} - _OTHER_INPUT


def _fit_parameters(estimator_class: type[Any]) -> set[str]:
    """Return the names of the options of ``fit``, which the local estimators have beside the constructor's."""
    return set(inspect.signature(estimator_class.fit).parameters) - {"self", "X", "y"} - _OTHER_INPUT


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Silence warnings inside; restore the warning filters and NumPy's global generator after."""
    state = np.random.get_state()  # noqa: NPY002
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _factory(estimator: str) -> Callable[..., ScikitDimension]:
    """Return what the entry point ``skdim:<estimator>`` resolves to."""

    def make(**options: Any) -> ScikitDimension:
        return ScikitDimension(estimator=estimator, options=options)

    make.__name__ = make.__qualname__ = estimator
    make.__doc__ = f"Return scikit-dimension's {estimator} with these options; see `ScikitDimension`."
    return make


if not TYPE_CHECKING:

    def __getattr__(name):
        if name in ESTIMATORS:
            return _factory(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
