"""Files that anybody may have written: a clear error, never a crash, a path outside the folder or unbounded memory."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comparisons import example_comparison
from gelora import plan_ranks
from gelora.corpora import read_texts
from gelora.estimation import estimate_representations
from gelora.files import MAX_BYTES, read_json
from gelora.filling import HALVINGS_FILE
from gelora.finetuning.adapter_folder import FACTS_FILE, read_facts
from gelora.finetuning.checkpoints import SEAL_FILE, last_checkpoint, seal_checkpoint
from gelora.finetuning.glue import find_task
from gelora.finetuning.own_folder import SHAPE_FILE, TENSORS_FILE, load_own, read_shape, save_own
from gelora.finetuning.tables import read_splits
from gelora.plan import RankPlan
from gelora.profile import open_profile, save_profile
from gelora.representations import extract_representations
from gelora.scores import open_comparison, save_comparison
from gelora.store import META_FILE, open_store
from gelora.study.reading import read_study, read_task
from tiny_models import ragged_batch, tiny_model

EXAMPLES = settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("../../etc/passwd"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
# What a reader says of a file that is not what it should be.
REFUSED = (ValueError, FileNotFoundError)
MEMORY = 100 * 2**20


@st.composite
def replaced(draw: Any, value: Any) -> Any:
    """Give a JSON value with one of its parts replaced, renamed or left out."""
    if isinstance(value, dict) and value and draw(st.integers(0, 4)):
        key = draw(st.sampled_from(sorted(value)))
        changed = dict(value)
        match draw(st.sampled_from(["inside", "inside", "inside", "away", "named"])):
            case "away":
                del changed[key]
            case "named":
                changed[draw(st.text(max_size=6))] = changed.pop(key)
            case _:
                changed[key] = draw(replaced(value[key]))
        return changed
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], draw(replaced(value[place])), *value[place + 1 :]]
    return draw(JSON)


@st.composite
def spoilt(draw: Any, content: bytes) -> bytes:
    """Give a file's bytes with some changed, inserted, or its end cut off."""
    place = draw(st.integers(0, len(content)))
    match draw(st.sampled_from(["cut", "change", "insert"])):
        case "cut":
            return content[:place]
        case "change":
            new = draw(st.binary(min_size=1, max_size=8))
            return content[:place] + new + content[place + len(new) :]
    return content[:place] + draw(st.binary(min_size=1, max_size=64)) + content[place:]


PROCESS = Path("/proc/self")


