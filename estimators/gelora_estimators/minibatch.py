"""Estimates from disjoint batches of a cloud, combined: linear cost, a fixed scale, an error from the batches."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from inspect import Parameter, Signature
from typing import Any

import numpy as np
from scipy.stats import t as student

from gelora_estimators.gride import Gride
from gelora_estimators.mle import MLE
from gelora_estimators.options import check_flag, check_integer, check_number
from gelora_estimators.points import IndexArray, StoredArray, distinct_rows
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimate, DimensionEstimator, FloatArray
from gelora_estimators.twonn import TwoNN

_FEWEST_IN_A_BATCH = 20
_DIVISION = 1  # keeps the keys apart from numbers that a caller draws from the same seed
_FEWEST_TO_HALVE = 16  # fewer have so few different halves that their spread is known badly
# Options of the estimators that say nothing of a batch: the batches give the error, and only the number is kept.
_NOT_OF_A_BATCH = ("interval", "n_subsamples", "decimations", "pointwise", "neighbors")


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniBatch:
    """Mean of an estimator over disjoint random batches of the cloud (EdDib2024, its second remedy for the cost).

    Parameters
    ----------
    estimator : estimator
        What is asked of every batch; where it offers ``without_error()``, that version.
    batch_size : int
        Distinct points of a batch, at least 20. The cloud must have as many.
    n_batches : int, optional
        Most batches used; by default as many as the cloud holds. Points left over are counted.
    scan : bool
        Also estimate on the quarters and halves of every batch, for ``dimension_by_scale`` and the bias; the work is
        1.75 times as much.
    confidence : float
        Coverage of the interval, in (0, 1).
    seed : int
        Of the division into batches; that of a profile does not reach it.

    Raises
    ------
    ValueError
        For an option outside its range.

    Notes
    -----
    n points in batches of b cost n · b distances in place of n². A batch has b/n of the points in the same space,
    so its neighbours are further away: the number holds at that scale. A larger cloud makes it more exact without
    moving it, where the same estimator on the whole cloud looks closer and closer.

    The standard error is s/√B, with s² the variance over the B batches, and the interval Student's. Batches are
    disjoint, so independent given the population from which the cloud was drawn: the error is that of another cloud
    as large, not the distance from the number of the whole cloud. Over 200 new clouds it was 0.96 to 1.08 times the
    true spread. A single batch has the error and interval of its estimator.

    The division depends on ``seed`` and the numbers of the rows alone, not on ``rng``: the layers of one set
    of examples are divided alike, and what two layers have in common cancels in their difference (TwoNN, 8 batches
    of 250 points: standard deviation of a difference 0.15, against 0.24 with a division for each). Rows in another
    order are another division.

    ``scales`` are the points of a part: b/4, b/2 and b. ``diagnostics`` hold ``batch_dimensions`` (B,);
    ``batch_variance``, s²; ``n_batches``; ``n_left_over``; and the bias of small n: ``bias_per_doubling``, the mean
    over the batches of d(b) − d(b/2), with ``bias_per_doubling_error``, and ``bias``, d(b) − d(n) if each of the
    log₂(n/b) doublings up to the n points of the cloud changed as much. The true curve flattens, so that this is an
    upper size as a rule; where dimension has a maximum over the sizes, even the direction can be wrong. It is
    reported, never subtracted.

    Examples
    --------
    >>> import numpy as np
    >>> from gelora_estimators import MiniBatch
    >>> cloud = np.random.default_rng(0).random((2000, 2))
    >>> bool(1.7 < MiniBatch(batch_size=200)(cloud, rng=np.random.default_rng(0)).dimension < 2.2)
    True
    """

    estimator: DimensionEstimator = field(default_factory=MLE)
    batch_size: int = 500
    n_batches: int | None = None
    scan: bool = True
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.estimator, type) or not callable(self.estimator):
            raise ValueError(
                f"`estimator` must be an estimator, such as MLE(), got {self.estimator!r:.60}: pass an instance."
            )
        if (method := getattr(self.estimator, "neighbors", "exact")) != "exact":
            raise ValueError(
                f"`estimator` must search batches exactly, got one with neighbors={method!r}: leave `neighbors` out, "
                "batches are small."
            )
        check_integer("batch_size", self.batch_size, minimum=_FEWEST_IN_A_BATCH)
        if self.n_batches is not None:
            check_integer("n_batches", self.n_batches, minimum=1)
        check_flag("scan", self.scan)
        check_number("confidence", self.confidence, low=0.0, high=1.0)
        check_integer("seed", self.seed, minimum=0)

    @property
    def name(self) -> str:
        """The name under which the estimator is registered."""
        return f"minibatch:{getattr(self.estimator, 'name', type(self.estimator).__name__)}"

    @property
    def citation(self) -> str:
        """BibTeX of the estimator."""
        return str(getattr(self.estimator, "citation", ""))

    def without_error(self) -> "MiniBatch":
        """Return the same estimator without its scan, for those who take the spread over resamples."""
        return replace(self, scan=False)

    def half_dimensions(self, estimate: DimensionEstimate, n_halves: int) -> FloatArray | None:
        """Return the means over random halves of the batches, for free; None for fewer than 16 batches.

        Halves 2s and 2s + 1 share no batch; one of an odd number is in neither. Which batches a half holds goes by
        ``seed`` and the number of batches alone, so that layers divided alike are halved alike.

        Parameters
        ----------
        estimate : DimensionEstimate
            As this estimator returned it.
        n_halves : int
            An even number.
        """
        batches = np.asarray(estimate.diagnostics["batch_dimensions"])
        if len(batches) < _FEWEST_TO_HALVE:
            return None
        rng, half = np.random.default_rng([self.seed, len(batches), n_halves]), len(batches) // 2
        orders = [rng.permutation(len(batches)) for _ in range(n_halves // 2)]
        pairs = [[batches[order[:half]].mean(), batches[order[half : 2 * half]].mean()] for order in orders]
        return np.array(pairs).ravel()

    def __call__(self, points: Any, *, rng: np.random.Generator) -> DimensionEstimate:
        """Estimate the dimension of ``points`` (n, d).

        Raises
        ------
        DegenerateCloudError
            For fewer distinct points than a batch, or where a batch has no dimension.
        """
        cloud = distinct_rows(points, minimum=self.batch_size)
        n = len(cloud.rows)
        batches = self._divide(cloud.rows, n + cloud.n_copies)
        values, error, interval = self._combine(cloud.stored, batches, rng)
        diagnostics: dict[str, float | FloatArray] = {
            "n_copies": float(cloud.n_copies),
            "n_batches": float(len(batches)),
            "n_left_over": float(n - batches.size),
            "batch_dimensions": values,
            "batch_variance": float(values.var(ddof=1)) if len(values) > 1 else float("nan"),
        }
        scales = by_scale = None
        if self.scan:
            levels = [self._read(cloud.stored, batches, pieces, rng) for pieces in (4, 2)] + [values]
            scales = np.array([self.batch_size // pieces for pieces in (4, 2, 1)], dtype=np.float64)
            by_scale = np.array([level.mean() for level in levels])
            diagnostics |= _bias(values - levels[1], doublings=float(np.log2(n / self.batch_size)))
        return DimensionEstimate(
            dimension=float(values.mean()),
            standard_error=error,
            interval=interval,
            n_points=int(batches.size),
            scales=scales,
            dimension_by_scale=by_scale,
            diagnostics=diagnostics,
        )

    def _divide(self, rows: IndexArray, n_rows: int) -> IndexArray:
        """Return the numbers of the points of each batch, in random order, (n_batches, batch_size).

        Every row has a key by its number alone: a copy in one layer moves few of the others to another batch.
        """
        n = len(rows)
        count = n // self.batch_size if self.n_batches is None else min(self.n_batches, n // self.batch_size)
        order = np.argsort(np.random.default_rng([self.seed, _DIVISION]).random(n_rows)[rows], kind="stable")
        return order[: count * self.batch_size].reshape(count, self.batch_size)

    def _combine(
        self, stored: StoredArray, batches: IndexArray, rng: np.random.Generator
    ) -> tuple[FloatArray, float, tuple[float, float]]:
        """Return the dimension of each batch, and standard error and interval of their mean."""
        alone = len(batches) == 1
        estimator = self.estimator if alone else self._bare()
        try:
            found = [estimator(stored[np.sort(batch)], rng=rng) for batch in batches]
        except DegenerateCloudError as problem:
            raise DegenerateCloudError(
                f"{problem} This was said of a batch of {self.batch_size} points; raise `batch_size` if it is too few."
            ) from problem
        values = np.array([one.dimension for one in found])
        if alone:
            return values, found[0].standard_error, found[0].interval
        error = float(values.std(ddof=1) / np.sqrt(len(values)))
        reach = float(student.ppf(0.5 + self.confidence / 2.0, len(values) - 1)) * error
        mean = float(values.mean())
        return values, error, (max(mean - reach, 0.0), mean + reach)

    def _read(self, stored: StoredArray, batches: IndexArray, pieces: int, rng: np.random.Generator) -> FloatArray:
        """Return for each batch the mean over its parts of 1/``pieces``, NaN where one has no dimension."""
        estimator, size = self._bare(), self.batch_size // pieces
        values = np.full(len(batches), np.nan)
        for number, batch in enumerate(batches):
            parts = np.sort(batch[: pieces * size].reshape(pieces, size), axis=1)
            try:
                values[number] = np.mean([estimator(stored[part], rng=rng).dimension for part in parts])
            except DegenerateCloudError:
                continue
        return values

    def _bare(self) -> DimensionEstimator:
        bare = getattr(self.estimator, "without_error", None)
        return self.estimator if bare is None else bare()


def _bias(steps: FloatArray, *, doublings: float) -> dict[str, float]:
    """Return the mean of what the last doubling changes in each batch, its error, and what all would up to n."""
    step = float(steps.mean())
    error = float(steps.std(ddof=1) / np.sqrt(len(steps))) if len(steps) > 1 else float("nan")
    return {"bias_per_doubling": step, "bias_per_doubling_error": error, "bias": -step * doublings}


def _factory(kind: type[TwoNN] | type[MLE] | type[Gride]) -> Callable[..., MiniBatch]:
    """Return what an entry point resolves to; it takes the options of the estimator and those of the batches."""
    own = [one for one in fields(MiniBatch) if one.name != "estimator"]
    names = {one.name for one in own}
    inner = [one for one in fields(kind) if one.name not in {*names, *_NOT_OF_A_BATCH}]

    def make(**options: Any) -> MiniBatch:
        mine = {name: options.pop(name) for name in list(options) if name in names}
        # A single batch has the estimator's own interval, which is to have the same coverage.
        shared = {"confidence": mine["confidence"]} if "confidence" in mine else {}
        return MiniBatch(estimator=kind(**shared, **options), **mine)

    # The registry compares options with the signature, to suggest the nearest name.
    make.__signature__ = Signature(  # type: ignore[attr-defined]
        [Parameter(one.name, Parameter.KEYWORD_ONLY, default=one.default) for one in (*inner, *own)]
    )
    make.__name__ = make.__qualname__ = kind.name
    make.__doc__ = f"Return `MiniBatch` of {kind.name}, registered as ``minibatch:{kind.name}``."
    return make


twonn = _factory(TwoNN)
mle = _factory(MLE)
gride = _factory(Gride)
