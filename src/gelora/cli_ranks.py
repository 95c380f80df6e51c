"""Commands from a model to a rank plan, and from the plan to other tools."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from gelora.cli_options import Model, Progress, Revision, Seed, Trust, app


@app.command(
    epilog="Example: `gelora estimate --model DIR --data train.parquet --text-column sentence "
    "--estimator twonn --estimator 'mle(k1=5)' --n-samples 2000 --output profile.nc`"
)
def estimate(
    model: Model,
    data: Annotated[Path, typer.Option(help="Text, CSV, TSV, JSON lines or Parquet file; or a folder of images.")],
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
    confidence: Annotated[
        float | None, typer.Option(help="With --n-samples auto: stability to reach. [default: 0.9]")
    ] = None,
    rounding: Annotated[
        str | None, typer.Option(help="With --n-samples auto: rounding of the ranks to settle. [default: ceil]")
    ] = None,
    seed: Seed = 0,
    max_length: Annotated[int | None, typer.Option(help="Tokens beyond this are cut.")] = None,
    n_tokens: Annotated[str, typer.Option(help="With pooling tokens: tokens kept; 'all' for all.")] = "20000",
    layers: Annotated[
        list[str] | None, typer.Option(help="Number of a layer to read, or module path of a block; once for each.")
    ] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder or hub name, if not the model's.")] = None,
    batch_size: Annotated[str, typer.Option(help="Texts run together; 'auto' for what fits into memory.")] = "32",
    device: Annotated[str | None, typer.Option(help="By default a GPU if there is one.")] = None,
    device_map: Annotated[
        str | None,
        typer.Option(
            help="Spread the model instead: auto, balanced, sequential, or a JSON object of modules and devices."
        ),
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="nf4, fp4 or int8: hold the weights in 4 or 8 bits (needs bitsandbytes).")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16, by automatic mixed precision.")
    ] = "float32",
    store: Annotated[
        Path | None,
        typer.Option(help="Folder for the hidden states: memory stays small, and a call that is cut off goes on."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="threads, serial, or the address of a dask scheduler. [default: threads]")
    ] = None,
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
        n_samples=_draw(n_samples, confidence, rounding),
        n_replicates=n_replicates,
        confidence=confidence if n_samples != "auto" else None,
        seed=seed,
        text_column=text_column,
        max_length=max_length,
        n_tokens=_count("n_tokens", n_tokens),
        layers=_layers(layers),
        tokenizer=tokenizer,
        batch_size=batch_size if batch_size == "auto" else _count("batch_size", batch_size, "auto"),
        device=device,
        device_map=_device_map(device_map),
        quantization=quantization,
        precision=precision,
        store=store,
        all_processes=int(os.environ.get("WORLD_SIZE", "1")) > 1,
        scheduler=scheduler,
        revision=revision,
        trust_remote_code=trust_remote_code,
        progress=progress,
    )
    if os.environ.get("RANK", "0") != "0":  # of several processes the first writes
        return
    save_profile(profile, output)
    Console().print(profile_table(profile, title="Dimension ± standard error"))
    typer.echo(f"written: {output}")


@app.command(
    epilog="Example: `gelora ranks profile.nc --model DIR --estimator twonn --output plan.json`; "
    "`gelora ranks --model DIR --policy uniform --budget 100000 --output uniform.json`; "
    "`gelora ranks --model DIR --policy fisher --task sst2 --data-dir DATA/sst2 --budget 100000 --output fisher.json`"
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
    rounding: Annotated[
        str | None, typer.Option(help="ceil, round or floor. [default: ceil, of recommended round]")
    ] = None,
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
        if data_dir is not None:
            raise ValueError("`data_dir` goes with `task`: name the task, or leave the folder out")
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
        report = ranks.check(loaded, ranks.to_lora_config())  # what is written, not what the model alone would get
        typer.echo(f"checked: {len(report.modules)} matrices, {report.n_parameters:,} parameters")
    typer.echo(f"written: {ranks.export(output, format)}")


def _draw(n_samples: str, confidence: float | None, rounding: str | None) -> Any:
    """Return the number of rows, or the rule that decides it."""
    if n_samples != "auto":
        if rounding is not None:
            raise ValueError("`rounding` goes with --n-samples auto: leave it out, and give it to `gelora ranks`")
        return _count("n_samples", n_samples)
    from gelora.stopping import UntilStable

    return UntilStable(confidence=0.9 if confidence is None else confidence, rounding=rounding or "ceil")


def _device_map(text: str | None) -> Any:
    """Read a JSON object as such; another text is the name of a way to spread."""
    if text is None or not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"is no JSON object ({error}), got {text!r}", param_hint="--device-map") from None


def _layers(given: list[str] | None) -> Any:
    """Read numbers of layers as such; others are module paths."""
    return [int(layer) if layer.isdecimal() else layer for layer in given] if given else None


def _count(name: str, text: str, word: str = "all") -> Any:
    """Read a whole number or a word, which stands for None."""
    if text == word:
        return None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(
            f"must be a whole number or {word!r}, got {text!r}", param_hint=f"--{name.replace('_', '-')}"
        ) from None
