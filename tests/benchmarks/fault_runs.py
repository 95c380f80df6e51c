"""Runs of ``gelora estimate --store`` for the benchmark of faults: start, stop at a moment, look at what is left.

A run is a process of its own, forked off one that has imported the libraries, and calls the command line's ``main``;
where that will not do, it is ``python -m gelora``. Both write what they say into a file.
"""

import gc
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

gc.freeze()  # in the process that runs are forked off: each collects garbage for every window

PRELOADED = (
    "encodings.utf_8_sig", "gelora.cli", "gelora.estimation", "gelora.profile", "gelora.tables", "gelora.netcdf",
    "gelora_estimators.mle", "gelora_estimators.twonn", "zarr.codecs", "dask.threaded", "dask.delayed", "dask.array",
    "distributed", "psutil", "accelerate.utils", "tokenizers", "h5netcdf.legacyapi", "rich.console", "rich.table",
    "pydantic.main", "pydantic.json_schema", "scipy.stats", "scipy.ndimage", "pyarrow.pandas_compat",
    "transformers.models.llama.modeling_llama", "typer._click", "transformers.models.auto.modeling_auto",
    "transformers.tokenization_utils_tokenizers", "transformers.convert_slow_tokenizer", "transformers.integrations",
    "fault_runs",
)  # fmt: skip
WIDTH, TEXT_LENGTH = 16_384, 6  # 64 points a window
N_TEXTS = 500
STAMPS = ("created", "seconds")  # in the names of attributes that tell times
PATIENCE = 300.0
SERVER = multiprocessing.get_context("forkserver")


def make_model(folder: Path, texts: Sequence[str]) -> Path:
    """Save a wide random model of one block, cheap to run, with a tokenizer of the texts' words."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=1000, special_tokens=["[PAD]", "[UNK]"]))
    torch.manual_seed(0)
    small = {"vocab_size": 1000, "num_hidden_layers": 1, "intermediate_size": 2, "max_position_embeddings": 64}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8}
    model = LlamaModel(LlamaConfig(hidden_size=WIDTH, pad_token_id=0, bos_token_id=1, eos_token_id=1, **small, **heads))
    model.save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")
    tokenizer.save_pretrained(folder)
    return folder


def _serve(words: list[str], log: str, memory_for: int, user: int) -> None:
    """Be the command line, in a forked process."""
    opened = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(opened, stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if memory_for:
        _limit_memory(memory_for)
    if user:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    sys.argv = ["gelora", *words]
    from gelora.cli import main

    main()


def _limit_memory(n_examples: int) -> None:
    """Let batches of more examples fail as CUDA fails."""
    import torch

    from gelora.collecting import Collector

    forward: Any = Collector._forward

    def limited(self: Any, batch: Any, both: bool) -> None:
        if len(batch["input_ids"]) > n_examples:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        forward(self, batch, both)

    Collector._forward = limited  # type: ignore[method-assign]


class Run:
    """A run that has been started; what it says lies in ``log``."""

    def __init__(self, process: Any, log: Path) -> None:
        self.log, self.started = log, time.perf_counter()
        self._process = process

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        process = self._process
        return bool(process.is_alive() if hasattr(process, "is_alive") else process.poll() is None)

    def wait(self) -> int:
        """Return its exit code: negative where a signal ended it."""
        end = time.perf_counter() + PATIENCE
        while self.alive:
            if time.perf_counter() > end:
                os.kill(self._process.pid, signal.SIGKILL)
                raise TimeoutError(f"no end after {PATIENCE} s: {self.said[-500:]}")
            time.sleep(0.01)
        process = self._process
        return int(process.exitcode if hasattr(process, "exitcode") else process.returncode)

    def stop(self, number: int, after: float) -> int:
        """Send a signal so many seconds after the start, and return the exit code."""
        time.sleep(max(self.started + after - time.perf_counter(), 0.0))
        if self.alive:
            os.kill(self._process.pid, number)
        return self.wait()

    @property
    def said(self) -> str:
        """What it wrote to standard output and standard error."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    @property
    def errors(self) -> str:
        """The lines that a user reads as an error."""
        return "\n".join(line for line in self.said.splitlines() if line.startswith("gelora: error"))


