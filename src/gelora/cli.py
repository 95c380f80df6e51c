"""The command line: options named like the arguments of the Python functions."""

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="gelora",
    help="Intrinsic dimension of transformer hidden states, and the LoRA ranks that follow from it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

Progress = Annotated[bool, typer.Option("--progress/--no-progress", help="Progress bars on standard error.")]
Seed = Annotated[int, typer.Option(help="Seed of every random draw.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on the hub.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")]
Model = Annotated[str, typer.Option(help="Folder or hub name of the model.")]


def main() -> None:
    """Run the command line; errors that a user can mend end in one line and exit code 1."""
    warnings.showwarning = _show_warning
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, ArithmeticError, RuntimeError) as error:
        if os.environ.get("GELORA_DEBUG"):
            raise
        typer.echo(f"gelora: error: {error}", err=True)
        sys.exit(1)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    typer.echo(f"gelora: {'warning' if category is UserWarning else category.__name__}: {message}", err=True)


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
    epilog="Example: `gelora estimate --model DIR --data train.parquet --text-column sentence "
    "--estimator twonn --estimator 'mle(k1=5)' --n-samples 2000 --output profile.nc`"
)
def estimate(
    model: Model,
    data: Annotated[Path, typer.Option(help="Text, CSV, TSV, JSON lines or Parquet file.")],
    output: Annotated[Path, typer.Option(help="The profile to write (netCDF).")],
    text_column: Annotated[
        list[str] | None, typer.Option(help="Column with the texts; twice for pairs, encoded together.")
    ] = None,
    estimator: Annotated[
        list[str] | None, typer.Option(help="Name, or name(option=value); may be given several times. [default: twonn]")
    ] = None,
    pooling: Annotated[str, typer.Option(help="mean, last, cls, max or tokens.")] = "mean",
    n_samples: Annotated[
        str, typer.Option(help="Rows drawn by the seed; 'all' for all, 'auto' until the ranks are stable.")
    ] = "5000",
    n_replicates: Annotated[int, typer.Option(help="Estimates on halves of the rows, for the ranks' errors.")] = 0,
    confidence: Annotated[float, typer.Option(help="With --n-samples auto: stability to reach.")] = 0.9,
    seed: Seed = 0,
    max_length: Annotated[int | None, typer.Option(help="Tokens beyond this are cut.")] = None,
    n_tokens: Annotated[str, typer.Option(help="With pooling tokens: tokens kept; 'all' for all.")] = "20000",
    layers: Annotated[list[str] | None, typer.Option(help="Module path of a block, once for each.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or hub name, if not the model's.")] = None,
    batch_size: Annotated[int, typer.Option(help="Texts run together.")] = 32,
    device: Annotated[str | None, typer.Option(help="By default a GPU if there is one.")] = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
    progress: Progress = True,
) -> None:
    """Estimate the intrinsic dimension of a model's hidden states, layer by layer."""
    from gelora.files import check_writable

    check_writable(output)
    from rich.console import Console

    from gelora.estimation import estimate as run
    from gelora.profile import save_profile
    from gelora.tables import profile_table

    profile = run(
        model,
        data,
        estimator=estimator or "twonn",
        pooling=pooling,
        n_samples="auto" if n_samples == "auto" else _count("n_samples", n_samples),
        n_replicates=n_replicates,
        confidence=confidence,
        seed=seed,
        text_column=text_column,
        max_length=max_length,
        n_tokens=_count("n_tokens", n_tokens),
        layers=layers,
        tokenizer=tokenizer,
        batch_size=batch_size,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )
    save_profile(profile, output)
    Console().print(profile_table(profile, title="Dimension ± standard error"))
    typer.echo(f"written: {output}")


