"""Intermediate-task tuning: profiles of RTE and STS-B on MiniLM before and after it is tuned on MRPC, with errors.

Run by ``python tests/benchmarks/intermediate_tuning.py --data FOLDER``, with a folder of GLUE files; writes the four
profiles, ``rte-before.nc`` …, and ``intermediate.json`` with what made them to ``paper_figures/profiles/intermediate``.
Figure 3 of GeLoRA (arXiv 2412.09250) shows the same of DeBERTaV3-base; this is another model, tuned shortly.
"""

import argparse
import platform
import tempfile
from pathlib import Path
from typing import Any

from gelora import estimate, finetune, save_profile
from gelora.demo import demo_model
from gelora.files import atomic_path, make_folder, to_json
from gelora.finetuning.loading import load_adapter
from gelora.finetuning.tasks import load_task
from gelora.provenance import package_versions, timestamp

ESTIMATORS = ("twonn", "minibatch:mle(batch_size=1000)")
TUNING: dict[str, Any] = {
    "adapter": "full",
    "batch_size": 16,
    "eval_batch_size": 32,
    "max_length": 64,
    "learning_rate": 1e-4,
    "train_sampling_strategy": "group_by_length",
}


def main() -> None:
    """Tune on MRPC, and estimate before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with mrpc/, rte/ and stsb/")
    parser.add_argument("--steps", type=int, default=150, help="steps of 16 rows on MRPC; 230 are one epoch")
    parser.add_argument("--replicates", type=int, default=20, help="estimates on halves of the rows")
    parser.add_argument("--output", type=Path, default=Path("paper_figures/profiles/intermediate"))
    arguments = parser.parse_args()
    folder = make_folder(arguments.output)
    with tempfile.TemporaryDirectory() as scratch:
        record = finetune(
            demo_model(),
            "mrpc",
            data_dir=arguments.data / "mrpc",
            output_dir=Path(scratch) / "mrpc",
            max_steps=arguments.steps,
            **TUNING,
        )
        classifier, tokenizer = load_adapter(Path(scratch) / "mrpc" / "adapter")
        tuned: Any = classifier.base_model
    options: dict[str, Any] = {"estimator": list(ESTIMATORS), "n_replicates": arguments.replicates, "max_length": 64}
    for task in ("rte", "stsb"):
        rows = load_task(task, arguments.data / task).train
        texts = list(zip(rows["sentence1"], rows["sentence2"], strict=True))
        for when, model in (("before", demo_model()), ("after", tuned)):
            profile = estimate(model, texts, tokenizer=tokenizer, **options)
            named = {"model": f"all-MiniLM-L6-v2, {when} tuning on MRPC", "tokenizer": "all-MiniLM-L6-v2"}
            save_profile(profile.assign_attrs(named), folder / f"{task}-{when}.nc")
    facts = {
        "tuning": TUNING | {"task": "mrpc", "steps": arguments.steps, "score": float(record["score"])},
        "validation": dict(
            zip(record["metric"].values.tolist(), record["validation"][-1].values.tolist(), strict=True)
        ),
        "estimation": options,
        "machine": f"{platform.processor() or platform.machine()}, CPU",
        "versions": package_versions(),
        "date": timestamp()[:10],
    }
    with atomic_path(folder / "intermediate.json") as temporary:
        temporary.write_text(to_json(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
