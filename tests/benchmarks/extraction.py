"""Extraction: its time beside the plain loop, its memory against the number of texts, and a kill in the middle.

Run by ``python tests/benchmarks/extraction.py --data FOLDER``, with a folder of GLUE files; writes ``extraction.json``
and ``extraction.png`` to ``docs/benchmarks``. ``--part`` measures one part and leaves the others.
"""

import argparse
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gelora.files import atomic_path, to_json
from gelora.provenance import package_versions

PARTS = ("speed", "memory", "kill")
ESTIMATORS = ("twonn", "mle", "gride")
SIZES = (1000, 5000, 20_000, 67_349)
OUTPUT = Path("docs/benchmarks")


def sentences(data: Path) -> list[str]:
    """Return 2,000 sentences, half of CoLA and half of SST-2, mixed."""
    import pandas as pd

    found = [
        pd.read_parquet(data / task / "train.parquet")["sentence"].head(1000).tolist() for task in ("cola", "sst2")
    ]
    mixed = [text for part in found for text in part]
    random.Random(0).shuffle(mixed)
    return mixed


def plain_loop(model: Any, tokenizer: Any, texts: list[str]) -> list[Any]:
    """Pool hidden states as one writes it down: batches of 32 in given order, padded to the longest."""
    import torch

    parts: list[list[Any]] = []
    with torch.no_grad():
        for start in range(0, len(texts), 32):
            batch = tokenizer(texts[start : start + 32], padding=True, truncation=True, return_tensors="pt")
            states = model(**batch, output_hidden_states=True).hidden_states
            mask = batch["attention_mask"][:, :, None].float()
            parts.append([((state * mask).sum(1) / mask.sum(1)).numpy() for state in states])
    return [np.concatenate(layer) for layer in zip(*parts, strict=True)]


def measure_speed(data: Path, pairs: int) -> dict[str, Any]:
    """Time the plain loop, and ours with the estimators, by turns in one process."""
    from transformers import AutoModel, AutoTokenizer

    from gelora import estimate
    from gelora.demo import demo_model

    model, tokenizer = AutoModel.from_pretrained(demo_model()).eval(), AutoTokenizer.from_pretrained(demo_model())
    texts = sentences(data)
    plain_loop(model, tokenizer, texts[:64])
    rounds = []
    for _ in range(pairs):
        began = time.perf_counter()
        plain_loop(model, tokenizer, texts)
        middle = time.perf_counter()
        profile = estimate(
            model, texts, tokenizer=tokenizer, estimator=list(ESTIMATORS), n_samples=None, progress=False
        )
        rounds.append({"plain": middle - began, "ours": time.perf_counter() - middle})
    return {
        "n_texts": len(texts),
        "estimators": list(ESTIMATORS),
        "rounds": rounds,
        "ratio": statistics.median(one["ours"] / one["plain"] for one in rounds),
        "of_which_estimation": float(profile.attrs["estimation_seconds"]),
    }


MEMORY = """
import json, sys, time
import pandas as pd
from gelora.demo import demo_model
from gelora.representations import extract_representations
from transformers import AutoModel, AutoTokenizer

def status(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) / 1024

data, store, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
model, tokenizer = AutoModel.from_pretrained(demo_model()), AutoTokenizer.from_pretrained(demo_model())
longest = ["film " * (60 - i) for i in range(32)]
extract_representations(model, [f"{text} {i}" for i, text in enumerate(longest)], tokenizer=tokenizer, progress=False)
before = status("VmHWM")
began = time.perf_counter()
found = extract_representations(
    model, data, text_column="sentence", tokenizer=tokenizer, n_samples=n, store=store, progress=False
)
print(json.dumps({"n": n, "n_points": len(found.clouds[0]), "before": before, "peak": status("VmHWM"),
                  "seconds": time.perf_counter() - began}))
"""


def measure_memory(data: Path) -> list[dict[str, Any]]:
    """Measure the peak of the resident set of extractions of growing size, each in a process of its own."""
    found = []
    for n in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            words = [str(data / "sst2" / "train.parquet"), str(Path(folder) / "store"), str(n)]
            run = subprocess.run([sys.executable, "-c", MEMORY, *words], check=True, capture_output=True, text=True)
            size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        found.append(json.loads(run.stdout) | {"store_mebibytes": size / 2**20})
        sys.stdout.write(f"{found[-1]}\n")
    return found


def measure_kill(data: Path) -> dict[str, Any]:
    """Kill ``gelora estimate --store`` on the whole train set of SST-2 in the middle, and let it go on."""
    from gelora.demo import demo_model

    with tempfile.TemporaryDirectory() as folder:
        store, output = Path(folder) / "store", Path(folder) / "profile.nc"
        words = [sys.executable, "-m", "gelora", "estimate", "--model", str(demo_model()), "--output", str(output)]
        words += ["--data", str(data / "sst2" / "train.parquet"), "--text-column", "sentence", "--n-samples", "all"]
        words += ["--store", str(store), "--no-progress", *(w for name in ESTIMATORS for w in ("--estimator", name))]
        began = time.perf_counter()
        process = subprocess.Popen(words)
        while len(list((store / "windows").glob("*.json"))) < 16:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = time.perf_counter() - began
        kept = {file.name: file.stat().st_mtime_ns for file in (store / "windows").glob("*.json")}
        began = time.perf_counter()
        subprocess.run(words, check=True)
        after = {file.name: file.stat().st_mtime_ns for file in (store / "windows").glob("*.json")}
        from gelora import open_profile

        profile = open_profile(output)
        return {
            "windows": len(after),
            "windows_at_the_kill": len(kept),
            "made_again": sum(after[name] != stamp for name, stamp in kept.items()),
            "seconds_until_the_kill": killed,
            "seconds_after": time.perf_counter() - began,
            "n_points": int(profile["n_points"].max()),
            "dimension": profile["dimension"].values.round(3).tolist(),
        }


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw memory and time against the number of texts."""
    from matplotlib.figure import Figure

    from gelora.palette import COLORS

    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    n = [one["n_points"] for one in found]
    left.plot(n, [one["peak"] - one["before"] for one in found], "o-", color=COLORS[0])
    left.axhline(300, linestyle=":", color="0.4")
    left.set(xscale="log", xlabel="texts", ylabel="peak above the model, MiB", ylim=(0, 330))
    right.plot(n, [one["seconds"] for one in found], "o-", color=COLORS[1])
    right.set(xscale="log", yscale="log", xlabel="texts", ylabel="seconds")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    path = OUTPUT / "extraction.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    measured: dict[str, Any] = {
        "speed": lambda: measure_speed(arguments.data, arguments.pairs),
        "memory": lambda: measure_memory(arguments.data),
        "kill": lambda: measure_kill(arguments.data),
    }
    for part in arguments.part or PARTS:
        known[part] = measured[part]()
        sys.stdout.write(f"{part} {json.dumps(known[part])[:400]}\n")
    known["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    known["versions"], known["date"] = package_versions(), datetime.now(UTC).date().isoformat()
    with atomic_path(path) as temporary:
        temporary.write_text(to_json(known, indent=1) + "\n", encoding="utf-8")
    if "memory" in known:
        draw(known["memory"], OUTPUT / "extraction.png")


if __name__ == "__main__":
    main()