def resident(name: str) -> int:
    """Give the memory of this process now (VmRSS), or the most since it was last reset (VmHWM), in bytes."""
    lines = (PROCESS / "status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


def reads_or_refuses(read: Callable[[], Any]) -> str:
    """Read; return what it was refused with, or "fine"."""
    measured = PROCESS.exists()  # on Linux
    if measured:
        (PROCESS / "clear_refs").write_text("5")  # the peak starts anew: what other tests took does not hide this
        before = resident("VmRSS")
    text = "fine"
    try:
        read()
    except REFUSED as error:
        text = str(error)
    assert 0 < len(text) < 3000
    if measured:
        assert resident("VmHWM") - before < MEMORY
    return text


def sealed(content: bytes) -> bytes:
    """Give bytes the checksum at their end that our writer gives: whoever forges a file can do so."""
    return content + b"\ngelora sha256 " + hashlib.sha256(content).hexdigest().encode() + b"\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(100, 3)) for _ in range(3)]
    save_profile(estimate_representations(clouds, n_replicates=4, progress=False), folder / "profile.nc")
    plan_ranks(None, tiny_model("bert"), "uniform", rank=2).save(folder / "plan.json")
    save_comparison(example_comparison(rng.random((2, 2, 3))), folder / "comparison.nc")
    extract_representations(tiny_model("bert"), ragged_batch(60), store=folder / "store", progress=False)
    pd.DataFrame({"text": ["a", "b"], "label": [1, 0]}).to_parquet(folder / "a.parquet")
    (folder / "adapter").mkdir()
    save_own(folder / "adapter", torch.nn.Linear(3, 2), {"rank": 4, "modules": ["a", "b"]})
    facts = {"schema": "gelora-adapter", "schema_version": 1, "kind": "own", "adapter": "lora", "head": []}
    (folder / "adapter" / FACTS_FILE).write_text(json.dumps(facts))
    return folder


@EXAMPLES
@given(st.data())
def test_a_profile_or_comparison_of_other_bytes(files: Path, tmp_path: Path, data: Any) -> None:
    for name, read in (("profile.nc", open_profile), ("comparison.nc", open_comparison)):
        content = (files / name).read_bytes()
        body = content[: -len(sealed(b""))]
        assert sealed(body) == content
        changed = data.draw(spoilt(body) | st.binary(max_size=64))
        file = tmp_path / name
        for written in (changed, sealed(changed)):  # of a gelora that wrote no checksum, and forged
            file.write_bytes(written)
            reads_or_refuses(lambda read=read, file=file: read(file))  # type: ignore[misc]
        file.write_bytes(changed + content[len(body) :])
        text = reads_or_refuses(lambda read=read, file=file: read(file))  # type: ignore[misc]
        assert text == "fine" if changed == body else "checksum" in text or "HDF5" in text


@EXAMPLES
@given(st.data())
def test_a_plan_of_other_content(files: Path, tmp_path: Path, data: Any) -> None:
    stored = json.loads((files / "plan.json").read_text())
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(data.draw(replaced(stored))))
    reads_or_refuses(lambda: RankPlan.load(file))
    file.write_bytes(data.draw(spoilt((files / "plan.json").read_bytes())))
    reads_or_refuses(lambda: RankPlan.load(file))


STUDY = {
    "model": "m",
    "tasks": ["rte", {"name": "mine", "text": "t", "label": "l", "metric": "accuracy", "train": "a.csv",
                      "validation": "b.csv", "n_train": 5, "training": {"max_steps": 3}},
              {"name": "squad", "answering": {"stride": 4}}],
    "methods": ["full", "lora", {"name": "x", "adapter": "lora", "rank": 4, "search": {"learning_rate": [1, 2]}},
                {"name": "geolora", "training": {"max_steps": 3}}],
    "seeds": [0, 1],
    "training": {"max_steps": 30, "learning_rate": {"default": 1e-3, "full": 1e-5}},
    "estimation": {"estimator": "twonn", "n_samples": 100},
    "ranks": {"rounding": "ceil"},
    "search": {"space": {"learning_rate": [1e-3, 1e-2]}, "holdout": 0.2, "seed": 1, "training": {"max_steps": 2}},
    "output": "out",
    "reference": "lora",
    "keep_adapters": False,
}  # fmt: skip


@EXAMPLES
@given(st.data())
def test_a_study_or_a_task_of_other_content(tmp_path: Path, data: Any) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(data.draw(replaced(STUDY)), allow_unicode=True), encoding="utf-8")
    reads_or_refuses(lambda: read_study(file))
    file.write_bytes(data.draw(spoilt(yaml.safe_dump(STUDY).encode())))
    reads_or_refuses(lambda: read_study(file))
    file.write_text(yaml.safe_dump(data.draw(replaced(STUDY["tasks"][1]))), encoding="utf-8")  # type: ignore[index]
    reads_or_refuses(lambda: read_task(file))
    assert [path.name for path in tmp_path.iterdir()] == ["study.yaml"]


NESTED = "[" * 100_000


@pytest.mark.parametrize(
    ("key", "value"),
    [("scaling", 10**400), ("scaling", float("nan")), ("rank", 10**400), ("block", True), ("modules", {"a": 1}),
     ("architecture", {"model_type": "m", "blocks": {"encoder": "x"}, "width": 1}), ("provenance", [[1]])],
)  # fmt: skip
def test_numbers_of_a_plan_without_bounds_are_refused(files: Path, tmp_path: Path, key: str, value: Any) -> None:
    stored = json.loads((files / "plan.json").read_text())
    changed = stored["modules"][0] if key in ("rank", "block") else stored
    changed[key] = value
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"`path`: .*plan.json' is a damaged rank plan"):
        RankPlan.load(file)


