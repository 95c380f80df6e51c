"""`gelora estimate` in several processes, as launchers start it."""

import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from gelora.estimation import estimate
from gelora.profile import open_profile
from tiny_models import tiny_model, tiny_tokenizer


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
