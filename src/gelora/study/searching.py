"""Choose options by trials on held-out train rows: all of a grid, or what Optuna proposes."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gelora.provenance import generator
from gelora.study.specification import Range, Search


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that has ended.

    Parameters
    ----------
    number : int
        From 0.
    tried : mapping
        Its options; empty where it failed before they were known.
    score : float
        On the held-out rows, NaN where it failed or has none.
    loss : float
        On the same rows.
    """

    number: int
    tried: Mapping[str, float]
    score: float
    loss: float = math.nan


def propose(search: Search, number: int, done: Sequence[Trial], greater_is_better: bool = True) -> dict[str, float]:
    """Return the options of a trial.

    Parameters
    ----------
    search : Search
        Of the method.
    number : int
        Of the trial, from 0.
    done : sequence of Trial
        Those before it. A grid does not look at them; for Optuna they must all be there, and the same trials lead to
        the same proposal, in whatever process.
    greater_is_better : bool
        Of the score.
    """
    if search.engine == "grid":
        names = list(search.space)
        values = [one for one in search.space.values() if isinstance(one, tuple)]
        return dict(zip(names, list(itertools.product(*values))[number], strict=True))
    return _ask_optuna(search, number, done, greater_is_better)


def choose(done: Sequence[Trial], greater_is_better: bool = True) -> dict[str, float]:
    """Return the options of the best trial; of equal scores, as of constant predictions, that of the smallest loss.

    Raises
    ------
    ValueError
        If no trial has a score.
    """
    scored = [trial for trial in done if not math.isnan(trial.score)]
    if not scored:
        raise ValueError(f"none of the {len(done)} trials of the search has a score: their outcome.json says why")
    sign = -1 if greater_is_better else 1

    def worth(trial: Trial) -> tuple[float, float, int]:
        return sign * trial.score, math.inf if math.isnan(trial.loss) else trial.loss, trial.number

    return dict(min(scored, key=worth).tried)


def _ask_optuna(search: Search, number: int, done: Sequence[Trial], greater_is_better: bool) -> dict[str, float]:
    import optuna

    from gelora.quiet import quiet_optuna

    space: dict[str, Any] = {
        name: optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)
        for name, one in search.space.items()
        if isinstance(one, Range)
    }
    # A sampler of its own for each trial: what it proposes depends on the trials before it, not on the process.
    seed = int(generator(search.seed, "trial", number).integers(2**31))
    with quiet_optuna():
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=min(10, max(1, search.n_trials // 3)))
        study = optuna.create_study(direction="maximize" if greater_is_better else "minimize", sampler=sampler)
        for one in sorted(done, key=lambda trial: trial.number):
            failed = math.isnan(one.score)
            if failed and one.tried.keys() != space.keys():
                continue  # it failed before it knew what to try
            state = optuna.trial.TrialState.FAIL if failed else optuna.trial.TrialState.COMPLETE
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(one.tried), distributions=space, value=None if failed else one.score, state=state
                )
            )
        return {name: float(value) for name, value in study.ask(space).params.items()}
