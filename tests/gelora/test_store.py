"""The store of activations: the bits of an extraction in memory, whatever cuts it off or damages it."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from gelora import filling, windows
from gelora.collecting import Collector
from gelora.estimation import estimate, estimate_representations
from gelora.representations import extract_representations
from gelora.store import META_FILE, DamagedStoreError, open_store
from gelora.store_format import digest_of
from gelora.windows import batches_of, plan_windows, window_rows
from tiny_models import ragged_batch, tiny_model, tiny_tokenizer

N = 300


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut 300 points into five windows."""
    monkeypatch.setattr(windows, "MOST", 64)


@pytest.fixture(scope="module")
def bert() -> Any:
    return tiny_model("bert")


def extract(model: Any, data: Any, **options: Any) -> Any:
    return extract_representations(model, data, **({"n_samples": None, "progress": False} | options))


def assert_same(found: Any, wanted: Any) -> None:
    assert (found.stacks, found.layers, found.names) == (wanted.stacks, wanted.layers, wanted.names)
    for one, other in zip(found.clouds, wanted.clouds, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    for stack, rows in wanted.rows.items():
        assert np.array_equal(found.rows[stack], rows)


def marks(store: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (store / "windows").glob("*.json")}


def test_windows_hold_every_point_once_and_every_example_that_they_need() -> None:
    rng = np.random.default_rng(0)
    for counts in (rng.integers(0, 9, 50), np.ones(130, dtype=int), np.array([200, 0, 3])):
        ends = np.concatenate([[0], np.cumsum(counts)])
        found = plan_windows({"encoder": ends, "decoder": ends}, 64)
        assert [(w.first, w.last) for w in found] == [(i, min(i + 64, ends[-1])) for i in range(0, ends[-1], 64)]
        for window in found:
            assert window.stacks == ("encoder", "decoder")
            inside = [
                i for i in range(len(counts)) if ends[i] < window.last and ends[i + 1] > window.first and counts[i]
            ]
            assert window.examples.tolist() == inside
            parts = batches_of(window, np.arange(len(counts))[::-1], 7)
            assert sorted(np.concatenate(parts).tolist()) == inside
            assert all(len(part) <= 7 for part in parts)
    apart = plan_windows({"encoder": np.array([0, 3]), "decoder": np.array([0, 5])}, 4)
    assert [(w.number, w.stacks, w.first, w.last) for w in apart] == [
        (0, ("encoder",), 0, 3), (1, ("decoder",), 0, 4), (2, ("decoder",), 4, 5),
    ]  # fmt: skip


def test_windows_are_of_two_mebibytes_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "MOST", 4096)
    assert [window_rows(width) for width in (8, 384, 768, 4096, 10**6)] == [4096, 1024, 512, 128, 64]


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_a_store_holds_the_bits_of_an_extraction_in_memory(kind: str, pooling: str, tmp_path: Path) -> None:
    model, data = tiny_model(kind), ragged_batch(N)
    if kind == "t5":
        data = data | {"labels": ragged_batch(N, longest=5, seed=1)["input_ids"]}
    wanted = extract(model, data, pooling=pooling, n_tokens=500)
    found = extract(model, data, pooling=pooling, n_tokens=500, store=tmp_path / "s")
    assert_same(found, wanted)
    assert_same(extract(model, data, pooling=pooling, n_tokens=500, store=tmp_path / "s"), wanted)
    store = open_store(tmp_path / "s")
    with pytest.raises(ValueError, match=r"must be one of .* which '.*' has; got \('encoder', 99\)"):
        store.read("encoder", 99)
    part = store.parts[0]
    assert store._arrays[part.name].shape == (len(part.layers), len(found.clouds[0]), part.width)