@pytest.mark.parametrize("content", [NESTED, '{"a":' * 100_000, "1" * 5000, "", "\x00", "nan"])
def test_json_without_bounds_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="is not a JSON file, or truncated"):
        RankPlan.load(file)
    with pytest.raises(ValueError, match=r".+"):
        read_json(file)


def test_a_json_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    with file.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)  # a hole, which takes no space
    with pytest.raises(ValueError, match=f"it has more than {MAX_BYTES:,} bytes"):
        RankPlan.load(file)


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(LAUGHS, "repeats or nests values without end"), ("a: &a [*a]", "repeats or nests values without end"),
     (f"a: {NESTED}", "not readable YAML: it nests values without end"),
     ("a: !!python/object/apply:os.system ['true']", "no plain YAML|tag|must|is not known here"),
     ("a: " + "1" * 5000, "no plain YAML"), ("#" * 1_000_001, "more than 1,000,000 bytes")],
    ids=["laughs", "itself", "nested", "python", "digits", "large"],
)  # fmt: skip
def test_yaml_without_bounds_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(content)
    for read in (read_study, read_task):
        assert re.search(reason, reads_or_refuses(lambda read=read: read(file)))  # type: ignore[misc]


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "a\\b", "a\0b", "..", ".", ".hidden", "a.", "con", "NUL.txt", "x" * 101, "a\nb"]
)
def test_a_name_that_cannot_be_a_folder_beside_its_like_is_refused(name: str) -> None:
    task = STUDY["tasks"][1]
    for changed in ({"tasks": [{**task, "name": name}]}, {"methods": [{"name": name, "adapter": "lora", "rank": 4}]}):  # type: ignore[dict-item]
        text = reads_or_refuses(lambda changed=changed: read_study({**PLAIN, **changed}))  # type: ignore[misc]
        assert "must have a name of at most 100 letters, digits, '-', '_' and '.'" in text


PLAIN = {"model": "m", "tasks": ["rte"], "methods": ["lora"], "output": "out"}


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "~nobody-of-that-name/x"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    text = reads_or_refuses(lambda: read_study({**PLAIN, "output": path}))
    assert text.startswith("`output` must be a path")


TABLES = {
    "a.csv": b"text,label\na,1\nb,0\n",
    "a.tsv": b"text\tlabel\na\t1\n",
    "a.jsonl": b'{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n',
    "a.json": b'[{"text": "a", "label": 1}, {"text": "b", "label": 0}]',
    "a.txt": b"eins\nzwei\n",
}


@EXAMPLES
@given(st.data())
def test_data_of_other_bytes(files: Path, tmp_path: Path, data: Any) -> None:
    name = data.draw(st.sampled_from([*sorted(TABLES), "a.parquet"]))
    content = TABLES.get(name) or (files / name).read_bytes()
    file = tmp_path / name
    file.write_bytes(data.draw(spoilt(content)))
    reads_or_refuses(lambda: read_texts(file, text_column=None if name == "a.txt" else "text"))
    if name != "a.txt":
        task = replace(find_task("rte"), train=str(file), validation=str(file))
        reads_or_refuses(lambda: read_splits(task, None))


@EXAMPLES
@given(st.data())
def test_an_adapter_of_other_bytes(files: Path, tmp_path: Path, data: Any) -> None:
    folder = tmp_path / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(files / "adapter", folder)
    file = folder / data.draw(st.sampled_from([SHAPE_FILE, TENSORS_FILE, FACTS_FILE]))
    file.write_bytes(data.draw(spoilt(file.read_bytes())))
    reads_or_refuses(lambda: read_shape(folder))
    reads_or_refuses(lambda: read_facts(folder))
    reads_or_refuses(lambda: load_own(torch.nn.Linear(3, 2), folder))


