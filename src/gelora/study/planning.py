"""The profile of a task, and the rank plan of a method on it: made once, kept in files."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from gelora.estimation import estimate
from gelora.files import make_folder, to_json
from gelora.finetuning.adapters import make_adapter
from gelora.finetuning.labelled import labelled_batches
from gelora.finetuning.tasks import TaskData
from gelora.netcdf import json_attribute
from gelora.plan import RankPlan
from gelora.policies import TAKES_DATA
from gelora.profile import open_profile, save_profile
from gelora.provenance import fingerprint
from gelora.ranks import plan_ranks
from gelora.study.methods import SAME_BUDGET, Method
from gelora.study.rows import drawn, load_rows, task_of
from gelora.study.specification import Study, StudyTask

# Policies that read dimensions, and not just the budget of a geometric plan.
_FROM_DIMENSIONS = ("geometric", "recommended", "proportional", "budget", "shuffled", "reversed")


class Planner:
    """Make profiles and plans of a study, or read those that are there.

    Parameters
    ----------
    study : Study
        What is compared.
    write : bool
        Whether plans are kept; profiles always are.
    """

    def __init__(self, study: Study, write: bool = True) -> None:
        self._study, self._write = study, write
        self._profiles: dict[Path, xr.Dataset] = {}

    def profile(self, task: StudyTask) -> xr.Dataset:
        """Return the profile of the model on the train rows of ``task``."""
        file = self.profile_file(task)
        if file not in self._profiles:
            self._profiles[file] = self._read_or_estimate(task, file)
        return self._profiles[file]

    def _read_or_estimate(self, task: StudyTask, file: Path) -> xr.Dataset:
        import filelock

        make_folder(file.parent)
        with filelock.FileLock(file.with_suffix(".lock")):  # another process may be at it
            if file.exists():
                return open_profile(file)
            study = self._study
            made = estimate(
                study.model,
                profile_data(load_rows(study, task)),
                **{"seed": 0, "max_length": self._max_length(task)} | dict(study.estimation),
                estimator=self._estimators(),
                revision=study.revision,
                trust_remote_code=study.trust_remote_code,
                progress=False,
            )
            save_profile(made, file)
        return made

    def profile_file(self, task: StudyTask) -> Path:
        """Return where the profile lies: named by all that it depends on."""
        study = self._study
        made_of: list[Any] = [study.identify(), task.describe(), dict(study.estimation), self._estimators()]
        made_of += [self._max_length(task), drawn(study, task)]
        return study.output / "profiles" / f"{task.task.name}-{_short_hash(made_of)}.nc"

    def plan(self, task: StudyTask, method: Method, seed: int) -> RankPlan | None:
        """Return the plan of a method for a run, None for one without ranks; ``planning_seconds`` in its provenance."""
        if not method.policy:
            return None
        file = self._plan_file(task, method, seed)
        if file.exists():
            return RankPlan.load(file)
        budget = self._budget(task, method)  # what it costs to know the budget is not the method's
        began = time.perf_counter()
        found = self._make(task, method, seed, budget)
        found = replace(found, provenance={**found.provenance, "planning_seconds": time.perf_counter() - began})
        if self._write:
            make_folder(file.parent)
            found.save(file)
        return found

    def estimation_seconds(self, task: StudyTask, method: Method, plan: RankPlan | None) -> float:
        """Return what the ranks of a method cost: extraction, its estimator and the neighbour search, or gradients.

        What was spent to know the budget alone does not count.
        """
        if plan is None:
            return 0.0
        own = float(plan.provenance.get("planning_seconds", 0.0)) if method.policy in TAKES_DATA else 0.0
        if method.policy not in _FROM_DIMENSIONS:
            return own
        attributes = self.profile(task).attrs
        by_estimator = json_attribute(self.profile(task), "estimator_seconds", "`profile`")
        shared = float(attributes["extraction_seconds"]) + float(attributes["neighbor_search_seconds"])
        return own + shared + float(by_estimator[method.estimator or self._study.estimator])

    def known_cost(self, task: StudyTask, method: Method, seed: int) -> int | None:
        """Return the adapter parameters of a method's plan; None where that takes a profile, or gradients, yet."""
        waits = method.needs_profile and not self.profile_file(task).exists()
        if waits or (method.policy in TAKES_DATA and not self._plan_file(task, method, seed).exists()):
            return None
        plan = self.plan(task, method, seed)
        return None if plan is None else round(plan.n_parameters * method.kept) + uncounted_parameters(method, plan)

    def _make(self, task: StudyTask, method: Method, seed: int, budget: int | None) -> RankPlan:
        study = self._study
        options: dict[str, Any] = {**study.ranks, **method.ranks, "seed": seed}
        options |= {"revision": study.revision, "trust_remote_code": study.trust_remote_code}
        # Whatever shares the budget of the geometric plan shares its blocks too: those whose layers were read.
        profile = self.profile(task) if method.needs_profile else None
        if method.policy == "recommended":
            options.pop("estimator", None)
        elif profile is not None:
            options.setdefault("estimator", study.estimator)
        else:
            options.pop("estimator", None)
        model: Any = study.model
        if method.policy in TAKES_DATA:
            model, options["data"] = self._labelled(task, seed)
        return plan_ranks(profile, model, method.policy, rank=method.rank, budget=budget, **options)

    def _budget(self, task: StudyTask, method: Method) -> int | None:
        if method.budget is None:
            return None
        if method.budget != SAME_BUDGET:
            return round(int(method.budget) / method.kept)
        reference = Method(name="geometric", policy="geometric", budget=None, ranks=_shared_ranks(method))
        plan = self.plan(task, reference, 0)
        if plan is None:
            return None
        return round(plan.n_parameters / method.kept) - uncounted_parameters(method, plan)

    def _labelled(self, task: StudyTask, seed: int) -> tuple[Any, Any]:
        study = self._study
        return labelled_batches(
            study.model,
            task_of(load_rows(study, task)),
            max_length=self._max_length(task) or 128,
            seed=seed,
            revision=study.revision,
            trust_remote_code=study.trust_remote_code,
        )

    def _max_length(self, task: StudyTask) -> int | None:
        found: int | None = {"max_length": 128, **self._study.training, **task.training}["max_length"]
        return None if task.task.image else found

    def _estimators(self) -> list[str]:
        own = [method.estimator for method in self._study.methods if method.needs_profile]
        return list(dict.fromkeys([self._study.estimator, *(name for name in own if name)]))

    def _plan_file(self, task: StudyTask, method: Method, seed: int) -> Path:
        study = self._study
        made_of = [method.describe(), dict(study.ranks), study.estimator, self.profile_file(task).name, seed]
        return study.output / "plans" / task.task.name / f"{method.name}-seed-{seed}-{_short_hash(made_of)}.json"


def profile_data(data: TaskData) -> Any:
    """Return the train rows of a task as `gelora.estimate` takes them."""
    if data.task.image:
        return data.train.select_columns(["image"])
    columns = [list(data.train[name]) for name in data.task.text]
    if data.task.problem == "language_modelling":
        return ["\n".join(parts) for parts in zip(*columns, strict=True)]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def uncounted_parameters(method: Method, plan: RankPlan) -> int:
    """Return what an adapter trains beside B and A: DoRA a magnitude for each output of its matrices."""
    if make_adapter(method.adapter).name != "dora":
        return 0
    return sum(module.out_features for module in plan.modules)


def _shared_ranks(method: Method) -> dict[str, Any]:
    """Return the options that say what is adapted: a method that adapts other matrices has a budget of its own."""
    return {name: method.ranks[name] for name in ("targets", "roles") if name in method.ranks}


def _short_hash(parts: Any) -> str:
    return fingerprint([to_json(parts).encode()])[:12]