@app.command(
    epilog="Example: `gelora ranks profile.nc --model DIR --estimator twonn --output plan.json`; "
    "`gelora ranks --model DIR --policy uniform --budget 50000 --output uniform.json`; "
    "`gelora ranks --model DIR --policy fisher --task sst2 --data-dir DATA/sst2 --budget 50000 --output fisher.json`"
)
def ranks(
    model: Model,
    output: Annotated[Path, typer.Option(help="The rank plan to write (JSON).")],
    profile: Annotated[
        list[Path] | None, typer.Argument(help="The profile (netCDF), or those of several tasks; uniform needs none.")
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="geometric (GeLoRA), recommended, uniform, proportional, budget, random, shuffled, reversed, "
            "eva or fisher."
        ),
    ] = "geometric",
    estimator: Annotated[str | None, typer.Option(help="Which of the profile's estimators decides.")] = None,
    scale: Annotated[float | None, typer.Option(help="Take its dimensions at this scale.")] = None,
    statistic: Annotated[str, typer.Option(help="Of a rise: point, mean, median or upper.")] = "point",
    confidence: Annotated[float, typer.Option(help="Of the upper quantile, and below which to warn.")] = 0.9,
    combine: Annotated[str, typer.Option(help="Of several profiles: max or mean.")] = "max",
    rounding: Annotated[str | None, typer.Option(help="ceil, round or floor. [default: ceil]")] = None,
    offset: Annotated[int, typer.Option(help="Added after rounding.")] = 1,
    minimum: Annotated[int, typer.Option(help="Smallest rank.")] = 1,
    maximum: Annotated[int | None, typer.Option(help="Largest rank.")] = None,
    undefined: Annotated[str, typer.Option(help="At an undefined dimension: error or minimum.")] = "error",
    rank: Annotated[int | None, typer.Option(help="Uniform, eva: rank of every block, mean rank.")] = None,
    budget: Annotated[int | None, typer.Option(help="Trainable adapter parameters, never exceeded.")] = None,
    scaling: Annotated[float, typer.Option(help="alpha / r, the same for every matrix.")] = 2.0,
    targets: Annotated[
        str, typer.Option(help="attention, ffn, all-linear, or a regular expression of module paths.")
    ] = "attention",
    roles: Annotated[
        list[str] | None, typer.Option(help="With targets attention: query, key, value, output. [default: all]")
    ] = None,
    task: Annotated[str | None, typer.Option(help="For eva and fisher: a GLUE task whose train rows are run.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Its folder with train and validation files.")] = None,
    n_examples: Annotated[int, typer.Option(help="Train rows run.")] = 256,
    seed: Seed = 0,
    revision: Revision = None,
    trust_remote_code: Trust = False,
) -> None:
    """Choose a LoRA rank for the matrices of every block."""
    from gelora.files import check_writable

    check_writable(output)
    from rich.console import Console

    from gelora.blocks import ROLES
    from gelora.profile import open_profile
    from gelora.ranks import plan_ranks
    from gelora.tables import plan_table, scale_table, stability_table

    target, data = _with_batches(model, task, data_dir, n_examples, seed, revision, trust_remote_code)
    opened = [open_profile(path) for path in profile or []]
    plan = plan_ranks(
        opened[0] if len(opened) == 1 else (opened or None),
        target,
        policy,
        estimator=estimator,
        scale=scale,
        statistic=statistic,
        confidence=confidence,
        combine=combine,
        rounding=rounding,
        offset=offset,
        minimum=minimum,
        maximum=maximum,
        undefined=undefined,
        rank=rank,
        budget=budget,
        scaling=scaling,
        targets=targets,
        roles=roles or ROLES,
        data=data,
        seed=seed,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )
    plan.save(output)
    console = Console()
    console.print(plan_table({policy: plan}))
    if plan.uncertainty is not None:
        console.print(stability_table(plan))
    if plan.by_scale is not None and plan.by_scale.scales:
        console.print(scale_table(plan))
    typer.echo(f"written: {output}")


