"""Profiles and rank plans of six tasks on MiniLM: TwoNN rounded up, as in the paper, and the recommended policy.

Usage: python paper_figures/measure/rank_patterns.py --data FOLDER

Writes, for each task, ``rank_patterns/TASK.nc`` (the profile, with its replicates) and ``TASK-paper.json`` and
``TASK-recommended.json`` (the plans, with the probabilities of their ranks). SQuAD's questions and contexts are cut
to 128 tokens a pair. A task whose three files stand there is not measured again.
"""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from _origin import MODEL, make_parser, origin
from tqdm import tqdm

from gelora import estimate, plan_ranks, save_profile
from gelora.demo import demo_model
from gelora.files import make_folder
from gelora.finetuning.tasks import load_task
from gelora.policies import RECOMMENDED_ESTIMATOR

TASKS = ("cola", "sst2", "mrpc", "stsb", "rte", "squad")
# Halves of 2,200 rows hold a batch of 1,000, which the recommended estimator needs, also without the copies.
SETTING: dict[str, Any] = {"n_samples": 2200, "n_replicates": 20, "max_length": 128, "progress": False}


def read_texts(task: str, data: Path) -> list[Any]:
    """Return the train rows of a task: texts, or pairs of them."""
    loaded = load_task(task, data / task)
    columns = [list(loaded.train[name]) for name in loaded.task.text]
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def measure(task: str, data: Path, folder: Path, source: dict[str, Any]) -> None:
    """Estimate, plan twice, write three files."""
    profile = estimate(demo_model(), read_texts(task, data), estimator=["twonn", RECOMMENDED_ESTIMATOR], **SETTING)
    named = {"model": MODEL, "tokenizer": MODEL, "task": task, "command": source["command"]}
    profile = profile.assign_attrs(named | {"machine": source["machine"]})
    policies = {"paper": ("geometric", "twonn"), "recommended": ("recommended", None)}
    for name, (policy, estimator) in policies.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a plan is unstable is what the figure shows
            plan = plan_ranks(profile, demo_model(), policy, estimator=estimator)
        provenance = {**plan.provenance, "model": MODEL, "task": task, "origin": source}
        replace(plan, provenance=provenance).save(folder / f"{task}-{name}.json")
    save_profile(profile, folder / f"{task}.nc")  # last: a task with a profile is finished


def main() -> None:
    """Measure the tasks that are not there yet."""
    parser = make_parser(__doc__)
    parser.add_argument("--task", choices=TASKS, help="this one alone")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error(f"--data must be given: a folder with {', '.join(TASKS)}")
    folder = make_folder(arguments.output / "rank_patterns")
    wanted = [arguments.task] if arguments.task else TASKS
    for task in tqdm([one for one in wanted if not (folder / f"{one}.nc").exists()], desc="tasks"):
        measure(task, arguments.data, folder, origin(arguments))


if __name__ == "__main__":
    main()
