"""Commands that tune, hold theorems against a model, and draw."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from gelora.cli_options import Model, Progress, Revision, Seed, Trust, app


@app.command(epilog="Example: `gelora demo --output demo-output`")
def demo(
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo-output"),
    n_samples: Annotated[int, typer.Option(help="Sentences the profile is estimated on.")] = 2000,
    n_train: Annotated[int, typer.Option(help="Labelled sentences to fine-tune on.")] = 2000,
    n_validation: Annotated[int, typer.Option(help="Labelled sentences for the scores.")] = 800,
    seed: Seed = 0,
    progress: Progress = True,
) -> None:
    """Walk the whole path offline: MiniLM on sentences from docstrings, profile, ranks, fine-tuning, figures."""
    from rich.console import Console

    from gelora.demo import run_demo
    from gelora.tables import plan_table, profile_table, record_table

    console = Console()
    result = run_demo(
        output,
        n_samples=n_samples,
        n_train=n_train,
        n_validation=n_validation,
        seed=seed,
        progress=progress,
        say=lambda line: console.print(line, highlight=False),
    )
    console.print(profile_table(result.profile, result.plans["gelora"], "Dimension ± standard error, and GeLoRA rank"))
    console.print(plan_table(result.plans, "Ranks"))
    console.print(record_table(result.records, "Fine-tuning"))
    console.print("written:", *(f"  {path}" for path in result.files), sep="\n", highlight=False, soft_wrap=True)


@app.command(
    epilog="Example: `gelora finetune --model DIR --task cola --data-dir DATA/cola --plan plan.json --output out/`"
)
def finetune(
    model: Model,
    task: Annotated[
        str,
        typer.Option(
            help="A GLUE task: cola, sst2, mrpc, stsb, rte, qnli, qqp, mnli or wnli; squad or squad_v2; instructions "
            "(prompt and response); images; or a YAML file that describes your own."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the record, the adapter and the checkpoints.")],
    plan: Annotated[
        Path | None,
        typer.Option(help="The rank plan (JSON), as `gelora ranks` writes; adapters without ranks go without."),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with train and validation, files or images by class; else the hub.")
    ] = None,
    adapter: Annotated[
        str,
        typer.Option(
            help="What is trained: full, bitfit, houlsby, pfeiffer, lora, rslora, dora, adalora, eva, sora or "
            "geolora; with options as in 'geolora(tolerance=0.2)'."
        ),
    ] = "lora",
    tokenizer: Annotated[str | None, typer.Option(help="Folder or hub name, if not the model's.")] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the train rows.")] = 3.0,
    max_steps: Annotated[int, typer.Option(help="Optimiser steps in place of epochs; -1 for none.")] = -1,
    batch_size: Annotated[int, typer.Option(help="Rows a batch.")] = 32,
    eval_batch_size: Annotated[int | None, typer.Option(help="For evaluation. [default: the same]")] = None,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW.")] = 5e-4,
    weight_decay: Annotated[float, typer.Option(help="Of AdamW.")] = 0.0548,
    warmup_ratio: Annotated[float, typer.Option(help="Share of the steps with a rising rate.")] = 0.0304,
    schedule: Annotated[str, typer.Option(help="Learning-rate schedule, by transformers' name.")] = "linear",
    dropout: Annotated[float, typer.Option(help="Of the inputs of the LoRA matrices.")] = 0.0188,
    max_length: Annotated[int, typer.Option(help="Tokens beyond this are cut.")] = 128,
    n_train: Annotated[int | None, typer.Option(help="Train rows drawn by the seed. [default: all]")] = None,
    n_validation: Annotated[int | None, typer.Option(help="Validation rows drawn. [default: all]")] = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Continue the run in the folder.")] = True,
    eval_steps: Annotated[int | None, typer.Option(help="Evaluate every so many steps. [default: each epoch]")] = None,
    save_steps: Annotated[int | None, typer.Option(help="Checkpoint every so many. [default: each epoch]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    quantization: Annotated[
        str | None, typer.Option(help="nf4, fp4 or int8: load the frozen weights quantised (needs bitsandbytes).")
    ] = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    progress: Progress = True,
) -> None:
    """Fine-tune a model on a task with the ranks of a plan."""
    options = dict(locals())  # before anything else: named like the function's arguments, handed on by name
    options["output_dir"] = options.pop("output")
    if task.endswith((".yaml", ".yml")):
        from gelora.study.reading import read_task

        own = read_task(task)
        options["task"], task = own.task, own.task.name
        options["data_dir"] = own.data_dir if data_dir is None else data_dir
    from rich.console import Console

    from gelora.finetuning.runner import finetune as run
    from gelora.tables import record_table

    record = run(**options)
    Console().print(record_table({task: record}))
    typer.echo(f"written: {output / 'record.nc'}, {output / 'adapter'}")


@app.command(
    epilog="Example: `gelora theory profile.nc --model DIR --plan plan.json --task sst2 --data-dir DATA/sst2 "
    "--output report.nc`"
)
def theory(
    model: Model,
    profile: Annotated[Path, typer.Argument(help="The profile of this model (netCDF).")],
    output: Annotated[Path, typer.Option(help="The report to write (netCDF).")],
    plan: Annotated[Path | None, typer.Option(help="The rank plan (JSON): says what would be adapted.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="File with texts for the Jacobians. [default: the task's rows]")
    ] = None,
    text_column: Annotated[list[str] | None, typer.Option(help="Column with the texts; twice for pairs.")] = None,
    task: Annotated[str | None, typer.Option(help="A GLUE task, for the Fisher information; needs a plan.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the task's train and validation files; else the hub is asked.")
    ] = None,
    estimator: Annotated[str | None, typer.Option(help="Which of the profile's estimators.")] = None,
    n_points: Annotated[int, typer.Option(help="Texts at which Jacobians are taken.")] = 8,
    n_probes: Annotated[int | None, typer.Option(help="Probes for a wide model. [default: exact]")] = None,
    max_examples: Annotated[int, typer.Option(help="Labelled rows for the Fisher information.")] = 256,
    max_length: Annotated[int | None, typer.Option(help="Tokens beyond this are cut.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or hub name, if not the model's.")] = None,
    seed: Seed = 0,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    progress: Progress = True,
) -> None:
    """Hold GeLoRA's theorems against a model: ranks of Jacobians and of the Fisher information, by block."""
    from gelora.files import check_writable

    check_writable(output)
    if task is None and data is None:
        raise ValueError("`data` or `task` must be given: the Jacobians are taken at examples")
    if task is not None and plan is None:
        raise ValueError("`plan` must be given with `task`: the Fisher information is that of adapted parameters")
    from rich.console import Console

    from gelora.plan import RankPlan
    from gelora.profile import open_profile
    from gelora.theory import save_report, theory_report, theory_table

    found, ranks_of = open_profile(profile), None if plan is None else RankPlan.load(plan)
    loaded: Any = model
    batches = None
    own: dict[str, Any] = {"tokenizer": tokenizer, "seed": seed, "revision": revision}
    own["trust_remote_code"] = trust_remote_code
    if task is not None:
        from gelora.finetuning.labelled import labelled_batches

        loaded, batches = labelled_batches(
            model, task, data_dir, n_examples=max_examples, max_length=max_length or 128, **own
        )
    report = theory_report(
        loaded,
        found,
        data,
        plan=ranks_of,
        labelled_batches=batches,
        estimator=estimator,
        n_points=n_points,
        n_probes=n_probes,
        max_examples=max_examples,
        text_column=text_column,
        max_length=max_length,
        progress=progress,
        **own,
    )
    save_report(report, output)
    Console().print(theory_table(report))
    typer.echo(f"written: {output}")


