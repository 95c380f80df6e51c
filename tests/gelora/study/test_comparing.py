"""The runner: what it makes, that nothing is lost or made twice, and that a failure stays where it is."""

import json
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import xarray as xr

import gelora
from gelora.cli import app
from gelora.finetuning import runner
from gelora.finetuning.loading import load_adapter
from gelora.finetuning.record import open_record
from gelora.plots_comparison import COSTS
from gelora.scores import open_comparison
from gelora.study import comparing, list_runs, read_study, running
from gelora.study.rows import hold_out
from gelora.study.searching import Trial, choose, propose
from gelora.study.specification import Range, Search
from gelora.study.units import list_units, read_outcome
from runs import interrupted_at
from two_processes import run_in_two_processes

Small = Callable[..., dict[str, Any]]
TIMED = ["estimation_seconds", "training_seconds", "evaluation_seconds", "step_seconds", "peak_memory", "created"]


def compare(study: Any, **options: Any) -> xr.Dataset:
    return gelora.compare(study, **{"progress": False} | options)


def stamps(folder: Path) -> dict[str, int]:
    """Return when each training ended, of those that have."""
    ended = [file for file in folder.rglob("outcome.json") if '"status": "begun"' not in file.read_text()]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in ended}


def test_a_study_becomes_a_dataset_with_its_files(small: Small, tmp_path: Path) -> None:
    found = compare(small(methods=["lora", "gelora", "full"]))
    assert dict(found.sizes) | {"metric": 1, "module": 8} == {
        "task": 1,
        "method": 3,
        "seed": 2,
        "metric": 1,
        "module": 8,
    }
    assert (found["status"] == "finished").all()
    assert found["score"].notnull().all()
    xr.testing.assert_equal(
        found["score"].drop_vars("metric", errors="ignore"), found["validation"].isel(metric=0, drop=True)
    )
    by_method = {str(m): found.sel({"method": m, "seed": 0}).squeeze() for m in found["method"].values}
    assert by_method["lora"]["trainable_parameters"] == by_method["gelora"]["trainable_parameters"]
    assert by_method["full"]["trainable_parameters"] > 10 * by_method["lora"]["trainable_parameters"]
    assert by_method["full"]["rank"].isnull().all()
    assert (by_method["gelora"]["estimation_seconds"], by_method["lora"]["estimation_seconds"]) > (0, 0)
    assert json.loads(str(by_method["lora"]["options"].values))["max_steps"] == 4
    out = tmp_path / "out"
    files = {"comparison.nc", "comparison.md", "comparison.tex", *(f"pareto-{cost}.png" for cost in COSTS)}
    assert files <= {file.name for file in out.iterdir()}
    xr.testing.assert_identical(open_comparison(out / "comparison.nc"), found)
    record = open_record(out / "runs/words/gelora/seed-1/record.nc")
    assert float(record["score"]) == float(found["score"].sel({"method": "gelora", "seed": 1}).squeeze())
    load_adapter(out / "runs/words/gelora/seed-1/adapter")
    assert not list(out.rglob("checkpoints"))


def test_a_second_call_makes_what_is_missing_and_no_more(small: Small, tmp_path: Path) -> None:
    first = compare(small())
    before = stamps(tmp_path / "out")
    second = compare(small(methods=["lora", "gelora", "full"], seeds=[0, 1, 2]))
    after = stamps(tmp_path / "out")
    assert len(before) == 4
    assert len(after) == 9
    assert {name: after[name] for name in before} == before
    old = second.sel({"method": ["lora", "gelora"], "seed": [0, 1]})
    xr.testing.assert_equal(old["score"], first["score"])


def test_another_setting_is_refused_before_anything_is_made(small: Small, tmp_path: Path) -> None:
    compare(small(methods=["lora"], seeds=[0]))
    before = stamps(tmp_path / "out")
    changed = {"max_steps": 4, "batch_size": 8, "learning_rate": 1e-3}
    with pytest.raises(
        ValueError, match=r"words/lora/seed-0 in .* was made with other settings .*learning_rate.*another output"
    ):
        compare(small(methods=["full", "lora"], seeds=[0], training=changed))
    assert stamps(tmp_path / "out") == before


