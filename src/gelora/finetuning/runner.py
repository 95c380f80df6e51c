"""Fine-tune a model on a task with the ranks of a plan."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from gelora.files import atomic_path
from gelora.finetuning.adaptation import Adapted, Adapter, Setting, count_head
from gelora.finetuning.adapter_folder import save_adapter
from gelora.finetuning.adapters import check_plan_use, make_adapter
from gelora.finetuning.checkpoints import (
    ADAPTER_FOLDER,
    CHECKPOINT_FOLDER,
    PREDICTIONS_FILE,
    RECORD_FILE,
    claim_run,
    last_checkpoint,
    open_run,
)
from gelora.finetuning.classifiers import load_classifier
from gelora.finetuning.encoded import Inputs, make_inputs
from gelora.finetuning.memory import PeakMemory
from gelora.finetuning.options import Options, check_device, check_training_arguments, to_training_arguments
from gelora.finetuning.quantized import check_quantization, forget_weights
from gelora.finetuning.record import make_record, open_record, save_record
from gelora.finetuning.run import Run, bind_plan, read_plan
from gelora.finetuning.tasks import Task, load_task
from gelora.plan import RankPlan
from gelora.quiet import own_generators, quiet_libraries

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainingArguments

    from gelora.finetuning.training import RecordingTrainer


def finetune(
    model: Any,
    task: str | Task,
    plan: RankPlan | str | Path | None = None,
    adapter: str | Adapter = "lora",
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
    quantization: str | None = None,
    **training_arguments: Any,
) -> xr.Dataset:
    """Tune ``model`` on ``task`` with the ranks of ``plan``, on Hugging Face's Trainer.

    The defaults of learning rate, weight decay, warm-up, schedule, dropout and batch size are the one set that is
    known of GeLoRA's experiments (MRPC with DeBERTaV3-base).

    Parameters
    ----------
    model : PreTrainedModel, str or Path
        A folder or hub name, or a loaded model with or without a head for the task; a loaded one is copied and stays
        as it is.
    task : str or Task
        The name of a GLUE task, e.g. ``"cola"``; ``"squad"`` or ``"squad_v2"``; ``"instructions"`` for prompts and
        responses; ``"images"`` for folders of images named by class; or a `gelora.finetuning.tasks.Task` of your own.
        Images are not augmented.
    plan : RankPlan, str or Path, optional
        As `gelora.plan_ranks` returns, or its JSON file. Adapters without ranks take none.
    adapter : str or Adapter
        What is trained: a name in `gelora.finetuning.adapters.ADAPTERS`, options may stand in it, as in
        ``"rslora(alpha=16)"``; or an instance of an adapter's class. A geometric plan on ``"lora"`` is GeLoRA.
    output_dir : str or Path
        Folder for ``record.nc``, ``adapter/`` (its ``README.md`` says how to load it; `load_adapter` of
        `gelora.finetuning.loading` loads any), ``predictions.parquet`` (validation labels, predictions and logits; of
        questions the answers with their scores; of responses their negative log-likelihoods),
        ``checkpoints/`` and ``run.json``.
    data_dir : str or Path, optional
        Folder with ``train`` and ``validation`` files, or folders of images; see `gelora.finetuning.tasks.load_task`.
    tokenizer : optional
        A tokenizer, or for images an image processor, its folder or name; by default the one beside the weights.
    epochs : float
        Passes over the train rows.
    max_steps : int
        Steps of the optimiser in all, in place of ``epochs``; −1 for none.
    batch_size, eval_batch_size : int
        Rows a batch; for evaluation the same unless given. Several processes, started by torchrun or ``accelerate
        launch``, share them: where all batches are full, a run does not depend on their number, but for rounding and
        what is dropped out. Language modelling weighs the processes alike, whatever their responses' lengths.
    learning_rate, weight_decay : float
        Of AdamW.
    warmup_ratio : float
        Share of the steps over which the learning rate rises from 0.
    schedule : str
        What it does then, by transformers' names: ``"linear"`` falls to 0.
    dropout : float
        Of the inputs of the adapter's matrices, where it has some.
    max_length : int
        Tokens a text, a pair or a prompt with its response is cut to, or of a window of a context; fewer where the
        model takes fewer. Not of images.
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
    quantization : {"nf4", "fp4", "int8"}, optional
        Hold the frozen weights of a model given by name in 4 or 8 bits, by bitsandbytes, as QLoRA does (Dettmers et
        al. 2023, arXiv 2305.14314); for the adapters LoRA, rsLoRA, DoRA and EVA. The head stays as it is. Whether
        the plan was made with the same weights cannot be checked then.
    **training_arguments
        Further options of ``transformers.TrainingArguments``, e.g. ``gradient_accumulation_steps=2``.

    Returns
    -------
    xarray.Dataset
        ``loss``, ``learning_rate``, ``step_seconds`` (step); ``validation`` (evaluation, metric),
        ``validation_loss``, ``evaluation_seconds`` (evaluation); ``rank``, ``alpha`` at the end (module);
        ``rank_history`` (change, module) with the step of each change of the ranks; ``trainable_parameters`` as
        saved (part: adapter, head); ``score`` of the last evaluation as GLUE reports it, a fraction: of questions F1;
        of responses the mean negative log-likelihood of a token, of which less is better; ``seconds`` of
        training without evaluations, ``seconds_per_step`` (median), ``preparation_seconds`` of adapters that learn
        from train rows where to start, ``peak_memory`` in bytes, see
        `gelora.finetuning.memory.PeakMemory`; and in the attributes the origin of it all.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, NotADirectoryError, PermissionError
        Before any training, naming the argument: an unknown task or adapter, an option out of range, a plan of
        another model, a rank above the size of its matrix, a plan for an adapter without ranks, labels that do not
        fit, a folder that cannot be written or holds another run.
    FloatingPointError
        If the loss is no longer finite, naming the step; the last checkpoint is kept.

    Warns
    -----
    UserWarning
        If the plan was made with other weights of the same architecture, or the newest checkpoint is damaged: the
        one before it is used.
    """
    passed = dict(locals())  # before anything else: options are named like the arguments
    chosen = make_adapter(adapter)
    check_plan_use(chosen, plan is not None)
    check_quantization(quantization, model, chosen.name)
    options = Options(**{name: passed[name] for name in Options.__dataclass_fields__})
    ranks = None if plan is None else read_plan(plan)
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
            quantization=quantization,
            device=device,
        )
        if ranks is not None and quantization is not None:
            ranks = forget_weights(ranks)
        bound = None if ranks is None else bind_plan(ranks, classifier)
        return _open_or_train(folder, Run(classifier, bound, data, chosen, options), callbacks, progress)


def _open_or_train(folder: Path, run: Run, callbacks: Sequence["TrainerCallback"], progress: bool) -> xr.Dataset:
    """Return the record of the run in ``folder`` if it is finished, else train to its end."""
    arguments = to_training_arguments(run.options, folder / CHECKPOINT_FOLDER)
    better = run.data.task.better_when_greater(str(arguments.metric_for_best_model).removeprefix("eval_"))
    if better is not None and "greater_is_better" not in run.options.training_arguments:
        arguments.greater_is_better = better  # Trainer goes by the ending of the name
    if (folder / RECORD_FILE).exists():
        claim_run(folder, run.identity())
        return open_record(folder / RECORD_FILE)
    inputs = functools.cache(lambda: make_inputs(run.classifier, run.data, run.options.max_length))
    setting = Setting(
        classifier=run.classifier,
        plan=run.plan,
        dropout=run.options.dropout,
        seed=run.options.seed,
        batches=lambda: inputs().batches(run.options.batch_size, run.options.seed),
    )
    n_head = count_head(run.classifier)  # before the adapter wraps it
    adapted = run.adapter(setting)
    adapted = replace(adapted, callbacks=(*adapted.callbacks, *callbacks))
    if arguments.process_index == 0:
        claim_run(folder, run.identity())
    return _train(folder, run, adapted, n_head, inputs(), arguments, progress)


def _train(
    folder: Path,
    run: Run,
    adapted: Adapted,
    n_head: int,
    inputs: Inputs,
    arguments: "TrainingArguments",
    progress: bool,
) -> xr.Dataset:
    from gelora.finetuning.training import run_training

    checkpoint = last_checkpoint(folder)
    trainer = _trainer(adapted, inputs, arguments, checkpoint, progress)
    memory = PeakMemory(str(arguments.device))
    run_training(trainer, checkpoint, evaluate_again=bool(arguments.load_best_model_at_end))
    attributes = run.attributes() | dict(inputs.facts) | {"device": str(arguments.device)}
    record = make_record(
        trainer.history,
        run.plan,
        adapted,
        metrics=run.data.task.metrics,
        n_head=n_head,
        peak_memory=memory.read(),
        attributes=attributes,
    )
    if arguments.process_index == 0:
        _save_predictions(trainer, inputs, folder / PREDICTIONS_FILE)
        save_adapter(adapted, inputs.processor, folder / ADAPTER_FOLDER, run.card_facts(record), attributes)
        save_record(record, folder / RECORD_FILE)  # last: it says that the run is finished
    return record


def _trainer(
    adapted: Adapted,
    inputs: Inputs,
    arguments: "TrainingArguments",
    checkpoint: Path | None,
    progress: bool,
) -> "RecordingTrainer":
    from gelora.finetuning.callbacks import History
    from gelora.finetuning.training import make_trainer, restore_callbacks

    history = History(ranks=adapted.ranks, moving=adapted.moving_ranks)
    if checkpoint is not None:
        restore_callbacks([history, *adapted.callbacks], checkpoint)
    return make_trainer(
        adapted,
        arguments,
        inputs,
        history=history,
        progress=progress,
    )


def _save_predictions(trainer: "RecordingTrainer", inputs: Inputs, path: Path) -> None:
    import pandas as pd

    columns = dict(inputs.tabulate(trainer.logits, trainer.labels))
    with atomic_path(path) as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)
