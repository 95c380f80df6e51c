"""The options of a rank plan, checked once."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gelora.evidence import COMBINATIONS
from gelora.geometry import ROUNDINGS
from gelora.messages import check_choice, check_confidence, check_integer
from gelora.rank_uncertainty import STATISTICS


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """Options of `gelora.plan_ranks`, under the same names.

    Raises
    ------
    ValueError
        For an option out of range, naming it.
    """

    estimator: str | None
    scale: float | None
    statistic: str
    confidence: float
    combine: str
    rounding: str
    offset: int
    minimum: int
    maximum: int | None
    undefined: str
    rank: int | None
    budget: int | None
    scaling: float
    targets: str
    roles: Sequence[str]
    seed: int

    def __post_init__(self) -> None:
        for name, allowed in (
            ("rounding", tuple(ROUNDINGS)),
            ("undefined", ("error", "minimum")),
            ("statistic", ("point", *STATISTICS)),
            ("combine", tuple(COMBINATIONS)),
        ):
            check_choice(name, getattr(self, name), allowed)
        check_confidence(self.confidence)
        check_integer("offset", self.offset, 0)
        check_integer("minimum", self.minimum, 1)
        check_integer("seed", self.seed, 0)
        for name, least in (("maximum", self.minimum), ("rank", 1), ("budget", 1)):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), least)
        if self.rank is not None and self.maximum is not None and self.rank > self.maximum:
            raise ValueError(f"`rank` must not exceed `maximum`, got {self.rank} and {self.maximum}: change one")
        sound = isinstance(self.scaling, int | float) and math.isfinite(self.scaling) and self.scaling > 0
        if not sound:
            raise ValueError(f"`scaling` must be a positive number, α / r, got {self.scaling!r}")

    def check_profile_options(self, has_profile: bool) -> None:
        """Raise ValueError if an option of a profile is given without one."""
        given = {"estimator": self.estimator is not None, "scale": self.scale is not None}
        given["statistic"] = self.statistic != "point"
        named = [name for name, is_given in given.items() if is_given]
        if named and not has_profile:
            raise ValueError(f"`{named[0]}` goes with a profile, and none is given: leave it out")

    def record(self) -> dict[str, Any]:
        """Return the options as JSON takes them."""
        return {**asdict(self), "roles": list(self.roles)}