def test_a_run_that_fails_is_recorded_and_the_others_go_on(small: Small, tmp_path: Path) -> None:
    # So large a rate makes the loss infinite; and there are no matrices of such names.
    broken = {"name": "nowhere", "adapter": "lora", "rank": 2, "targets": "no_such_module"}
    rates = {"default": 5e-3, "full": 1e30}
    study = small(methods=["full", broken, "lora"], seeds=[0], training={"max_steps": 4, "learning_rate": rates})
    found = compare(study)
    assert found["status"].values.ravel().tolist() == ["failed", "failed", "finished"]
    errors = found["error"].values.ravel().tolist()
    assert errors[0].startswith(("FloatingPointError", "ValueError"))
    assert "no_such_module" in errors[1]
    assert errors[2] == ""
    assert np.isnan(found["score"].values.ravel()).tolist() == [True, True, False]
    assert "–" in (tmp_path / "out" / "comparison.md").read_text()
    before = stamps(tmp_path / "out")
    compare(study)
    assert stamps(tmp_path / "out") == before  # a failure is an outcome too
    compare(study, retry_failed=True)
    after = stamps(tmp_path / "out")
    assert {name for name in before if after[name] == before[name]} == {"runs/words/lora/seed-0/outcome.json"}
    mended = study | {"training": {"max_steps": 4, "learning_rate": 5e-3}, "methods": ["full"]}
    assert compare(mended)["status"].item() == "finished"  # made with other settings now, so made again