def test_texts_are_the_same_whether_their_tokens_lie_in_memory_or_on_disk(bert: Any, tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = [" ".join(f"w{rng.randint(0, 20)}" for _ in range(rng.randint(1, 9))) for _ in range(N)]
    options = {"tokenizer": tiny_tokenizer(), "max_length": 7}
    wanted = extract(bert, texts, **options)
    found = extract(bert, texts, store=tmp_path / "s", **options)
    assert_same(found, wanted)
    names = ("n_truncated", "text_copies_removed", "n_texts", "data_fingerprint")
    assert {name: found.attributes[name] for name in names} == {name: wanted.attributes[name] for name in names}
    assert {path.name for path in (tmp_path / "s").iterdir()} == {
        "encoder_32", "encoder_rows", "gelora.json", "lock", "windows", "zarr.json",
    }  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Any:
    """Pictures of handwritten digits, of 8 × 8 grey pixels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    return [Image.fromarray((one * 15).astype(np.uint8)) for one in load_digits().images[:N]]


@pytest.mark.parametrize("pooling", ["cls", "tokens"])
def test_images_of_a_folder_and_pixel_values_come_through_a_store_as_from_memory(
    digits: Any, pooling: str, tmp_path: Path
) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    processor = ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.5], image_std=[0.5])
    (tmp_path / "digits").mkdir()
    for place, picture in enumerate(digits):
        picture.save(tmp_path / "digits" / f"{place:03}.png")
    pixels = torch.stack([processor(images=one, return_tensors="pt")["pixel_values"][0] for one in digits])
    vit = tiny_model("vit")
    sources: list[tuple[Any, dict[str, Any]]] = [
        (tmp_path / "digits", {"tokenizer": processor}),
        (digits, {"tokenizer": processor}),
        ({"pixel_values": pixels}, {}),
        (pixels, {}),
    ]
    wanted = extract(vit, pixels, pooling=pooling, n_tokens=700)
    assert len(wanted.clouds[0]) == (len(pixels) if pooling == "cls" else 700)
    for number, (data, options) in enumerate(sources):
        options |= {"pooling": pooling, "n_tokens": 700}
        assert_same(extract(vit, data, **options), wanted)
        for _ in range(2):  # made, then read again
            assert_same(extract(vit, data, store=tmp_path / str(number), **options), wanted)


def test_decoder_texts_come_through_a_store_as_from_memory(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts, answers = (
        [" ".join(f"w{rng.randint(0, 20)}" for _ in range(rng.randint(1, most))) for _ in range(N)] for most in (9, 4)
    )
    options: dict[str, Any] = {"tokenizer": tiny_tokenizer(), "decoder_texts": answers}
    for kind in ("t5", "bart"):
        model = tiny_model(kind)
        wanted = extract(model, texts, **options)
        assert wanted.stacks == ("encoder",) * 3 + ("decoder",) * 3
        assert_same(extract(model, texts, store=tmp_path / kind, **options), wanted)
        store = open_store(tmp_path / kind)
        assert np.array_equal(store.read("decoder", 2), wanted.clouds[5])
        alone = extract(model, texts, tokenizer=tiny_tokenizer(), store=tmp_path / f"{kind} encoder")
        assert_same(alone, extract(model, texts, tokenizer=tiny_tokenizer()))
        assert alone.stacks == ("encoder",) * 3


def test_a_profile_from_a_store_is_that_from_memory(bert: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"estimator": ["twonn", "mle(k1=3, k2=5)"], "n_samples": None, "progress": False}
    wanted = estimate(bert, ragged_batch(N), n_replicates=4, **options)
    found = estimate(bert, ragged_batch(N), n_replicates=4, store=tmp_path / "s", **options)
    for name in ("dimension", "standard_error", "dimension_replicates", "mean_norm"):
        np.testing.assert_array_equal(found[name].values, wanted[name].values)
    clouds = extract(bert, ragged_batch(N), store=tmp_path / "s")
    again = estimate_representations(clouds, estimator="twonn", progress=False)
    np.testing.assert_array_equal(again["dimension"].values[0], wanted["dimension"].values[0])


def test_asked_layers_alone_are_kept_and_the_model_is_left_after_the_last_of_them(tmp_path: Path) -> None:
    model, data = tiny_model("bert"), ragged_batch(N)
    every = extract(model, data)
    ran: list[int] = []
    for number, block in enumerate(model.encoder.layer, start=1):
        block.register_forward_pre_hook(lambda *_, number=number: ran.append(number))
    found = extract(model, data, layers=[1, 0], store=tmp_path / "s")
    assert (found.layers, found.names) == ((0, 1), every.names[:2])
    for one, other in zip(found.clouds, every.clouds[:2], strict=True):
        assert np.asarray(one).tobytes() == other.tobytes()
    assert set(ran) == {1}
    ran.clear()
    extract(model, data, layers=[0])
    assert not ran or set(ran) == {1}
    handles = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(handles) == len(model.encoder.layer)
    with pytest.raises(ValueError, match="`layers` must be numbers from 0 to 2, got 3"):
        extract(model, data, layers=[3])
    with pytest.raises(ValueError, match="`layers` must be numbers of layers or module paths, not both"):
        extract(model, data, layers=[0, "encoder.layer.1"])


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "empty", "index"])
def test_a_damaged_window_is_found_by_its_checksum_and_made_again_alone(bert: Any, tmp_path: Path, harm: str) -> None:
    data, folder = ragged_batch(N), tmp_path / "s"
    wanted = extract(bert, data)
    extract(bert, data, store=folder)
    file = open_store(folder).files_of(2)[0]
    content = bytearray(file.read_bytes())
    match harm:
        case "flip":
            content[len(content) // 3] ^= 4
        case "truncate":
            content = content[: len(content) // 2]
        case "index":
            content[-7] ^= 1
        case "empty":
            content = bytearray()
    file.unlink() if harm == "delete" else file.write_bytes(content)
    before, whole = marks(folder), {f: f.stat().st_mtime_ns for f in file.parents[1].rglob("0") if f != file}
    with pytest.raises(DamagedStoreError, match=r"in 1 of 5 windows, the first being 2: extract again"):
        [open_store(folder).read("encoder", layer) for layer in range(3)]
    with mock.patch.object(filling._log, "warning") as said:
        found = extract(bert, data, store=folder)
    assert_same(found, wanted)
    after = marks(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"0000002.json"}
    assert all(f.stat().st_mtime_ns == stamp for f, stamp in whole.items())
    assert said.called == (harm != "delete")


def test_a_store_of_something_else_is_refused_with_the_difference(bert: Any, tmp_path: Path) -> None:
    data, folder = ragged_batch(N), tmp_path / "s"
    extract(bert, data, store=folder)
    other = tiny_model("bert", seed=1)
    cases: list[tuple[Any, Any, dict[str, Any], str]] = [
        (bert, ragged_batch(N, seed=1), {}, "data_fingerprint was"),
        (bert, data, {"pooling": "max"}, "pooling was 'mean', is 'max'"),
        (bert, data, {"precision": "bfloat16"}, "precision was 'float32', is 'bfloat16'"),
        (bert, data, {"layers": [0]}, "layers was"),
        (bert, data, {"n_samples": 100}, "rows was"),
        (tiny_model("roberta"), data, {}, "model_class was 'BertModel', is 'RobertaModel'"),
    ]
    cases += [(other, data, {}, "weights_fingerprint was")]
    before = marks(folder)
    for model, given, options, difference in cases:
        with pytest.raises(ValueError, match=f"`store`: .* was made with something else .*{difference}"):
            extract(model, given, store=folder, **options)
    meta = json.loads((folder / META_FILE).read_text())
    meta["identity"]["gelora"] = "0.0.1"
    meta["digest"] = digest_of(meta)
    (folder / META_FILE).write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"gelora was '0\.0\.1', is"):
        extract(bert, data, store=folder)
    (folder / META_FILE).write_text(json.dumps(meta | {"batch_size": 16}))
    with pytest.raises(ValueError, match="does not have the digest that it was written with"):
        extract(bert, data, store=folder)
    assert marks(folder) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds something else \(notes.txt\)"):
        extract(bert, data, store=tmp_path / "mine")
    with pytest.raises(ValueError, match="`store` needs to know the rows beforehand"):
        extract(bert, data, n_samples=lambda _: True, store=tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="there is no store in"):
        open_store(tmp_path / "nowhere")


def out_of_memory_above(limit: int) -> Any:
    """Let batches of more than ``limit`` examples fail as CUDA fails."""
    original = Collector._forward

    def forward(self: Collector, batch: Any, both: bool) -> None:
        if len(batch["input_ids"]) > limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")
        original(self, batch, both)

    return mock.patch.object(Collector, "_forward", forward)


def test_where_memory_runs_out_the_batches_are_halved_once_and_for_all(bert: Any, tmp_path: Path) -> None:
    data = ragged_batch(N)
    with out_of_memory_above(10):
        wanted = extract(bert, data, batch_size=32)
        found = extract(bert, data, batch_size=32, store=tmp_path / "s")
    assert_same(found, wanted)
    assert_same(found, extract(bert, data, batch_size=8))
    sizes = {json.loads(file.read_text())["batch_size"] for file in (tmp_path / "s" / "windows").glob("*.json")}
    assert sizes == {8}
    assert json.loads((tmp_path / "s" / filling.HALVINGS_FILE).read_text()) == {"0": 8}
    # Later windows of a store that goes on are made as they would have been, also where there is memory again.
    store = open_store(tmp_path / "s")
    store.forget([3, 4])
    assert_same(extract(bert, data, batch_size=32, store=tmp_path / "s"), wanted)
    with out_of_memory_above(0), pytest.raises(RuntimeError, match="`batch_size`: memory runs out at a single example"):
        extract(bert, data)


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory(bert: Any) -> None:
    with (
        mock.patch.object(Collector, "_forward", side_effect=RuntimeError("the size of tensor a must match")),
        pytest.raises(RuntimeError, match="the size of tensor a must match"),
    ):
        extract(bert, ragged_batch(9))


def test_non_finite_points_are_counted_and_warned_of(tmp_path: Path) -> None:
    model, data = tiny_model("bert"), ragged_batch(N)
    row = int(data["input_ids"][0, 0])
    lost = int((data["input_ids"] == row).any(1).sum())

    def spoil(_module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return torch.where((args[0] == row)[..., None], torch.inf, output)

    model.embeddings.word_embeddings.register_forward_hook(spoil)
    for store in (None, tmp_path / "s", tmp_path / "s"):
        with pytest.warns(
            UserWarning, match=f"{lost} of {N} points of .* have non-finite coordinates, and others of 2 more"
        ):
            found = extract(model, data, store=store)
        assert found.attributes["n_nonfinite"] == dict.fromkeys(found.names, lost)


def test_mixed_precision_is_close_to_and_other_than_full(bert: Any) -> None:
    full, mixed = extract(bert, ragged_batch(N)), extract(bert, ragged_batch(N), precision="bfloat16")
    assert mixed.clouds[2].dtype == np.float32
    assert not np.array_equal(full.clouds[2], mixed.clouds[2])
    np.testing.assert_allclose(full.clouds[2], mixed.clouds[2], atol=0.1)
    with pytest.raises(ValueError, match="`precision` must be one of float32, bfloat16, float16"):
        extract(bert, ragged_batch(9), precision="half")


SCRIPT = """
import sys
sys.path.insert(0, {support!r})
from gelora import windows
windows.MOST = 64
from gelora.representations import extract_representations
from tiny_models import ragged_batch, tiny_model
model = tiny_model("bert")
print("ready", flush=True)
extract_representations(model, ragged_batch({n}), n_samples=None, batch_size=4, progress=False, store={store!r})
print("done", flush=True)
"""
SUPPORT = str(Path(__file__).parents[1] / "support")


def start(store: Path, n: int = N) -> "subprocess.Popen[str]":
    script = SCRIPT.format(support=SUPPORT, n=n, store=str(store))
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_store_goes_on_after_kills_at_any_moment_with_the_same_bits(bert: Any, tmp_path: Path) -> None:
    folder, n = tmp_path / "s", 3000
    kept: list[int] = []
    draw = random.Random(3)
    for _ in range(3):
        process = start(folder, n)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.0, 1.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = marks(folder) if (folder / "windows").exists() else {}
        kept.append(len(before))
    assert kept == sorted(kept)
    found = extract(bert, ragged_batch(n), batch_size=4, store=folder)
    assert_same(found, extract(bert, ragged_batch(n), batch_size=4))
    after = marks(folder)
    assert {name: after[name] for name in before} == before


def test_of_two_runs_on_one_store_the_second_waits_and_makes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    processes = [start(folder, 2000), start(folder, 2000)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert "done" in out, err
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = extract(tiny_model("bert"), ragged_batch(2000), batch_size=4)
    assert_same(extract(tiny_model("bert"), ragged_batch(2000), batch_size=4, store=folder), found)


def test_a_full_disk_is_said_and_what_was_made_is_kept(bert: Any, tmp_path: Path) -> None:
    folder, data = tmp_path / "s", ragged_batch(N)
    wanted, full = extract(bert, data), OSError(28, "No space left on device")
    original = filling.ActivationStore.write
    written: list[int] = []

    def write(self: Any, window: Any, clouds: Any, mark: Any) -> None:
        if window.number == 3:
            with mock.patch("zarr.storage._local._put", side_effect=full):
                original(self, window, clouds, mark)
        written.append(window.number)
        original(self, window, clouds, mark)

    with (
        mock.patch.object(filling.ActivationStore, "write", write),
        pytest.raises(OSError, match=r"`store`: window 3 of 5 cannot be written to .*No space left.*make room"),
    ):
        extract(bert, data, store=folder)
    assert written == [0, 1, 2]
    assert len(marks(folder)) == 3
    assert_same(extract(bert, data, store=folder), wanted)


def test_a_disk_that_is_full_before_the_store_is_there_is_said_and_the_same_call_goes_on(
    bert: Any, tmp_path: Path
) -> None:
    folder, data = tmp_path / "s", ragged_batch(N)
    with (
        mock.patch.object(Path, "write_text", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match=rf"cannot write `.*s/{META_FILE}` \(No space left.*make room, and call again"),
    ):
        extract(bert, data, store=folder)
    assert (folder / "encoder_32").is_dir()
    (folder / f".{META_FILE}.0123456789ab.partial").write_text("{")  # as `kill -9` leaves it
    assert_same(extract(bert, data, store=folder), extract(bert, data))


def test_a_store_that_has_lost_its_metadata_or_rows_is_refused_and_keeps_its_windows(bert: Any, tmp_path: Path) -> None:
    folder, data = tmp_path / "s", ragged_batch(N)
    extract(bert, data, store=folder)
    before, meta = marks(folder), folder / META_FILE
    text = meta.read_bytes()
    meta.unlink()
    with pytest.raises(ValueError, match=r"has lost 'gelora.json'.*: put it back, or remove the store"):
        extract(bert, data, store=folder)
    meta.write_bytes(b"\xff" + text)
    with pytest.raises(ValueError, match=r"gelora.json' is no readable JSON .*: remove the store"):
        extract(bert, data, store=folder)
    meta.write_bytes(text)
    (folder / "encoder_rows" / "c" / "0").unlink()
    with pytest.raises(ValueError, match="is damaged .*rows of the encoder is missing.*: remove it"):
        open_store(folder)
    assert marks(folder) == before


def test_a_layer_is_not_mapped_from_a_disk_without_room_for_it(
    bert: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract(bert, ragged_batch(N), store=tmp_path / "s")
    store = open_store(tmp_path / "s")
    monkeypatch.setattr("gelora.store.MOST_OF_MEMORY", 0.0)
    with (
        mock.patch("os.posix_fallocate", side_effect=OSError(28, "No space left on device")),
        pytest.raises(OSError, match=r"cannot write `.*s` \(No space left on device\): make room"),
    ):
        store.read("encoder", 1)
    assert isinstance(store.read("encoder", 1), np.memmap)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_refused_before_the_model_runs(bert: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot make the folder"):
        extract(bert, ragged_batch(9), store=tmp_path / "s")