@EXAMPLES
@given(st.data())
def test_a_checkpoint_of_other_bytes_is_passed_over(tmp_path: Path, data: Any) -> None:
    checkpoint = tmp_path / "checkpoints" / "checkpoint-1"
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    checkpoint.mkdir(parents=True)
    (checkpoint / "x").write_bytes(b"weights")
    seal_checkpoint(checkpoint)
    assert last_checkpoint(tmp_path) == checkpoint
    file = checkpoint / SEAL_FILE
    sums = json.loads(file.read_text())
    changed = json.dumps(data.draw(replaced(sums) | st.just({"../../../../etc/passwd": "x"})))
    file.write_text(changed)
    if json.loads(changed) != sums:
        with pytest.warns(UserWarning, match="is damaged"):
            assert last_checkpoint(tmp_path) is None


def use_store(folder: Path) -> None:
    store = open_store(folder)
    for part in store.parts:
        for layer in part.layers:
            store.read(part.stack, layer)


@EXAMPLES
@given(st.data())
def test_a_store_of_other_content(files: Path, tmp_path: Path, data: Any) -> None:
    folder = tmp_path / "store"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(files / "store", folder)
    everything = sorted(path for path in folder.rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(everything))
    content = file.read_bytes()
    if file.suffix == ".json" and data.draw(st.booleans()):
        file.write_text(json.dumps(data.draw(replaced(json.loads(content)))))
    else:
        file.write_bytes(data.draw(spoilt(content)))
    reads_or_refuses(lambda: use_store(folder))
    # An extraction into it refuses too, or mends it.
    options: dict[str, Any] = {"store": folder, "progress": False}
    reads_or_refuses(lambda: extract_representations(tiny_model("bert"), ragged_batch(60), **options))
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


@pytest.mark.parametrize("content", ["[]", "{", '{"0": "x"}', '{"0": -1}', '{"x": 3}', "null", '{"0": 1e400}'])
def test_notes_of_batch_sizes_that_are_none_are_refused(files: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(files / "store", tmp_path / "store")
    store = open_store(tmp_path / "store")
    store.forget([0])
    (store.path / HALVINGS_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"`store`: .*batch_sizes.json.* is damaged"):
        extract_representations(tiny_model("bert"), ragged_batch(60), store=store.path, progress=False)


def test_a_store_cannot_point_outside_itself_or_have_anything_unpacked_that_we_do_not_pack(
    files: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "store"
    shutil.copytree(files / "store", folder)
    meta = json.loads((folder / META_FILE).read_text())
    for stack in ("../../secret", "/etc", "encoder/../.."):
        changed = meta | {"parts": [meta["parts"][0] | {"stack": stack}]}
        (folder / META_FILE).write_text(json.dumps(changed))
        with pytest.raises(ValueError, match="its layers are not described"):
            open_store(folder)
    (folder / META_FILE).write_text(json.dumps(meta))
    array = folder / "encoder_32" / "zarr.json"
    packed = json.loads(array.read_text())
    for change in ({"shape": [3, 10**12, 32]}, {"data_type": "complex128"}):
        array.write_text(json.dumps(packed | change))
        with pytest.raises(ValueError, match="`store`: .* is damaged"):
            open_store(folder)
    packed["codecs"][0]["configuration"]["codecs"].insert(1, {"name": "numcodecs.pickle", "configuration": {}})
    array.write_text(json.dumps(packed))
    with pytest.raises(ValueError, match="`store`: .* is damaged"):
        open_store(folder)


def test_nothing_of_ours_is_pickled_or_reads_pickles() -> None:
    sources = [path for root in ("src", "estimators") for path in Path(root).rglob("*.py")]
    assert len(sources) > 100
    for path in sources:
        text = path.read_text(encoding="utf-8")
        for word in ("import pickle", "allow_pickle=True", "torch.load(", "joblib", "yaml.load(", "shelve", "marshal"):
            assert word not in text, f"{path}: {word}"
