"""The commands do what the functions do; bad input ends in one line, and no file is left half-written."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from gelora import windows
from gelora.cli import main
from gelora.finetuning.record import open_record
from gelora.plan import RankPlan
from gelora.profile import open_profile
from gelora.store import ActivationStore
from tiny_models import tiny_model, tiny_texts, tiny_tokenizer


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_model("bert").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def texts_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = [json.dumps({"first": text, "second": text[::-1], "label": 0}) for text in tiny_texts(150)]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["gelora", *map(str, words)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            try:
                main()
                code = 0
            except SystemExit as end:
                code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.smoke
def test_estimate_ranks_and_plot_make_a_profile_a_plan_and_pictures(run, model_folder, texts_file, tmp_path):
    profile, plan = tmp_path / "p.nc", tmp_path / "plan.json"
    code, out, err = run(
        "estimate", "--model", model_folder, "--data", texts_file, "--text-column", "first",
        "--estimator", "twonn", "--estimator", "mle(k1=3, k2=6)", "--n-samples", "120", "--output", profile,
    )  # fmt: skip
    assert code == 0, err
    assert "±" in out
    assert "hidden states" in err
    opened = open_profile(profile)
    assert opened.attrs["n_texts"] == 120
    assert opened["estimator"].values.tolist() == ["twonn", "mle(k1=3, k2=6)"]
    code, out, err = run("ranks", profile, "--model", model_folder, "--estimator", "twonn", "--output", plan)
    assert code == 0, err
    assert RankPlan.load(plan).policy == "geometric"
    uniform = tmp_path / "uniform.json"
    assert run("ranks", "--model", model_folder, "--policy", "uniform", "--rank", "3", "--output", uniform)[0] == 0
    for words, picture in (((profile,), "p.png"), ((plan, uniform), "r.svg"), ((plan,), "r.pdf")):
        code, _, err = run("plot", *words, "--output", tmp_path / picture)
        assert code == 0, err
        assert (tmp_path / picture).stat().st_size > 1000
    words = ("--kind", "scales", "--estimator", "mle(k1=3, k2=6)")
    assert run("plot", profile, *words, "--output", tmp_path / "s.png")[0] == 0
    code, _, err = run("plot", profile, "--kind", "scale", "--output", tmp_path / "t.png")
    assert code == 1
    assert "did you mean 'scales'" in err
    names = {"p.nc", "plan.json", "uniform.json", "p.png", "r.svg", "r.pdf", "s.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_pairs_and_all_rows_can_be_asked_for(run, model_folder, texts_file, tmp_path):
    code, _, err = run(
        "estimate", "--model", model_folder, "--data", texts_file, "--text-column", "first", "--text-column", "second",
        "--n-samples", "all", "--no-progress", "--output", tmp_path / "p.nc",
    )  # fmt: skip
    assert code == 0, err
    assert "hidden states" not in err
    assert open_profile(tmp_path / "p.nc").attrs["n_texts"] == 150


def test_ranks_come_with_their_certainty_go_to_other_tools_and_are_held_against_the_theorems(
    run, model_folder, texts_file, tmp_path
):
    profile, plan = tmp_path / "p.nc", tmp_path / "plan.json"
    code, _, err = run(
        "estimate", "--model", model_folder, "--data", texts_file, "--text-column", "first",
        "--estimator", "mle(k1=3, k2=6)", "--n-samples", "auto", "--n-replicates", "10", "--confidence", "0.5",
        "--no-progress", "--output", profile,
    )  # fmt: skip
    assert code == 0, err
    assert open_profile(profile).attrs["n_replicates"] == 50
    code, out, err = run(
        "ranks", profile, profile, "--model", model_folder, "--policy", "budget", "--budget", "2048",
        "--combine", "mean", "--targets", "attention", "--output", tmp_path / "budget.json",
    )  # fmt: skip
    assert code == 0, err
    code, out, err = run("ranks", profile, "--model", model_folder, "--confidence", "0.999", "--output", plan)
    assert code == 0, err
    assert "probabilities" in out
    assert "scale / block" in out
    made = RankPlan.load(plan)
    assert made.stability == made.uncertainty.stability
    for kind, target in (("peft", "adapter"), ("axolotl", "lora.yaml"), ("trl", "tune.py"), ("metamathqa", "layout")):
        code, out, err = run("export", plan, "--format", kind, "--model", model_folder, "--output", tmp_path / target)
        assert code == 0, err
        assert f"checked: {len(made.modules)} matrices, {made.n_parameters:,} parameters" in out
        assert (tmp_path / target).exists()
    code, out, err = run(
        "theory", profile, "--model", model_folder, "--plan", plan, "--data", texts_file, "--text-column", "first",
        "--n-points", "2", "--no-progress", "--output", tmp_path / "theory.nc",
    )  # fmt: skip
    assert code == 0, err
    assert "bound" in out
    code, _, err = run("theory", profile, "--model", model_folder, "--output", tmp_path / "no.nc")
    assert code == 1
    assert "`data` or `task` must be given" in err
    code, _, err = run("export", plan, "--format", "onnx", "--output", tmp_path / "x")
    assert code == 1
    assert "onnx" in err


def test_fisher_ranks_are_made_from_a_task(run, model_folder, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "validation"):
        rows = {"sentence": tiny_texts(40), "label": [row % 2 for row in range(40)]}
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    code, _, err = run(
        "ranks", "--model", model_folder, "--policy", "fisher", "--task", "sst2", "--data-dir", folder,
        "--n-examples", "24", "--budget", "4096", "--output", tmp_path / "fisher.json",
    )  # fmt: skip
    assert code == 0, err
    plan = RankPlan.load(tmp_path / "fisher.json")
    assert plan.policy == "fisher"
    assert 4096 - 64 < plan.n_parameters <= 4096
    assert plan.bind(tiny_model("bert")).n_parameters == plan.n_parameters


def test_every_command_has_help_with_an_example(run):
    for command in ("demo", "estimate", "ranks", "export", "finetune", "theory", "plot"):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert f"gelora {command}" in out
        assert "Example" in out


def broken_model(folder, tmp_path):
    """A copy of the model with one weight that is not a number."""
    copy = tmp_path / "nan-model"
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][0] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "empty.jsonl"}, "at least one text"),
        ({"data": "one.jsonl"}, "no dimension is defined on any layer"),
        ({"text-column": "third"}, "no column 'third'"),
        ({"model": "./no-such-folder"}, "there is no folder './no-such-folder'"),
        ({"estimator": "towonn"}, "did you mean 'twonn'"),
        ({"output": "absent/p.nc"}, "does not exist, create it first"),
        ({"output": "/proc/self/p.nc"}, "is not writable"),
        ({"model": "nan"}, "'encoder.layer.0.output.dense.bias' holds 1 NaN or infinite"),
    ],
    ids=["empty data", "one text", "no column", "no model", "no estimator", "no folder", "unwritable", "NaN weights"],
)
def test_bad_input_ends_in_one_line_and_leaves_no_file(
    run, model_folder, texts_file, tmp_path, monkeypatch, change, message
):
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    outputs.mkdir()
    monkeypatch.chdir(outputs)
    (inputs / "empty.jsonl").write_text("")
    (inputs / "one.jsonl").write_text('{"first": "w1 w2"}')
    options = {"model": model_folder, "data": texts_file, "text-column": "first", "output": "p.nc", **change}
    if options["model"] == "nan":
        options["model"] = broken_model(model_folder, inputs)
    if str(options["data"]).startswith(("empty", "one")):
        options["data"] = inputs / options["data"]
    code, _, err = run("estimate", "--no-progress", *(w for k, v in options.items() for w in (f"--{k}", v)))
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("gelora: error: ")
    assert message in last
    assert list(outputs.rglob("*")) == []


def test_a_profile_of_another_architecture_is_refused_by_ranks(run, model_folder, texts_file, tmp_path):
    other = tmp_path / "roberta"
    tiny_model("roberta").save_pretrained(other)
    profile = tmp_path / "p.nc"
    words = ("--data", texts_file, "--text-column", "first", "--output", profile, "--no-progress")
    assert run("estimate", "--model", model_folder, *words)[0] == 0
    code, _, err = run("ranks", profile, "--model", other, "--output", tmp_path / "plan.json")
    assert code == 1
    assert "the profile was made for bert with 2 encoder blocks of width 32, but `model` is roberta" in err
    assert not (tmp_path / "plan.json").exists()


def test_wrong_usage_ends_with_code_two(run, tmp_path):
    assert run("estimate")[0] == 2
    assert run("no-such-command")[0] == 2
    words = ("estimate", "--model", "m", "--data", "d", "--output", tmp_path / "p.nc", "--n-samples", "many")
    code, _, err = run(*words)
    assert code == 2
    assert "must be a whole number or 'all'" in err


def test_an_undefined_layer_is_a_warning_in_one_line(run, model_folder, texts_file, tmp_path):
    code, out, err = run(
        "estimate", "--model", model_folder, "--data", texts_file, "--text-column", "first", "--pooling", "cls",
        "--no-progress", "--output", tmp_path / "p.nc",
    )  # fmt: skip
    assert code == 0
    assert "gelora: warning: the dimension is undefined for twonn, layer 0" in err
    assert "–" in out


def test_plans_of_one_file_name_are_drawn_apart(run, model_folder, tmp_path):
    paths = [tmp_path / name / "plan.json" for name in ("one", "two")]
    for rank, path in enumerate(paths, start=1):
        path.parent.mkdir()
        words = ("--policy", "uniform", "--rank", rank, "--output", path)
        assert run("ranks", "--model", model_folder, *words)[0] == 0
    assert run("plot", *paths, "--output", tmp_path / "p.svg")[0] == 0
    code, _, err = run("plot", paths[0], paths[0], "--output", tmp_path / "p.svg")
    assert code == 1
    assert "has one file twice" in err


@pytest.fixture
def cola(tmp_path):
    folder = tmp_path / "cola"
    folder.mkdir()
    for split, n in (("train", 40), ("validation", 12)):
        rows = {"sentence": tiny_texts(n, seed=n), "label": [i % 2 for i in range(n)]}
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
    return folder


def test_finetune_hands_every_option_on_and_writes_record_and_adapter(run, model_folder, cola, tmp_path):
    plan, output = tmp_path / "plan.json", tmp_path / "run"
    assert run("ranks", "--model", model_folder, "--policy", "uniform", "--rank", "2", "--output", plan)[0] == 0
    options = {
        "max-steps": 3, "batch-size": 4, "eval-batch-size": 6, "learning-rate": 1e-3, "weight-decay": 0.02,
        "warmup-ratio": 0.5, "schedule": "constant_with_warmup", "dropout": 0.25, "max-length": 7, "n-train": 30,
        "n-validation": 9, "seed": 4, "eval-steps": 2, "save-steps": 2, "device": "cpu", "precision": "float32",
        "epochs": 2.0, "adapter": "lora",
    }  # fmt: skip
    code, out, err = run(
        "finetune", "--model", model_folder, "--task", "cola", "--data-dir", cola, "--plan", plan,
        "--output", output, "--no-progress", *(w for key, value in options.items() for w in (f"--{key}", value)),
    )  # fmt: skip
    assert code == 0, err
    assert "matthews_correlation" in out
    record = open_record(output / "record.nc")
    taken = json.loads(record.attrs["options"])
    for key, value in options.items():
        name = key.replace("-", "_")
        assert taken.get(name, record.attrs.get(name)) == value, key
    assert record.sizes["step"] == 3
    assert (output / "adapter" / "adapter_config.json").is_file()


def test_finetune_takes_a_task_of_ones_own_from_a_file(run, model_folder, cola, tmp_path):
    plan, output, task = tmp_path / "plan.json", tmp_path / "run", tmp_path / "mine.yaml"
    assert run("ranks", "--model", model_folder, "--policy", "uniform", "--rank", "2", "--output", plan)[0] == 0
    task.write_text("name: mine\ntext: sentence\nmetric: accuracy\ndata_dir: cola\n")
    code, out, err = run(
        "finetune", "--model", model_folder, "--task", task, "--plan", plan, "--output", output, "--max-steps", 2,
        "--batch-size", 8, "--no-progress",
    )  # fmt: skip
    assert code == 0, err
    assert "mine" in out
    record = open_record(output / "record.nc")
    assert (record.attrs["task"], record.attrs["n_train"], record.attrs["n_validation"]) == ("mine", 40, 12)
    task.write_text("name: mine\ntext: sentence\nmetrics: accuracie\ndata_dir: cola\n")
    code, _, err = run("finetune", "--model", model_folder, "--task", task, "--plan", plan, "--output", tmp_path / "no")
    assert code == 1
    assert "mine.yaml" in err
    assert not (tmp_path / "no").exists()


def test_finetune_without_its_model_leaves_no_folder(run, model_folder, cola, tmp_path):
    plan, output = tmp_path / "plan.json", tmp_path / "run"
    assert run("ranks", "--model", model_folder, "--policy", "uniform", "--rank", "2", "--output", plan)[0] == 0
    for model in ("./absent", broken_model(model_folder, tmp_path)):
        code, _, err = run(
            "finetune", "--model", model, "--task", "cola", "--data-dir", cola, "--plan", plan, "--output", output
        )
        assert code == 1
        assert "gelora: error: `model`" in err
        assert not output.exists()


def test_the_demonstration_makes_what_it_lists_and_refuses_the_folder_of_another(run, minilm, tmp_path):
    words = ("demo", "--output", tmp_path / "demo", "--n-samples", 200, "--n-train", 24, "--n-validation", 16)
    code, out, err = run(*words, "--no-progress")
    assert code == 0, err
    assert all(name in out for name in ("twonn", "mle", "ph", "gelora", "uniform", "accuracy"))
    listed = [line.strip() for line in out.split("written:")[1].splitlines() if line.strip()]
    assert len(listed) == 12 + (find_spec("plotly") is not None)  # the report page
    assert all(Path(path).exists() for path in listed)
    code, _, err = run(*words, "--seed", 1)
    assert code == 1
    assert "holds a demonstration with other options" in err


def test_pictures_of_other_types_or_sources_are_refused(run, tmp_path):
    (tmp_path / "a.txt").touch()
    code, _, err = run("plot", tmp_path / "a.txt", "--output", tmp_path / "p.png")
    assert code == 1
    assert "must be a rank plan (.json) or one of gelora" in err


def test_a_folder_and_a_file_are_read_without_any_network_call(model_folder, texts_file, tmp_path):
    """In a fresh interpreter, online for all the libraries know, whose sockets do not connect."""
    code = """