@app.command(
    epilog="Example: `gelora plot profile.nc --output profile.png`; "
    "`gelora plot profile.nc --kind scales --estimator mle --output scales.pdf`; "
    "`gelora plot plan.json uniform.json --output ranks.png`; "
    "`gelora plot out/record.nc --kind score --output score.png`; "
    "`gelora plot comparison.nc --cost seconds --task rte --output rte.png`"
)
def plot(
    source: Annotated[
        list[Path],
        typer.Argument(
            help="A profile, a comparison, a persistence or a spanning tree (.nc); one or more training records (.nc); "
            "or one or more rank plans (.json). What a file holds stands in the file."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The picture to write: .png, .pdf or .svg.")],
    kind: Annotated[
        str | None,
        typer.Option(
            help="What to draw. Profile: profile, scales. Plans: ranks, probabilities. Records: loss, score, "
            "learning_rate, rank. Persistence: diagram, barcode. [default: the first]"
        ),
    ] = None,
    estimator: Annotated[
        list[str] | None, typer.Option(help="Of a profile: estimators to draw; of scales one. [default: all]")
    ] = None,
    cost: Annotated[
        str | None, typer.Option(help="Of a comparison: parameters or seconds. [default: parameters]")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Of a comparison: a task, or average. [default: average of several]")
    ] = None,
) -> None:
    """Draw a profile, rank plans, training records, a comparison, bars of persistent homology or a spanning tree."""
    from gelora.files import check_writable

    check_writable(output)
    from gelora.figures import draw_files

    draw_files(source, output, kind=kind, estimator=estimator, cost=cost, task=task)
    typer.echo(f"written: {output}")


@app.command(
    epilog="Example: `gelora compare study.yaml --data-dir DATA --output out/`; `gelora compare study.yaml --dry-run`"
)
def compare(
    study: Annotated[Path, typer.Argument(help="The study: a YAML file with model, tasks, methods, seeds, training.")],
    model: Annotated[str | None, typer.Option(help="Folder or hub name, in place of the study's.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with a folder for each task, likewise.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results, likewise.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the trainings with their parameters, no more.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Make those that failed once more.")] = False,
    progress: Progress = True,
) -> None:
    """Fine-tune by several methods on several tasks with several seeds, and compare them."""
    from rich.console import Console

    console = Console()
    if dry_run:
        from gelora.study import list_runs
        from gelora.study.tables import runs_table

        console.print(runs_table(list_runs(study, model=model, data_dir=data_dir, output=output)))
        return
    from gelora.study import compare as run
    from gelora.study import read_study
    from gelora.study.tables import comparison_table

    found = read_study(study, model=model, data_dir=data_dir, output=output)
    comparison = run(found, retry_failed=retry_failed, progress=progress)
    if os.environ.get("RANK", "0") != "0":  # of several processes the first tells
        return
    console.print(comparison_table(comparison))
    counts = comparison["status"].to_series().value_counts()
    typer.echo(f"{', '.join(f'{number} {status}' for status, number in counts.items())}; written: {found.output}")
    failed = comparison["error"].to_dataframe().reset_index()
    for row in failed[failed["error"] != ""].to_dict("records"):
        typer.echo(f"gelora: failed: {row['task']}/{row['method']}/seed-{row['seed']}: {row['error']}", err=True)
    if (failed["error"] != "").any():
        raise typer.Exit(1)
