"""One run: what it is made of, what tells it from others, and what its record and its model card say of it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from gelora.finetuning.adaptation import Adapter
from gelora.finetuning.adapter_folder import describe_ranks
from gelora.finetuning.adapters import describe_adapter
from gelora.finetuning.classifiers import Classifier
from gelora.finetuning.instructions import describe_prompt
from gelora.finetuning.options import Options
from gelora.finetuning.tasks import TaskData
from gelora.plan import RankPlan
from gelora.provenance import fingerprint, package_versions, timestamp


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained on what, how.

    Parameters
    ----------
    classifier : Classifier
        The model with its head.
    plan : RankPlan or None
        Bound to it.
    data : TaskData
        Train and validation rows.
    adapter : Adapter
        What is trained.
    options : Options
        How.
    """

    classifier: Classifier
    plan: RankPlan | None
    data: TaskData
    adapter: Adapter
    options: Options

    def identity(self) -> dict[str, Any]:
        """Return what makes two calls the same run."""
        return {
            "model": self.classifier.model.config.model_type,
            "weights_fingerprint": self.classifier.weights,
            "tokenizer": self.classifier.describe_processor(),
            "task": self.data.task.name,
            "metrics": list(self.data.task.metrics),
            "data_fingerprint": self.data.fingerprint(),
            "adapter": describe_adapter(self.adapter),
            "plan_fingerprint": plan_fingerprint(self.plan),
            **self._task_options(),
            **self.options.identity(),
        }

    def attributes(self) -> dict[str, Any]:
        """Return the origin of the results, for the record."""
        plan, model, task = self.plan, self.classifier.model, self.data.task
        described = describe_adapter(self.adapter)
        return {
            "task": task.name,
            "problem": task.problem,
            "labels": list(task.label_names),
            "score_metrics": list(task.score),
            "greater_is_better": task.greater_is_better,
            **self._task_options(),
            "data": self.data.source,
            "data_fingerprint": self.data.fingerprint(),
            "n_train": len(self.data.train),
            "n_validation": len(self.data.validation),
            "model": str(model.name_or_path),
            "model_class": type(model).__name__,
            "revision": str(getattr(model.config, "_commit_hash", None) or ""),
            "tokenizer": str(getattr(self.classifier.tokenizer, "name_or_path", "")),
            "weights_fingerprint": self.classifier.weights,
            "quantization": self.classifier.quantization,
            "adapter": described["name"],
            "adapter_options": described["options"],
            "policy": "" if plan is None else plan.policy,
            "scaling": math.nan if plan is None else plan.scaling,
            "planned_ranks": {} if plan is None else {module.name: module.rank for module in plan.modules},
            "plan_fingerprint": plan_fingerprint(plan),
            "plan_provenance": {} if plan is None else dict(plan.provenance),
            "modules_trained_whole": list(self.classifier.head),
            "seed": self.options.seed,
            "options": json.loads(json.dumps(asdict(self.options), default=str)),
            "versions": package_versions(),
            "created": timestamp(),
        }

    def card_facts(self, record: xr.Dataset) -> Mapping[str, Any]:
        """Return what the model card and the loader of the adapter need to know."""
        model, plan = self.classifier.model, self.plan
        n_adapter, n_head = record["trainable_parameters"].values.tolist()
        final = dict(zip(record["module"].values.tolist(), record["rank"].values.tolist(), strict=True))
        return {
            "base": str(model.name_or_path or "<the model that was tuned>"),
            "revision": str(getattr(model.config, "_commit_hash", None) or ""),
            "dtype": str(model.dtype).removeprefix("torch."),
            "adapter": self.adapter.name,
            "adapter_options": describe_adapter(self.adapter)["options"],
            "auto_class": self.classifier.auto_class,
            "quantization": self.classifier.quantization,
            "precision": self.options.precision,
            "processor_class": self.classifier.processor_class,
            "processor_name": self.classifier.processor_class.removeprefix("Auto").removeprefix("Image").lower(),
            "task": self.data.task.name,
            "version": package_versions(["gelora"]).get("gelora", ""),
            "created": record.attrs["created"],
            "policy": "none" if plan is None else plan.policy,
            "ranks": "This adapter has no ranks." if plan is None else describe_ranks(plan, final),
            "n_adapter": n_adapter,
            "n_head": n_head,
            "n_validation": len(self.data.validation),
            "metrics": ", ".join(self.data.task.score)
            + ("" if self.data.task.greater_is_better else "; less is better"),
            "score": float(record["score"]),
            "num_labels": self.data.num_labels,
            "load_options": self._load_options(),
            "pad_token_id": getattr(model.config, "pad_token_id", None),
            "head": list(self.classifier.head),
            "label_names": list(self.data.task.label_names),
            "labels": self._describe_labels(),
            "not_quantized": list(self.classifier.not_quantized),
        }

    def _load_options(self) -> str:
        """Return what the pretrained model is loaded with, as written in a call."""
        pad = getattr(self.classifier.model.config, "pad_token_id", None)
        options = {"num_labels": self.data.num_labels or None, "pad_token_id": pad}
        return ", ".join(f"{name}={value}" for name, value in options.items() if value is not None)

    def _describe_labels(self) -> str:
        """Return what the model predicts, in words."""
        match self.data.task.problem:
            case "question_answering":
                return "the first and the last token of the answer in the context"
            case "language_modelling":
                return (
                    f"the tokens of the response, after {describe_prompt(self.data.task, self.classifier.tokenizer)!r}"
                )
        return ", ".join(self.data.task.label_names) or "a number"

    def _task_options(self) -> dict[str, Any]:
        """Return the options of the task that tell two runs apart, beside its metrics."""
        task = self.data.task
        if task.problem == "question_answering":
            return {"answering": asdict(task.answering)}
        if task.problem == "language_modelling":
            return {"prompt": describe_prompt(task, self.classifier.tokenizer)}
        return {}


def read_plan(plan: Any) -> RankPlan:
    """Return the plan given, or the one in the file it names.

    Raises
    ------
    TypeError
        If it is neither.
    """
    if isinstance(plan, RankPlan):
        return plan
    if not isinstance(plan, str | Path):
        raise TypeError(
            "`plan` must be a RankPlan as `gelora.plan_ranks` returns, or the path of its file, got "
            f"{type(plan).__name__}"
        )
    return RankPlan.load(plan)


def bind_plan(plan: RankPlan, classifier: Classifier) -> RankPlan:
    """Return ``plan`` with the names of the model's modules.

    Raises
    ------
    ValueError
        If it was made for another model, or has a rank above the smaller side of its matrix.
    """
    bound = plan.bind(classifier.model)
    for module in bound.modules:
        if module.rank > min(module.in_features, module.out_features):
            raise ValueError(
                f"`plan` gives rank {module.rank} to {module.name!r}, a matrix of {module.in_features} × "
                f"{module.out_features}: a rank is at most its smaller side; make the plan again with `maximum=`"
            )
    return bound


def plan_fingerprint(plan: RankPlan | None) -> str:
    """Return a hash of the planned ranks, empty without a plan."""
    if plan is None:
        return ""
    return fingerprint(json.dumps(asdict(module), sort_keys=True).encode() for module in plan.modules)