import socket, sys
def refuse(*_):
    raise AssertionError("a network call")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
sys.argv = ["gelora", *sys.argv[1:]]
from gelora import windows
from gelora.cli import main
main()
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    environment |= {"HF_HOME": str(tmp_path / "home")}
    profile, plan = tmp_path / "p.nc", tmp_path / "plan.json"
    for words in (
        ["estimate", "--model", model_folder, "--data", texts_file, "--text-column", "first", "--output", profile],
        ["ranks", profile, "--model", model_folder, "--output", plan],
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr
    assert plan.is_file()


def test_ctrl_c_ends_in_one_line_and_the_same_call_goes_on(run, model_folder, texts_file, tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MOST", 64)
    store, profile = tmp_path / "store", tmp_path / "p.nc"
    words = (
        "estimate", "--model", model_folder, "--data", texts_file, "--text-column", "first", "--n-samples", "all",
        "--store", store, "--output", profile, "--no-progress",
    )  # fmt: skip
    write = ActivationStore.write

    def interrupted(self, window, clouds, mark):
        if window.number == 2:
            raise KeyboardInterrupt
        write(self, window, clouds, mark)

    with monkeypatch.context() as patch:
        patch.setattr(ActivationStore, "write", interrupted)
        code, _, err = run(*words)
    assert (code, err.strip()) == (130, "gelora: interrupted")
    assert {file.name for file in tmp_path.iterdir()} == {"store"}
    kept = {file.name: file.stat().st_mtime_ns for file in (store / "windows").iterdir()}
    assert sorted(kept) == ["0000000.json", "0000001.json"]
    code, _, err = run(*words)
    assert code == 0, err
    assert {name: (store / "windows" / name).stat().st_mtime_ns for name in kept} == kept
    assert open_profile(profile)["n_points"].min() > 100
