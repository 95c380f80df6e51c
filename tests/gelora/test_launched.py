"""Several processes: as launchers start them for one estimation, and many estimations at once."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from gelora.estimation import estimate
from gelora.profile import open_profile
from tiny_models import ragged_batch, tiny_model, tiny_tokenizer


def test_accelerate_launch_divides_the_windows_and_writes_the_profile_of_one_process(tmp_path: Path) -> None:
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    for made in (model, tokenizer):
        made.save_pretrained(tmp_path / "model")
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randint(0, 20)}" for _ in range(rng.randint(3, 9))) for _ in range(5000)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(port), "-m", "gelora", "estimate", "--model", "model", "--data", "texts.txt"]
    launch += ["--n-samples", "all", "--store", "store", "--device", "cpu", "--estimator", "twonn", "--no-progress"]
    launch += ["--output", "profile.nc"]
    own = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
    run = subprocess.run(launch, cwd=tmp_path, env=os.environ | own, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.count("written: profile.nc") == 1
    assert len(list((tmp_path / "store" / "windows").glob("*.json"))) == 2
    found = open_profile(tmp_path / "profile.nc")
    wanted = estimate(model, texts, tokenizer=tokenizer, n_samples=None, progress=False)
    for name in ("dimension", "standard_error", "n_points", "mean_norm"):
        np.testing.assert_allclose(found[name].values, wanted[name].values, rtol=1e-5)


MANY = """
import json, sys, threading
from gelora.estimation import estimate
from test_scheduling import state
from tiny_models import ragged_batch, tiny_model

model, first, store = tiny_model("bert"), int(sys.argv[1]), sys.argv[2]
options = {"estimator": "twonn", "n_replicates": 4, "n_samples": None, "progress": False}
found, before = {}, state()


def work(number):
    # Of the first set there is one store, for all processes.
    found[number] = estimate(model, ragged_batch(80, seed=number), store=None if number else store, **options)


numbers = [0, *range(7 * first + 1, 7 * first + 8)]
threads = [threading.Thread(target=work, args=(number,)) for number in numbers]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert state() == before
print(json.dumps({number: found[number]["dimension_replicates"].values.tolist() for number in numbers}))
"""


def test_24_estimates_in_three_processes_at_once_give_the_serial_results_eight_a_process(tmp_path: Path) -> None:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", MANY, str(first), str(tmp_path / "store")],
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in range(3)
    ]
    ended = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0] * 3, [errors[-2000:] for _, errors in ended]
    model, checked = tiny_model("bert"), 0
    wanted: dict[str, list[object]] = {}
    for printed, _ in ended:
        for number, replicates in json.loads(printed).items():
            if number not in wanted:
                one = estimate(
                    model,
                    ragged_batch(80, seed=int(number)),
                    estimator="twonn",
                    n_replicates=4,
                    n_samples=None,
                    progress=False,
                )
                wanted[number] = one["dimension_replicates"].values.tolist()
            assert replicates == wanted[number]
            checked += 1
    assert checked == 24
