"""Fine-tune a model on a task with the ranks of a plan."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from gelora.files import atomic_path
from gelora.finetuning.adapter_folder import describe_ranks, save_adapter
from gelora.finetuning.adapters import Adapted, find_adapter
from gelora.finetuning.checkpoints import (
    ADAPTER_FOLDER,
    CHECKPOINT_FOLDER,
    PREDICTIONS_FILE,
    RECORD_FILE,
    claim_run,
    last_checkpoint,
    open_run,
    read_state,
)
from gelora.finetuning.classifiers import Classifier, load_classifier
from gelora.finetuning.encoded import encode_split, length_limit
from gelora.finetuning.metrics import evaluate_predictions, predict
from gelora.finetuning.options import Options, check_device, check_training_arguments, to_training_arguments
from gelora.finetuning.record import make_record, open_record, save_record
from gelora.finetuning.tasks import Task, TaskData, load_task
from gelora.plan import RankPlan
from gelora.provenance import fingerprint, package_versions, timestamp
from gelora.quiet import own_generators, quiet_libraries

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments

    from gelora.finetuning.training import RecordingTrainer


def finetune(
    model: Any,
    task: str | Task,
    plan: RankPlan | str | Path,
    adapter: str = "lora",
    *,
    output_dir: str | Path,
    data_dir: str | Path | None = None,
    tokenizer: Any = None,
    epochs: float = 3.0,
    max_steps: int = -1,
    batch_size: int = 32,
    eval_batch_size: int | None = None,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.0548,
    warmup_ratio: float = 0.0304,
    schedule: str = "linear",
    dropout: float = 0.0188,
    max_length: int = 128,
    n_train: int | None = None,
    n_validation: int | None = None,
    seed: int = 0,
    resume: bool = True,
    eval_steps: int | None = None,
    save_steps: int | None = None,
    device: str = "auto",
    precision: str = "float32",
    callbacks: Sequence["TrainerCallback"] = (),
    progress: bool = True,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **training_arguments: Any,
) -> xr.Dataset:
    """Tune ``model`` on ``task`` with the ranks of ``plan``, on Hugging Face's Trainer.

    The defaults of learning rate, weight decay, warm-up, schedule, dropout and batch size are the one set that is
    known of GeLoRA's experiments (MRPC with DeBERTaV3-base).

    Parameters
    ----------
    model : PreTrainedModel, str or Path
        A folder or hub name, or a loaded model with or without a classification head; a loaded one is copied and
        stays as it is.
    task : str or Task
        The name of a GLUE task, e.g. ``"cola"``, or a `gelora.finetuning.tasks.Task` of your own.
    plan : RankPlan, str or Path
        As `gelora.plan_ranks` returns, or its JSON file.
    adapter : str
        What carries the ranks: ``"lora"``.
    output_dir : str or Path
        Folder for ``record.nc``, ``adapter/`` (loads with ``PeftModel.from_pretrained``), ``predictions.parquet``
        (validation labels, predictions and logits), ``checkpoints/`` and ``run.json``.
    data_dir : str or Path, optional
        Folder with ``train`` and ``validation`` files; see `gelora.finetuning.tasks.load_task`.
    tokenizer : optional
        A tokenizer, its folder or name; by default the one beside the weights.
    epochs : float
        Passes over the train rows.
    max_steps : int
        Steps of the optimiser in all, in place of ``epochs``; −1 for none.
    batch_size, eval_batch_size : int
        Rows a batch; for evaluation the same unless given.
    learning_rate, weight_decay : float
        Of AdamW.
    warmup_ratio : float
        Share of the steps over which the learning rate rises from 0.
    schedule : str
        What it does then, by transformers' names: ``"linear"`` falls to 0.
    dropout : float
        Of the inputs of the LoRA matrices.
    max_length : int
        Tokens a text or pair is cut to; fewer where the model takes fewer.
    n_train, n_validation : int, optional
        Take that many rows, drawn by the seed alone.
    seed : int
        Of the head, the adapter, the order of the rows, dropout and the draws. On a CPU, and one number of threads,
        the same call gives the same numbers.
    resume : bool
        Continue the run in ``output_dir`` from its last checkpoint; a finished one returns its record at once.
        The arguments must be the same, but for ``device``, ``progress`` and ``save_steps``. With False the folder
        must not hold a run.
    eval_steps, save_steps : int, optional
        Evaluate, or write a checkpoint, every so many steps; by default after each epoch.
    device : {"auto", "cpu", "cuda"}
        ``"auto"`` takes a GPU where there is one. Of several GPUs the first is used.
    precision : {"float32", "bfloat16", "float16"}
        Half precision means automatic mixed precision; trained parameters are float32 throughout.
    callbacks : sequence of transformers.TrainerCallback
        Called beside ours, e.g. `gelora.theory.GapCallback`. They do not make another run of it.
    progress : bool
        Show a progress bar.
    revision, trust_remote_code
        For a model given by name.
    **training_arguments
        Further options of ``transformers.TrainingArguments``, e.g. ``gradient_accumulation_steps=2``.

    Returns
    -------
    xarray.Dataset
        ``loss``, ``learning_rate``, ``step_seconds`` (step); ``validation`` (evaluation, metric),
        ``validation_loss``, ``evaluation_seconds`` (evaluation); ``rank``, ``alpha`` (module);
        ``trainable_parameters`` (part: adapter, head); ``score`` of the last evaluation as GLUE reports it, a
        fraction; ``seconds`` of training without evaluations, ``seconds_per_step`` (median), ``peak_memory`` on the
        GPU (NaN without one); and in the attributes the origin of it all.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, NotADirectoryError, PermissionError
        Before any training, naming the argument: an unknown task or adapter, an option out of range, a plan of
        another model, labels that do not fit, a folder that cannot be written or holds another run.
    FloatingPointError
        If the loss is no longer finite, naming the step; the last checkpoint is kept.

    Warns
    -----
    UserWarning
        If the plan was made with other weights of the same architecture.
    """
    adapt = find_adapter(adapter)
    options = Options(
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        eval_batch_size=eval_batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        warmup_ratio=warmup_ratio,
        schedule=schedule,
        dropout=dropout,
        max_length=max_length,
        seed=seed,
        eval_steps=eval_steps,
        save_steps=save_steps,
        device=device,
        precision=precision,
        training_arguments=training_arguments,
    )
    ranks = _read_plan(plan)
    check_device(device)
    check_training_arguments(training_arguments)
    data = load_task(task, data_dir, n_train=n_train, n_validation=n_validation, seed=seed)
    folder = open_run(output_dir, resume)
    with quiet_libraries(), own_generators(int(seed)):
        classifier = load_classifier(
            model,
            data,
            tokenizer=tokenizer,
            precision=precision,
            revision=revision,
            trust_remote_code=trust_remote_code,
        )
        adapted = adapt(classifier, ranks, dropout)
        adapted = replace(adapted, callbacks=(*adapted.callbacks, *callbacks))
        return _open_or_run(folder, classifier, adapted, data, adapter, options, progress)


def _open_or_run(
    folder: Path,
    classifier: Classifier,
    adapted: Adapted,
    data: TaskData,
    adapter: str,
    options: Options,
    progress: bool,
) -> xr.Dataset:
    """Return the record of the run in ``folder`` if it is finished, else run it to its end."""
    arguments = to_training_arguments(options, folder / CHECKPOINT_FOLDER)
    claim_run(folder, _identity(classifier, data, adapted.plan, adapter, options))
    if (folder / RECORD_FILE).exists():
        return open_record(folder / RECORD_FILE)
    return _run(folder, classifier, adapted, data, adapter, options, arguments, progress)


def _run(
    folder: Path,
    classifier: Classifier,
    adapted: Adapted,
    data: TaskData,
    adapter: str,
    options: Options,
    arguments: "TrainingArguments",
    progress: bool,
) -> xr.Dataset:
    from gelora.finetuning.training import run_training

    checkpoint = last_checkpoint(folder)
    limit = length_limit(classifier.model, classifier.tokenizer, options.max_length)
    trainer, counts = _trainer(classifier, adapted, data, arguments, checkpoint, limit, progress)
    _reset_peak_memory()
    run_training(trainer, checkpoint, evaluate_again=bool(arguments.load_best_model_at_end))
    _save_predictions(trainer, data, folder / PREDICTIONS_FILE)
    attributes = _attributes(classifier, adapted, data, adapter, options) | counts
    attributes |= {"max_length": limit, "device": str(arguments.device)}
    record = make_record(
        trainer.history,
        adapted.plan,
        metrics=data.task.metrics,
        n_adapter=adapted.n_adapter,
        n_head=adapted.n_head,
        peak_memory=_peak_memory(str(arguments.device)),
        attributes=attributes,
    )
    facts = _card_facts(classifier, adapted, data, adapter, record)
    save_adapter(adapted.model, classifier.tokenizer, folder / ADAPTER_FOLDER, facts, attributes)
    save_record(record, folder / RECORD_FILE)  # last: it says that the run is finished
    return record


def _trainer(
    classifier: Classifier,
    adapted: Adapted,
    data: TaskData,
    arguments: "TrainingArguments",
    checkpoint: Path | None,
    limit: int,
    progress: bool,
) -> tuple["RecordingTrainer", dict[str, int]]:
    from gelora.finetuning.callbacks import History
    from gelora.finetuning.training import make_trainer

    task = data.task
    train, train_cut = encode_split(data.train, task, classifier.tokenizer, limit)
    validation, validation_cut = encode_split(data.validation, task, classifier.tokenizer, limit)
    stored = read_state(checkpoint)["stateful_callbacks"]["History"]["attributes"] if checkpoint else None
    trainer = make_trainer(
        adapted.model,
        arguments,
        classifier.tokenizer,
        train,
        validation,
        history=History(stored),
        evaluate_outputs=lambda logits, labels: evaluate_predictions(
            logits, labels, problem=task.problem, metrics=task.metrics, score=task.score
        ),
        callbacks=adapted.callbacks,
        progress=progress,
    )
    return trainer, {"n_train_truncated": train_cut, "n_validation_truncated": validation_cut}


def _read_plan(plan: Any) -> RankPlan:
    if isinstance(plan, RankPlan):
        return plan
    if not isinstance(plan, str | Path):
        raise TypeError(
            "`plan` must be a RankPlan as `gelora.plan_ranks` returns, or the path of its file, got "
            f"{type(plan).__name__}"
        )
    return RankPlan.load(plan)


def _identity(classifier: Classifier, data: TaskData, plan: RankPlan, adapter: str, options: Options) -> dict[str, Any]:
    """Return what makes two calls the same run."""
    return {
        "model": classifier.model.config.model_type,
        "weights_fingerprint": classifier.weights,
        "tokenizer": f"{type(classifier.tokenizer).__name__} of {len(classifier.tokenizer)} tokens",
        "task": data.task.name,
        "metrics": list(data.task.metrics),
        "data_fingerprint": data.fingerprint(),
        "adapter": adapter,
        "plan_fingerprint": _plan_fingerprint(plan),
        **options.identity(),
    }


def _plan_fingerprint(plan: RankPlan) -> str:
    return fingerprint(json.dumps(asdict(module), sort_keys=True).encode() for module in plan.modules)


def _attributes(
    classifier: Classifier, adapted: Adapted, data: TaskData, adapter: str, options: Options
) -> dict[str, Any]:
    plan = adapted.plan
    return {
        "task": data.task.name,
        "problem": data.task.problem,
        "labels": list(data.task.label_names),
        "score_metrics": list(data.task.score),
        "data": data.source,
        "data_fingerprint": data.fingerprint(),
        "n_train": len(data.train),
        "n_validation": len(data.validation),
        "model": str(classifier.model.name_or_path),
        "model_class": type(classifier.model).__name__,
        "revision": str(getattr(classifier.model.config, "_commit_hash", None) or ""),
        "tokenizer": str(classifier.tokenizer.name_or_path),
        "weights_fingerprint": classifier.weights,
        "adapter": adapter,
        "policy": plan.policy,
        "scaling": plan.scaling,
        "ranks": {module.name: module.rank for module in plan.modules},
        "plan_fingerprint": _plan_fingerprint(plan),
        "plan_provenance": dict(plan.provenance),
        "modules_trained_whole": list(classifier.head),
        "seed": options.seed,
        "options": json.loads(json.dumps(asdict(options), default=str)),
        "versions": package_versions(),
        "created": timestamp(),
    }


def _card_facts(
    classifier: Classifier, adapted: Adapted, data: TaskData, adapter: str, record: xr.Dataset
) -> Mapping[str, Any]:
    return {
        "base": str(classifier.model.name_or_path or "<the model that was tuned>"),
        "dtype": str(classifier.model.dtype).removeprefix("torch."),
        "adapter": adapter,
        "task": data.task.name,
        "version": package_versions(["gelora"]).get("gelora", ""),
        "created": record.attrs["created"],
        "policy": adapted.plan.policy,
        "ranks": describe_ranks(adapted.plan),
        "n_adapter": adapted.n_adapter,
        "n_head": adapted.n_head,
        "n_validation": len(data.validation),
        "metrics": ", ".join(data.task.score),
        "score": float(record["score"]),
        "num_labels": data.num_labels,
        "pad_token_id": classifier.tokenizer.pad_token_id,
        "labels": ", ".join(data.task.label_names) or "a number",
    }


def _save_predictions(trainer: "RecordingTrainer", data: TaskData, path: Path) -> None:
    import pandas as pd

    logits, labels = trainer.logits, trainer.labels
    table = logits.reshape(len(labels), -1)
    columns: dict[str, Any] = {"label": labels, "prediction": predict(logits, data.task.problem)}
    columns |= {f"logit_{index}": table[:, index] for index in range(table.shape[1])}
    with atomic_path(path) as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)


def _reset_peak_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_memory(device: str) -> float:
    import torch

    return float(torch.cuda.max_memory_allocated()) if device.startswith("cuda") else math.nan
