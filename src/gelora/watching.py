"""Rows in growing rounds, until the ranks of the first estimator are stable: what asks the rule after each."""

import math
import time
import warnings
from collections.abc import Callable, Mapping

import xarray as xr

from gelora.catching import caught
from gelora.clouds import Representations
from gelora.netcdf import plain_attributes
from gelora.stopping import UntilStable, Verdict
from gelora_estimators.protocol import DegenerateCloudError, DimensionEstimator

SampleChoice = int | str | UntilStable | Callable[[Representations], bool] | None


class Watch:
    """Asks a stopping rule after every round, of the first estimator's profile."""

    def __init__(
        self,
        rule: UntilStable,
        estimators: Mapping[str, DimensionEstimator],
        n_replicates: int,
        seed: int,
        estimate: Callable[..., xr.Dataset],
    ) -> None:
        self.rule = rule
        self.first = rule.first
        self.growth = rule.growth
        self.n_replicates = max(n_replicates, rule.n_replicates)
        self.seed = seed
        self._estimate_all = estimate
        self.label = next(iter(estimators))
        self.estimator = {self.label: estimators[self.label]}
        self.verdicts: list[Verdict] = []
        self.profile: xr.Dataset | None = None
        self.caught: list[warnings.WarningMessage] | None = None
        self.seconds = 0.0

    def __call__(self, representations: Representations) -> bool:
        """Say whether the ranks are stable on everything that was extracted so far."""
        begun = time.perf_counter()
        try:
            return self._judge(representations)
        finally:
            self.seconds += time.perf_counter() - begun

    def _judge(self, representations: Representations) -> bool:
        with caught() as self.caught:  # those of the last round are given out at the end
            try:
                self.profile = self._estimate(representations, self.estimator, progress=False)
            except DegenerateCloudError:
                return False  # too few examples yet
        self.verdicts.append(self.rule.judge(self.profile, self.label))
        return self.verdicts[-1].stable

    def finish(
        self, representations: Representations, estimators: Mapping[str, DimensionEstimator], progress: bool
    ) -> xr.Dataset:
        """Return the profile of everything that was extracted, with the verdicts of the rounds."""
        profile = self._last(representations) if list(estimators) == [self.label] else None
        if profile is None:
            profile = self._estimate(representations, estimators, progress)
        last = self.verdicts[-1] if self.verdicts else None
        if last is None or not last.stable:
            _warn_unsettled(last, self.rule.confidence)
        rounds = {"auto": [verdict.record() for verdict in self.verdicts], "auto_estimator": self.label}
        stopped = "the data ended" if last is None or not last.stable else "the ranks were stable"
        rule = {"confidence": self.rule.confidence, "rounding": self.rule.rounding, "offset": self.rule.offset}
        seconds = {
            "auto_seconds": round(self.seconds, 3),
            "extraction_seconds": round(float(profile.attrs["extraction_seconds"]) - self.seconds, 3),
        }
        return profile.assign_attrs(plain_attributes({**rounds, **seconds, "auto_rule": rule, "auto_stopped": stopped}))

    def _last(self, representations: Representations) -> xr.Dataset | None:
        """Return the profile of the last round if it is of all that was extracted, with the full provenance."""
        counts = {"encoder": 0} | {stack: len(rows) for stack, rows in representations.rows.items()}
        if self.profile is None or int(self.profile.attrs["n_rows"]) != max(counts.values()):
            return None
        for entry in self.caught or ():
            warnings.warn(entry.message, category=entry.category, stacklevel=5)
        return self.profile.assign_attrs(plain_attributes(representations.attributes))

    def _estimate(
        self, representations: Representations, estimators: Mapping[str, DimensionEstimator], progress: bool
    ) -> xr.Dataset:
        return self._estimate_all(
            representations, estimator=estimators, n_replicates=self.n_replicates, seed=self.seed, progress=progress
        )


def watch_for(
    n_samples: SampleChoice,
    estimators: Mapping[str, DimensionEstimator],
    n_replicates: int,
    confidence: float | None,
    seed: int,
    estimate: Callable[..., xr.Dataset],
) -> Watch | None:
    """Return what decides in the extraction's rounds; None where the number is given, or somebody else decides."""
    if isinstance(n_samples, str):
        if n_samples != "auto":
            raise ValueError(f"`n_samples` must be a number, 'auto' or None for all, got {n_samples!r}")
        return Watch(UntilStable(confidence=confidence or 0.9), estimators, n_replicates, seed, estimate)
    if confidence is not None:
        raise ValueError(f"`confidence` goes with n_samples='auto', got n_samples={n_samples!r:.60}: leave it out")
    if isinstance(n_samples, UntilStable):
        return Watch(n_samples, estimators, n_replicates, seed, estimate)
    return None


def _warn_unsettled(last: Verdict | None, confidence: float) -> None:
    if last is None:
        warnings.warn("the data ended before any dimension was defined in halves of it", stacklevel=4)
        return
    need = "no number of examples" if math.isinf(last.n_settling) else f"about {last.n_settling:,.0f} examples"
    warnings.warn(
        f"the data ended at {last.n_rows:,} examples before the ranks were stable: another draw would give the same "
        f"with probability {last.stability:.2f}, and {need} would make it {confidence:g}; see how the plan moves "
        "with scale and rounding",
        stacklevel=4,
    )
