"""When there are enough examples: the ranks would come out the same if they were drawn again."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from gelora.geometry import (
    ROUNDINGS,
    block_columns,
    deviations,
    geometric_rule,
    redraw_stability,
    settling_factor,
    standard_draws,
)
from gelora.messages import check_confidence, check_integer, check_replicates
from gelora.profile import check_profile
from gelora.provenance import generator


@dataclass(frozen=True, slots=True, kw_only=True)
class UntilStable:
    """A stopping rule: draw examples until the geometric ranks are stable, or the data end.

    Parameters
    ----------
    confidence : float
        Probability, in (0, 1), that another draw of as many examples would give the same rank to every block.
    rounding : {"ceil", "round", "floor"}
        Of the rank rule that is to be settled, see `gelora.plan_ranks`.
    offset, minimum : int
        Of that rule.
    n_replicates : int
        Halves that the spread of a profile is taken from; even.
    first : int
        Rows of the first round.
    growth : float
        By how much the rows grow from round to round, above 1.

    Raises
    ------
    ValueError
        For an option out of range.

    Notes
    -----
    The rule looks at the spread over draws, nothing else: an estimator at a fixed number of neighbours reads a
    smaller scale with every round, and its dimensions move with it. ``minibatch:…`` estimators keep their scale.

    Examples
    --------
    >>> UntilStable(confidence=0.95).first
    500
    """

    confidence: float = 0.9
    rounding: str = "ceil"
    offset: int = 1
    minimum: int = 1
    n_replicates: int = 50
    first: int = 500
    growth: float = 2.0

    def __post_init__(self) -> None:
        check_confidence(self.confidence)
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"`rounding` must be one of {', '.join(ROUNDINGS)}, got {self.rounding!r}")
        check_integer("offset", self.offset, 0)
        check_integer("minimum", self.minimum, 1)
        check_integer("first", self.first, 20)
        if check_replicates(self.n_replicates) < 4:
            raise ValueError(f"`n_replicates` must be at least 4 to see a spread, got {self.n_replicates}")
        if not (isinstance(self.growth, int | float) and self.growth > 1 and math.isfinite(self.growth)):
            raise ValueError(f"`growth` must be a number above 1, got {self.growth!r}")

    def judge(self, profile: xr.Dataset, estimator: str) -> "Verdict":
        """Return how stable the ranks of a profile are.

        Parameters
        ----------
        profile : xarray.Dataset
            With ``dimension_replicates``.
        estimator : str
            Whose dimensions decide.
        """
        check_profile(profile)
        row = profile.sel(estimator=estimator)
        keys = [(str(stack), int(layer)) for stack, layer in zip(row["stack"].values, row["layer"].values, strict=True)]
        defined = np.flatnonzero(np.isfinite(row["dimension"].values))
        layers = [keys[column] for column in defined]
        dimensions = row["dimension"].values[defined]
        ranks_of = geometric_rule(layers, rounding=self.rounding, offset=self.offset, minimum=self.minimum)
        blocks = block_columns(layers)[0]
        ranks = ranks_of(dimensions[None, :])[0]
        n, m = int(profile.attrs["n_rows"]), int(profile.attrs["replicate_rows"])
        spread = deviations(row["dimension_replicates"].values[defined].T, n, m)
        if len(spread) < 4 or not blocks:
            return Verdict(n, 0.0, math.inf, {}, False)
        weights = standard_draws(len(spread), generator(0, "stopping", n), 2000)
        stability, _ = redraw_stability(dimensions, spread, weights, ranks_of)
        factor = settling_factor(dimensions, spread, weights, ranks_of, self.confidence)
        named = {f"{stack} {block}": int(rank) for (stack, block), rank in zip(blocks, ranks, strict=True)}
        return Verdict(n, stability, n * factor, named, stability >= self.confidence)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How stable the ranks of a round were.

    Parameters
    ----------
    n_rows : int
        Distinct data rows so far.
    stability : float
        Probability that another draw of as many gives the same ranks.
    n_settling : float
        Rows that would make it the asked confidence, infinity where no number would.
    ranks : dict of str to int
        By stack and block.
    stable : bool
        Whether the asked confidence is reached.
    """

    n_rows: int
    stability: float
    n_settling: float
    ranks: dict[str, int]
    stable: bool

    def record(self) -> dict[str, Any]:
        """Return the fields as JSON takes them."""
        settling = None if math.isinf(self.n_settling) else round(self.n_settling)
        return {"n_rows": self.n_rows, "stability": self.stability, "n_settling": settling, "ranks": self.ranks}