@dataclass
class Case:
    """A store and a profile to be made, in a folder of their own."""

    folder: Path
    store: Path
    output: Path

    def remove(self) -> None:
        """Make room."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def profiles(self) -> tuple[int, int]:
        """Return how many profiles are there, and how many temporary files of them."""
        return int(self.output.exists()), len(list(self.folder.glob(".*.partial")))


class Bench:
    """Where runs take place, and what the undisturbed run made."""

    def __init__(self, work: Path, texts: Sequence[str], seed: int) -> None:
        self.work, self.seed = work, seed
        self.model = make_model(work / "model", texts)
        self.data = work / "texts.txt"
        self.data.write_text("\n".join(texts) + "\n", encoding="utf-8")
        for path in (work, *work.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        self.points: dict[int, str] = {}
        self.profile: Any = None
        self.seconds = {"extraction": 0.0, "whole": 0.0, "estimation": 0.0}
        self.complete = work / "complete"

    def draw(self, *labels: object) -> random.Random:
        """Return random numbers that follow from the seed and what they are for."""
        return random.Random(f"{self.seed} {labels}")

    def case(self) -> Case:
        """Return an empty folder for a store and a profile."""
        folder = Path(tempfile.mkdtemp(dir=self.work, prefix="case-"))
        folder.chmod(0o755)
        return Case(folder, folder / "store", folder / "profile.nc")

    def complete_case(self) -> Case:
        """Return a case whose store is complete, and whose estimation has not begun."""
        case = self.case()
        shutil.copytree(self.complete, case.store)
        return case

    def start(
        self,
        case: Case,
        *extra: str,
        fresh: Sequence[str] | None = None,
        memory_for: int = 0,
        user: int = 0,
    ) -> Run:
        """Start the run of a case; ``fresh`` starts ``python -m gelora``, behind a command if it holds one."""
        words = ["estimate", "--model", str(self.model), "--data", str(self.data), "--n-samples", "all"]
        words += ["--max-length", str(TEXT_LENGTH), "--layers", "1", "--estimator", "twonn"]
        words += ["--estimator", "mle", "--store", str(case.store), "--output", str(case.output), *extra]
        log = Path(tempfile.mkstemp(dir=self.work, prefix="log-", suffix=".txt")[1])
        log.chmod(0o666)
        if fresh is not None:
            with log.open("ab") as said:
                command = [*fresh, sys.executable, "-m", "gelora", *words]
                return Run(subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True), log)
        process = SERVER.Process(target=_serve, args=(words, str(log), memory_for, user))
        process.start()
        return Run(process, log)

    def is_same(self, case: Case) -> bool:
        """Say whether the points in the store are those of the undisturbed run to the bit, and the profile is its."""
        try:
            return digests(case.store) == self.points and numbers(case.output).identical(self.profile)
        except (OSError, ValueError):
            return False

    def is_whole(self, case: Case) -> bool:
        """Say whether there is no profile, or a whole one that is right."""
        try:
            return not case.output.exists() or bool(numbers(case.output).identical(self.profile))
        except (OSError, ValueError):
            return False


def digests(store: Path) -> dict[int, str]:
    """Return a digest of the points of every layer."""
    from gelora.store import open_store

    opened = open_store(store)
    return {
        layer: hashlib.sha256(np.ascontiguousarray(opened.read(part.stack, layer)).tobytes()).hexdigest()
        for part in opened.parts
        for layer in part.layers
    }


def numbers(path: Path) -> Any:
    """Return a profile without what tells when, and in what time, it was made."""
    from gelora.profile import open_profile

    profile = open_profile(path)
    profile.attrs = {k: v for k, v in profile.attrs.items() if not any(stamp in k for stamp in STAMPS)}
    return profile


def windows_at(store: Path) -> dict[str, tuple[int, int]]:
    """Return the windows that have marks, with what changes when they are written again."""
    found = {}
    for file in (store / "windows").glob("[0-9]*.json") if (store / "windows").exists() else ():
        try:
            found[file.stem] = (file.stat().st_mtime_ns, file.stat().st_ino)
        except FileNotFoundError:
            continue
    return found


def files_at(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return all files with their time of change, number and size; the lock file is opened by every run."""
    kept = (file for file in folder.rglob("*") if file.is_file() and file.name != "lock")
    return {str(f.relative_to(folder)): (f.stat().st_mtime_ns, f.stat().st_ino, f.stat().st_size) for f in kept}


def watch(runs: Sequence[Run], store: Path) -> dict[str, set[tuple[int, int]]]:
    """Wait for runs to end, and return every form in which each window was seen."""
    seen: dict[str, set[tuple[int, int]]] = {}
    while any(run.alive for run in runs):
        for name, form in windows_at(store).items():
            seen.setdefault(name, set()).add(form)
        time.sleep(0.005)
    for name, form in windows_at(store).items():
        seen.setdefault(name, set()).add(form)
    return seen


def in_turn(workers: int, function: Callable[[int], Any], count: int) -> list[Any]:
    """Return what a function makes of 0, 1, …, several at once."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, range(count)))