def test_two_calls_that_try_again_what_failed_make_it_once(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = read_study(small(methods=["full"], seeds=[0], training={"max_steps": 2, "learning_rate": 1e30}))
    compare(study)
    meanwhile: list[bool] = []
    take = running._take

    def after_another_call(*args: Any, **kwargs: Any) -> bool:
        if not meanwhile:  # the other call has seen the failure too, and is first to try again
            meanwhile.append(True)
            compare(study, retry_failed=True)
            before.update(stamps(tmp_path / "out"))
        return take(*args, **kwargs)

    before = stamps(tmp_path / "out")
    first = dict(before)
    time.sleep(1.1)  # outcomes are dated to the second
    monkeypatch.setattr(running, "_take", after_another_call)
    compare(study, retry_failed=True)
    assert first != before
    assert stamps(tmp_path / "out") == before


def test_longer_runs_leave_the_trials_before_them_as_they_are(small: Small, tmp_path: Path) -> None:
    search = {"space": {"learning_rate": [1e-3, 5e-3]}, "holdout": 0.2, "training": {"max_steps": 2}}
    (task,) = small()["tasks"]

    def of_length(steps: int) -> dict[str, Any]:
        tasks = [task | {"training": {"max_steps": steps}}]
        return small(tasks=tasks, seeds=[0], search=search, training={"batch_size": 8})

    compare(of_length(3))
    before = stamps(tmp_path / "out")
    files = {file.name for file in (tmp_path / "out").rglob("*") if file.parent.name in ("profiles", "words")}
    shutil.rmtree(tmp_path / "out" / "runs")
    compare(of_length(5))
    assert files == {file.name for file in (tmp_path / "out").rglob("*") if file.parent.name in ("profiles", "words")}
    after = stamps(tmp_path / "out")
    assert {name for name in before if after[name] == before[name]} == {name for name in before if "trial" in name}
    assert open_record(tmp_path / "out/runs/words/lora/seed-0/record.nc").sizes["step"] == 5


def kill_after(seconds: float, work: Callable[[], object]) -> bool:
    """Run ``work`` in a forked process and kill it; say whether it had ended by itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads, which Python 3.12 dislikes
        process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(0)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if os.waitpid(process, os.WNOHANG)[0]:
            return True
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return False


def test_kills_at_any_moment_lose_nothing_and_repeat_nothing(small: Small, tmp_path: Path) -> None:
    study = small(training={"max_steps": 4, "batch_size": 8, "learning_rate": 5e-3, "save_steps": 2})
    whole = compare(study | {"output": str(tmp_path / "whole")})
    moments, seen = np.random.default_rng(0), {}
    for _ in range(12):
        ended = kill_after(float(moments.uniform(0.3, 4.0)), lambda: compare(study))
        now = stamps(tmp_path / "out")
        assert {name: now[name] for name in seen} == seen  # what had ended is as it was
        seen = now
        if ended:
            break
    found = compare(study)
    assert (found["status"] == "finished").all()
    xr.testing.assert_equal(found.drop_vars(TIMED), whole.drop_vars(TIMED))


def test_a_run_that_was_cut_off_goes_on_from_its_checkpoint(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    training = {"max_steps": 6, "batch_size": 8, "learning_rate": 5e-3, "save_steps": 2}
    study = small(methods=["lora"], seeds=[0], training=training)
    with interrupted_at(5):
        compare(study)
    began: list[Any] = []
    original = runner.last_checkpoint

    def seen(folder: Path) -> Any:
        began.append(original(folder))
        return began[-1]

    monkeypatch.setattr(runner, "last_checkpoint", seen)
    found = compare(study)
    assert [checkpoint.name for checkpoint in began] == ["checkpoint-4"]
    assert (found["status"] == "finished").all()
    with interrupted_at(3):
        compare(study | {"seeds": [0, 1]})
    other = study | {"seeds": [0, 1], "training": training | {"learning_rate": 1e-3}}
    with pytest.raises(ValueError, match="was made with other settings"):
        compare(other)
    began.clear()
    compare(other | {"seeds": [1]})  # what was cut off with other settings starts afresh
    assert began == [None]


def test_calls_at_once_share_the_runs(small: Small, tmp_path: Path) -> None:
    study = read_study(small(seeds=[0, 1, 2]))
    (tmp_path / "out" / "locks").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "out" / "locks" / "words--lora--seed-1.lock"):
        found = compare(study)
    status = found["status"].squeeze().sel({"method": "lora"}).values.tolist()
    assert status == ["finished", "missing", "finished"]
    assert (found["status"].sel({"method": "gelora"}) == "finished").all()
    assert (compare(study)["status"] == "finished").all()


def test_two_calls_in_two_processes_make_every_run_once(small: Small, tmp_path: Path) -> None:
    study = small(seeds=[0, 1, 2])
    counted: list[int] = []
    original = running._make

    def counting(*arguments: Any) -> None:
        counted.append(1)
        original(*arguments)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        try:
            compare(study)
        finally:
            os._exit(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "_make", counting)
        compare(study)
    os.waitpid(process, 0)
    assert 0 < len(counted) < 6
    assert (compare(study)["status"] == "finished").all()


def test_a_search_sees_train_rows_alone_and_its_best_rate_is_used(small: Small, tmp_path: Path) -> None:
    search = {"space": {"learning_rate": [1e-6, 2e-2]}, "holdout": 0.25, "training": {"max_steps": 12}}
    found = compare(small(methods=["lora", "gelora"], seeds=[0], search=search))
    study = read_study(small(methods=["lora", "gelora"], seeds=[0], search=search))
    assert found["trial_score"].shape == (1, 2, 2)
    assert found["trial_score"].notnull().all()
    for method in ("lora", "gelora"):
        scores = found["trial_score"].sel({"method": method}).squeeze().values
        rate = json.loads(str(found["options"].sel({"method": method}).squeeze().values))["learning_rate"]
        assert rate == (1e-6, 2e-2)[int(np.argmax(scores))]
    assert study.search is not None
    trial = hold_out(study, study.tasks[0], study.search)
    assert len(trial.train) == 120
    assert len(trial.validation) == 40
    rows = [json.loads(line) for line in Path(str(study.tasks[0].data_dir), "train.jsonl").read_text().splitlines()]
    together = sorted([*trial.train["sentence"], *trial.validation["sentence"]])
    assert together == sorted(row["sentence"] for row in rows)
    assert not list((tmp_path / "out" / "trials").rglob("adapter"))


def test_a_grid_tries_every_combination_and_optuna_repeats_itself() -> None:
    grid = Search(space={"learning_rate": (1.0, 2.0), "dropout": (0.0, 0.1)}, n_trials=4)
    tried = [propose(grid, number, []) for number in range(4)]
    assert len({tuple(one.items()) for one in tried}) == 4
    ranges = Search(space={"learning_rate": Range(low=1e-5, high=1e-1, log=True)}, engine="optuna", n_trials=20)

    def climb(search: Search, rounds: int) -> list[Any]:
        done: list[Any] = []
        for number in range(rounds):
            proposed = propose(search, number, done)
            score = -abs(np.log10(proposed["learning_rate"]) + 3)  # best at 1e-3
            done.append(Trial(number, proposed, float("nan") if number == 2 else score))
        return done

    first = climb(ranges, 20)
    assert repr(first) == repr(climb(ranges, 20))  # one score is NaN, which equals nothing
    assert all(1e-5 <= one.tried["learning_rate"] <= 1e-1 for one in first)
    assert 2e-4 < choose(first)["learning_rate"] < 5e-3
    worst = choose(first, greater_is_better=False)
    assert abs(np.log10(worst["learning_rate"]) + 3) > 1


def test_equal_trials_go_to_the_smaller_loss_then_to_the_first_and_none_at_all_is_an_error() -> None:
    nan = float("nan")
    failed, first, second = Trial(0, {"x": 1.0}, nan), Trial(1, {"x": 2.0}, 0.5), Trial(2, {"x": 3.0}, 0.5)
    assert choose([failed, first, second]) == {"x": 2.0}
    assert choose([failed, replace(first, loss=0.7), replace(second, loss=0.6)]) == {"x": 3.0}
    assert choose([failed, replace(first, loss=0.7), replace(second, score=0.6, loss=0.9)]) == {"x": 3.0}
    assert choose([replace(first, loss=0.7), replace(second, loss=0.6)], greater_is_better=False) == {"x": 3.0}
    with pytest.raises(ValueError, match="none of the 1 trials of the search has a score"):
        choose([failed])


def test_a_search_by_optuna_runs_to_its_end(small: Small) -> None:
    space = {"space": {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}, "n_trials": 3}
    found = compare(small(methods=["lora"], seeds=[0], search=space))
    rates = [json.loads(text)["learning_rate"] for text in found["trial_options"].values.ravel()]
    assert len(set(rates)) == 3
    best = rates[int(np.argmax(found["trial_score"].values.ravel()))]
    assert json.loads(str(found["options"].values.item()))["learning_rate"] == best


def test_the_list_of_runs_has_every_run_with_its_parameters(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    study = small(methods=["full", "lora-r8", "gelora", "houlsby"])
    runs = list_runs(study)
    assert len(runs) == 8
    assert not Path(study["output"]).exists()  # nothing was made
    known = runs.set_index(["method", "seed"])["adapter"].to_dict()
    found = compare(study)
    for method in ("full", "lora-r8", "houlsby"):
        assert known[method, 0] == found["trainable_parameters"].sel({"method": method, "seed": 0}).item()
    assert runs["adapter"].isna().sum() == 2  # GeLoRA's follow from a profile
    later = list_runs(study).set_index(["method", "seed"])
    assert later["adapter"].to_dict()["gelora", 0] == found["trainable_parameters"].sel({"method": "gelora", "seed": 0})
    assert (later["status"] == "finished").all()


def test_the_command_line_compares_and_lists(small: Small, tmp_path: Path) -> None:
    import yaml
    from typer.testing import CliRunner

    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(small(seeds=[0], methods=["lora"])), encoding="utf-8")
    listed = CliRunner().invoke(app, ["compare", str(file), "--dry-run"])
    assert listed.exit_code == 0
    assert "1 trainings, 1 missing" in listed.output
    assert not (tmp_path / "elsewhere").exists()
    made = CliRunner().invoke(app, ["compare", str(file), "--output", str(tmp_path / "elsewhere"), "--no-progress"])
    assert made.exit_code == 0, made.output
    assert "1 finished" in made.output
    broken = small(seeds=[0], methods=[{"name": "nowhere", "adapter": "lora", "rank": 2, "targets": "no_such"}])
    file.write_text(yaml.safe_dump(broken), encoding="utf-8")
    failed = CliRunner().invoke(app, ["compare", str(file), "--no-progress"])
    assert failed.exit_code == 1
    assert "gelora: failed: words/nowhere/seed-0: UnknownArchitectureError" in failed.output
    assert (tmp_path / "elsewhere" / "comparison.nc").exists()


def test_units_begin_with_the_trials_and_outcomes_are_missing_at_first(small: Small) -> None:
    search = {"space": {"learning_rate": [1e-3, 1e-2]}}
    study = read_study(small(search=search))
    units = list_units(study)
    assert [unit.name for unit in units] == [
        *(f"words/{method}/trial-{number}" for method in ("lora", "gelora") for number in (0, 1)),
        *(f"words/{method}/seed-{seed}" for seed in (0, 1) for method in ("lora", "gelora")),
    ]
    assert {read_outcome(study, unit).status for unit in units} == {"missing"}


def test_a_damaged_outcome_is_told_with_its_remedy(small: Small, tmp_path: Path) -> None:
    study = small(methods=["lora"], seeds=[0])
    compare(study)
    (tmp_path / "out/runs/words/lora/seed-0/outcome.json").write_text('{"status": "fin')
    with pytest.raises(ValueError, match="is damaged .*remove its folder"):
        compare(study)


SCRIPT = """
import sys, json
import gelora
study = json.loads(open(sys.argv[1], encoding="utf-8").read())
found = gelora.compare(study, progress=False)
print(json.dumps({"score": found["score"].values.ravel().tolist(), "rank": found["rank"].fillna(-1).values.tolist(),
                  "error": found["error"].values.ravel().tolist()}))
"""


def test_two_processes_train_as_one_does(small: Small, tmp_path: Path) -> None:
    training = {"max_steps": 6, "batch_size": 8, "learning_rate": 5e-3, "dropout": 0.0, "save_steps": 3}
    methods = ["gelora", {"name": "adalora", "rank": 4}, {"name": "geolora", "adapter": "geolora(interval=2)"}]
    study = small(methods=methods, seeds=[0], training=training)
    alone = compare(study)
    together = study | {"output": str(tmp_path / "together")}
    (tmp_path / "study.json").write_text(json.dumps(together))
    printed = run_in_two_processes(SCRIPT, tmp_path, str(tmp_path / "study.json"))
    first, second = (json.loads(text.splitlines()[-1]) for text in printed)
    assert first == second
    assert first["error"] == [""] * 3
    assert first["rank"] == alone["rank"].fillna(-1).values.tolist()
    np.testing.assert_allclose(first["score"], alone["score"].values.ravel(), atol=1 / 40 + 1e-9)
    for method in ("gelora", "adalora", "geolora"):
        records = [
            open_record(tmp_path / folder / f"runs/words/{method}/seed-0/record.nc") for folder in ("out", "together")
        ]
        np.testing.assert_allclose(records[1]["loss"], records[0]["loss"], rtol=2e-3, err_msg=method)
        np.testing.assert_allclose(records[1]["validation_loss"], records[0]["validation_loss"], rtol=2e-3)
    assert (
        json.loads((tmp_path / "together/runs/words/gelora/seed-0/outcome.json").read_text())["facts"]["processes"] == 2
    )


def test_an_odd_batch_cannot_be_shared_by_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from gelora.finetuning.options import count_processes

    monkeypatch.setenv("WORLD_SIZE", "2")
    assert count_processes(8) == 2
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of the 2 processes"):
        count_processes(7)


def test_a_study_is_known_again_from_another_folder(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small(seeds=[0])
    compare(study)
    before = stamps(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    moved = study | {"output": "out"}
    moved["tasks"] = [moved["tasks"][0] | {"data_dir": os.path.relpath(moved["tasks"][0]["data_dir"])}]
    assert (compare(moved)["status"] == "finished").all()
    assert stamps(tmp_path / "out") == before
    assert len(list((tmp_path / "out" / "profiles").glob("*.nc"))) == 1


def test_every_seed_and_method_has_the_same_rows(small: Small) -> None:
    study = small()
    study["tasks"][0] |= {"n_train": 50, "n_validation": 20}
    found = compare(study)
    prints = json.loads(found.attrs["data_fingerprints"])
    assert [len(one) for one in prints.values()] == [1]
    assert (found["status"] == "finished").all()


def test_images_of_any_column_names_are_searched_and_compared(tmp_path: Path) -> None:
    import transformers
    from PIL import Image

    from gelora.finetuning.tasks import Task
    from gelora.study.methods import make_method
    from gelora.study.specification import Study, StudyTask
    from tiny_models import tiny_model

    draw = np.random.default_rng(0)

    def rows(n: int) -> list[dict[str, Any]]:
        pixels = [(draw.integers(0, 100, (8, 8)) + 150 * (row % 2)).astype(np.uint8) for row in range(n)]
        return [{"pix": Image.fromarray(one), "cls": ("dark", "light")[row % 2]} for row, one in enumerate(pixels)]

    tiny_model("vit").save_pretrained(tmp_path / "vit")
    size = {"height": 8, "width": 8}
    transformers.ViTImageProcessor(size=size, image_mean=[0.5], image_std=[0.5]).save_pretrained(tmp_path / "vit")
    task = Task(name="shades", image="pix", label="cls", train=rows(40), validation=rows(10))
    study = Study(
        model=str(tmp_path / "vit"),
        tasks=(StudyTask(task=task),),
        methods=(make_method("lora", {}),),
        seeds=(0,),
        output=tmp_path / "out",
        training={"max_steps": 2, "batch_size": 8},
        search=Search(space={"learning_rate": (1e-3, 1e-2)}, n_trials=2, holdout=0.3),
        reference="lora",
    )
    found = compare(study)
    assert found["status"].item() == "finished", found["error"].item()
    assert found["trial_score"].notnull().all()


def test_losses_are_compared_by_the_smallest(tmp_path: Path, folder_of: Callable[[str], Path]) -> None:
    rows = [{"prompt": "the film was", "response": ("good", "bad")[row % 2]} for row in range(24)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    study = {
        "model": str(folder_of("llama")),
        "tasks": [{"name": "instructions", "data_dir": str(tmp_path)}],
        "methods": ["lora-r8"],
        "training": {"max_steps": 6, "batch_size": 8},
        "search": {"space": {"learning_rate": [1e-6, 1e-2]}, "holdout": 0.3},
        "output": str(tmp_path / "out"),
    }
    found = compare(study)
    assert found["status"].item() == "finished", found["error"].item()
    best = int(np.argmin(found["trial_score"].values.ravel()))
    assert json.loads(str(found["options"].item()))["learning_rate"] == (1e-6, 1e-2)[best]
    assert json.loads(found.attrs["greater_is_better"]) == {"instructions": False}


FAULTY = """
import os, sys, json
from unittest import mock
import gelora
from gelora.finetuning.training import RecordingTrainer
from gelora import processes
step = RecordingTrainer.training_step
def fail(self, *args, **kwargs):
    if os.environ["RANK"] == "1" and self.state.global_step == 1:
        raise MemoryError("this process alone")
    return step(self, *args, **kwargs)
processes.Processes.all_failed.__defaults__ = (2.0,)
with mock.patch.object(RecordingTrainer, "training_step", fail):
    try:
        gelora.compare(json.loads(open(sys.argv[1], encoding="utf-8").read()), progress=False)
    except BaseException:
        os._exit(0)
"""


def test_an_error_in_one_process_ends_the_job_and_is_recorded(small: Small, tmp_path: Path) -> None:
    study = small(methods=["lora"], seeds=[0])
    (tmp_path / "study.json").write_text(json.dumps(study))
    run_in_two_processes(FAULTY, tmp_path, str(tmp_path / "study.json"), timeout=100)
    outcome = json.loads((tmp_path / "out/runs/words/lora/seed-0/outcome.json").read_text())
    assert outcome["status"] == "failed"
    assert "this process alone" in outcome["facts"]["error"]


def test_the_report_is_written_even_where_everything_failed(small: Small, tmp_path: Path) -> None:
    found = compare(small(methods=[{"name": "nowhere", "adapter": "lora", "rank": 2, "targets": "no_such"}], seeds=[0]))
    assert found["status"].item() == "failed"
    assert comparing.COMPARISON_FILE in {file.name for file in (tmp_path / "out").iterdir()}