def _with_batches(
    model: str,
    task: str | None,
    data_dir: Path | None,
    n_examples: int,
    seed: int,
    revision: str | None,
    trust_remote_code: bool,
) -> tuple[Any, Any]:
    """Return the model as it is named and no data, or the model with a head for the task and labelled batches."""
    if task is None:
        return model, None
    from gelora.finetuning.labelled import labelled_batches

    return labelled_batches(
        model,
        task,
        data_dir,
        n_examples=n_examples,
        seed=seed,
        revision=revision,
        trust_remote_code=trust_remote_code,
    )


@app.command(name="export", epilog="Example: `gelora export plan.json --format axolotl --output lora.yaml --model DIR`")
def export_plan(
    plan: Annotated[Path, typer.Argument(help="The rank plan (JSON), as `gelora ranks` writes.")],
    output: Annotated[Path, typer.Option(help="File for axolotl and trl, folder for peft and metamathqa.")],
    format: Annotated[str, typer.Option(help="peft, metamathqa, axolotl or trl.")] = "peft",
    model: Annotated[str | None, typer.Option(help="Folder or hub name: prove the plan on it first.")] = None,
    revision: Revision = None,
    trust_remote_code: Trust = False,
) -> None:
    """Write a rank plan for another tool: peft, its comparison on MetaMathQA, Axolotl or TRL."""
    from gelora.models import load_pretrained
    from gelora.plan import RankPlan

    ranks = RankPlan.load(plan)
    if model is not None:
        loaded = load_pretrained(model, revision=revision, trust_remote_code=trust_remote_code)
        report = ranks.check(loaded)
        typer.echo(f"checked: {len(report.modules)} matrices, {report.n_parameters:,} parameters")
    typer.echo(f"written: {ranks.export(output, format)}")


@app.command(
    epilog="Example: `gelora finetune --model DIR --task cola --data-dir DATA/cola --plan plan.json --output out/`"
)
def finetune(
    model: Model,
    task: Annotated[str, typer.Option(help="A GLUE task: cola, sst2, mrpc, stsb, rte, qnli, qqp, mnli or wnli.")],
    plan: Annotated[Path, typer.Option(help="The rank plan (JSON), as `gelora ranks` writes.")],
    output: Annotated[Path, typer.Option(help="Folder for the record, the adapter and the checkpoints.")],
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with train and validation files; without it the hub is asked.")
    ] = None,
    adapter: Annotated[str, typer.Option(help="What carries the ranks.")] = "lora",
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
    revision: Revision = None,
    trust_remote_code: Trust = False,
    progress: Progress = True,
) -> None:
    """Fine-tune a model on a task with the ranks of a plan."""
    options = dict(locals())  # before anything else: named like the function's arguments, handed on by name
    options["output_dir"] = options.pop("output")
    from rich.console import Console

    from gelora.finetuning.runner import finetune as run
    from gelora.tables import record_table

    record = run(**options)
    Console().print(record_table({task: record}))
    typer.echo(f"written: {output / 'record.nc'}, {output / 'adapter'}")


@app.command(
    epilog="Example: `gelora plot profile.nc --output profile.png`; `gelora plot plan.json --output ranks.png`"
)
def plot(
    source: Annotated[list[Path], typer.Argument(help="A profile (.nc), or one or more rank plans (.json).")],
    output: Annotated[Path, typer.Option(help="The picture to write: .png, .pdf or .svg.")],
    estimator: Annotated[list[str] | None, typer.Option(help="Estimators to draw. [default: all]")] = None,
) -> None:
    """Draw a profile, or rank plans side by side."""
    from gelora.files import check_writable

    check_writable(output)
    from gelora.figures import draw_files

    draw_files(source, output, estimator=estimator)
    typer.echo(f"written: {output}")


def _count(name: str, text: str) -> int | None:
    """Read a whole number or ``all``."""
    if text == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(
            f"must be a whole number or 'all', got {text!r}", param_hint=f"--{name.replace('_', '-')}"
        ) from None


if __name__ == "__main__":
    main()
