"""Models that do not lie whole on one device: spread, offloaded, held in few bits, or run in mixed precision."""

import gc
import importlib.util
import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from accelerate.hooks import AlignDevicesHook
from typer.testing import CliRunner

from gelora.blocks import check_finite_parameters, find_blocks, weights_fingerprint
from gelora.estimation import estimate
from gelora.hooks import inference_on
from gelora.offloading import input_device
from gelora.profile import attribute, open_profile, save_profile
from gelora.quantization import QUANTIZATIONS, warn_misread
from gelora.representations import extract_representations
from tiny_models import ragged_batch, tiny_model

KINDS = ("bert", "llama", "t5")
N = 40
MAPS = {
    "bert": {"embeddings": "cpu", "encoder.layer.0": "disk", "encoder.layer.1": "cpu", "pooler": "disk"},
    "llama": {"embed_tokens": "disk", "layers.0": "cpu", "layers.1": "disk", "norm": "cpu", "rotary_emb": "cpu"},
    # Modules that share their weights stay together.
    "t5": dict.fromkeys(["shared", "encoder.embed_tokens", "decoder.embed_tokens"], "cpu")
    | {"encoder.block": "disk", "encoder.final_layer_norm": "disk"}
    | {"decoder.block.0": "cpu", "decoder.block.1": "disk", "decoder.final_layer_norm": "cpu"}
    | {"encoder.dropout": "cpu", "decoder.dropout": "cpu"},
}
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def extract(model: Any, data: Any, **options: Any) -> Any:
    return extract_representations(model, data, **({"n_samples": None, "progress": False} | options))


def batch(kind: str, n: int = N) -> dict[str, torch.Tensor]:
    data = ragged_batch(n)
    return data | {"labels": ragged_batch(n, longest=5, seed=1)["input_ids"]} if kind == "t5" else data


def widened(config: Any) -> torch.nn.Module:
    sizes = {"hidden_size": 64, "d_model": 64, "intermediate_size": 128, "d_ff": 128, "d_kv": 16, "head_dim": 16}
    for name, size in sizes.items():
        if name in config.to_dict():
            setattr(config, name, size)
    from transformers import AutoModel

    model: torch.nn.Module = AutoModel.from_config(config)
    return model


def strong_model(kind: str) -> Any:
    """A model whose blocks change what they get: with the usual start they add little to it.

    Its matrices are multiples of 64 wide: on processors with AVX-512, bitsandbytes 0.50 reads 4 bits of others wrongly.
    """
    model = tiny_model(kind, widened)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.1, generator=torch.Generator().manual_seed(module.in_features))
    return model


def assert_same(found: Any, wanted: Any) -> None:
    assert (found.stacks, found.layers, found.names) == (wanted.stacks, wanted.layers, wanted.names)
    for one, other in zip(found.clouds, wanted.clouds, strict=True):
        assert one.tobytes() == other.tobytes()
    for name in ("weights_fingerprint", "architecture", "dtype", "device", "quantization"):
        assert found.attributes[name] == wanted.attributes[name]


def distances(found: Any, wanted: Any) -> list[float]:
    """How far the clouds lie from others, relative to their spread about the mean."""
    pairs = zip(found.clouds, wanted.clouds, strict=True)
    return [float(np.linalg.norm(one - other) / np.linalg.norm(other - other.mean(0))) for one, other in pairs]


def spread(kind: str, way: str, model: Any, folder: Path) -> Any:
    match way:
        case "memory":
            return cpu_offload(model)
        case "disk":
            return disk_offload(model, str(folder))
        case _:
            return dispatch_model(model, dict(MAPS[kind]), offload_dir=str(folder))


def state_of(model: Any) -> Any:
    """All that an extraction must leave as it was."""
    return (
        [module.training for module in model.modules()],
        [(p.requires_grad, p.device, p.dtype, p.is_inference()) for p in model.parameters()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        [getattr(m, "_hf_hook", None) for m in model.modules()],
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize("way", ["memory", "disk", "map"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_offloaded_model_gives_the_bits_of_a_whole_one_and_is_left_as_found(
    kind: str, way: str, tmp_path: Path
) -> None:
    data = batch(kind)
    wanted = extract(tiny_model(kind), data)
    model = spread(kind, way, tiny_model(kind), tmp_path).train()
    assert any(parameter.is_meta for parameter in model.parameters())
    before = state_of(model)
    assert_same(extract(model, data), wanted)
    assert state_of(model) == before
    assert_same(extract(model, data, pooling="last", precision="bfloat16"),
                extract(tiny_model(kind), data, pooling="last", precision="bfloat16"))  # fmt: skip
    assert state_of(model) == before


@pytest.mark.parametrize("way", ["memory", "disk", "map"])
def test_the_model_below_a_head_is_read_where_it_lies(way: str, tmp_path: Path) -> None:
    import transformers

    headed = tiny_model("bert", transformers.AutoModelForSequenceClassification.from_config)
    wanted = extract(headed, batch("bert"))
    MAPS["headed"] = {f"bert.{name}": place for name, place in MAPS["bert"].items()} | {"classifier": "cpu"}
    assert_same(extract(spread("headed", way, headed, tmp_path), batch("bert")), wanted)


def test_a_pass_that_ends_inside_a_module_leaves_none_of_its_weights_in_memory() -> None:
    model = tiny_model("bert")
    model.encoder.register_parameter("scale", torch.nn.Parameter(torch.ones(3)))  # loaded before the first block
    wanted = extract(model, batch("bert"), layers=[0, 1])
    model = cpu_offload(model)
    before = state_of(model)
    assert_same(extract(model, batch("bert"), layers=[0, 1]), wanted)
    assert state_of(model) == before
    handle = model.encoder.layer[0].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract(model, batch("bert"))
    handle.remove()
    assert state_of(model) == before


def test_weights_that_wait_on_disk_are_checked_and_told_apart(tmp_path: Path) -> None:
    own, other = tiny_model("bert"), tiny_model("bert")
    with torch.no_grad():
        other.encoder.layer[1].output.dense.weight[3] += 1
    marks = {weights_fingerprint(one, find_blocks(one)) for one in (own, other)}
    places = [disk_offload(one, str(tmp_path / name)) for one, name in ((own, "own"), (other, "other"))]
    assert {weights_fingerprint(one, find_blocks(one)) for one in places} == marks
    assert len(marks) == 2
    check_finite_parameters(places[0])
    broken = tiny_model("bert")
    with torch.no_grad():
        broken.encoder.layer[1].output.dense.weight[3, 4] = torch.nan
    with pytest.raises(ValueError, match=r"'encoder.layer.1.output.dense.weight' holds 1 NaN or infinite values of"):
        extract(disk_offload(broken, str(tmp_path / "broken")), batch("bert"))


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="`model` has no weights, its blocks are on the meta device: load them"):
        extract(tiny_model("bert").to("meta"), batch("bert"))


def test_inputs_go_where_the_embeddings_compute() -> None:
    whole = tiny_model("bert")
    assert [input_device(model).type for model in (whole, cpu_offload(tiny_model("t5")), torch.nn.ReLU())] == [
        "cpu"
    ] * 3
    whole.embeddings.to("meta")  # as if they were elsewhere than the blocks
    for module in whole.embeddings.modules():
        module._hf_hook = AlignDevicesHook("cpu")
    assert input_device(whole).type == "cpu"
    whole.embeddings.word_embeddings._hf_hook = AlignDevicesHook("meta")
    assert input_device(whole).type == "meta"


def offload_folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("gelora-offload-*"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_spread_as_asked_with_the_numbers_of_one_device(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tiny_model(kind).save_pretrained(tmp_path / "model")
    wanted = extract(tmp_path / "model", batch(kind), device="cpu")
    ways: list[Any] = [MAPS[kind]] if torch.cuda.is_available() else ["auto", "sequential", MAPS[kind]]
    for way in ways:
        found = extract(tmp_path / "model", batch(kind), device_map=way)
        assert_same(found, wanted)
        assert found.attributes["device_map"] == (way if isinstance(way, dict) else {})
    gc.collect()
    assert not offload_folders()


def test_weights_in_another_format_wait_in_a_folder_that_goes_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gelora.models import load_model

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model = tiny_model("bert")
    model.config.save_pretrained(tmp_path / "model")
    torch.save(model.state_dict(), tmp_path / "model" / "pytorch_model.bin")
    loaded = load_model(tmp_path / "model", device_map=MAPS["bert"])
    assert [len(list(folder.iterdir())) > 0 for folder in offload_folders()] == [True]
    assert_same(extract(loaded, batch("bert")), extract(model, batch("bert")))
    del loaded
    gc.collect()
    assert not offload_folders()
    (tmp_path / "model" / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match="could not be loaded by AutoModel"):
        load_model(tmp_path / "model", device_map="auto")
    assert not offload_folders()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device_map": "auto", "device": "cpu"}, ValueError, "`device` and `device_map` both say where the model"),
        ({"device_map": "blanced"}, ValueError, "`device_map` must be one of auto, .* did you mean 'balanced'"),
        ({"device_map": "cuda:0"}, ValueError, "`device_map` must be one of auto, .* a single device is `device`"),
        ({"device_map": 0}, TypeError, "`device_map` must be one of auto, balanced"),
        ({"device_map": {}}, TypeError, "`device_map` must be one of auto, balanced"),
        ({"quantization": "8bit"}, ValueError, "`quantization` must be one of nf4, fp4, int8, or None, got '8bit'"),
    ],
)
def test_options_that_do_not_go_together_are_named_before_anything_is_read(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        extract("./no-such-folder", "./no-such-file.txt", **options)


def test_a_loaded_model_is_neither_spread_nor_quantised() -> None:
    with pytest.raises(ValueError, match="`device_map` goes with a model given by name: .* spread it first by"):
        extract(tiny_model("bert"), batch("bert"), device_map="auto")
    with pytest.raises(TypeError, match="`model` must be a folder or hub name for quantization='nf4', got a loaded"):
        extract(tiny_model("bert"), batch("bert"), quantization="nf4")


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else found(name, *rest)
    )
    with pytest.raises(ImportError, match=r"`quantization` needs bitsandbytes, .*: pip install 'gelora\[quantized\]'"):
        extract("./no-such-folder", "./no-such-file.txt", quantization="int8")


@pytest.fixture(scope="module")
def strong(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a model whose blocks change what they get."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            strong_model(kind).save_pretrained(made[kind])
        return made[kind]

    return folder


def quantised(folder: Path, quantization: str, **options: Any) -> Any:
    from gelora.models import load_model

    return load_model(folder, quantization=quantization, device="cpu", **options)


# By how much a Gaussian weight is off in the mean square, relative to the usual weight: steps of NormalFloat and of
# floats of 4 bits; of 8 bits 1/127 of a row's largest, for the inputs too. A branch of a block has three products in a
# row at most, there are two blocks, and what a branch is added to is exact.
ERRORS = {"nf4": 0.092, "fp4": 0.124, "int8": 0.008}


@needs_bitsandbytes
@pytest.mark.parametrize(("width", "error", "named"), [(48, 0.6, True), (48, 0.1, False), (64, 0.6, False)])
def test_widths_that_this_processor_reads_wrongly_are_named(
    width: int, error: float, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bitsandbytes.functional

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", lambda wanted, quant_type: (wanted, quant_type))
    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", lambda packed, state: packed * (1 + error))
    model = torch.nn.Module()
    model.part = torch.nn.Module()
    state = SimpleNamespace(shape=(64, width), quant_type="nf4")
    model.part.weight = SimpleNamespace(quant_state=state, device=torch.device("cpu"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        warn_misread(model)
    said = f"width {width}, such as 'part', with an error of {error:.0%}"
    assert [said in str(one.message) for one in told] == [True] * named


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_few_bits_give_states_near_those_of_floats_and_are_recorded(
    kind: str, quantization: str, strong: Callable[[str], Path]
) -> None:
    data = batch(kind)
    wanted = extract(strong(kind), data, device="cpu")
    found = extract(strong(kind), data, quantization=quantization, device="cpu")
    for layer, one, other in zip(found.layers, found.clouds, wanted.clouds, strict=True):
        error = float(np.linalg.norm(one - other) / np.linalg.norm(other))
        assert error == 0 if layer == 0 else ERRORS[quantization] / 6 < error < 6**0.5 * ERRORS[quantization]
    assert found.attributes["quantization"] == quantization
    assert found.attributes["dtype"] == "float32"
    assert found.attributes["weights_fingerprint"] != wanted.attributes["weights_fingerprint"]
    assert wanted.attributes["quantization"] == ""


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_loaded_quantised_model_gives_the_same_bits_at_every_call(
    quantization: str, strong: Callable[[str], Path]
) -> None:
    loaded, data = quantised(strong("llama"), quantization), batch("llama")
    wanted = extract(strong("llama"), data, quantization=quantization, device="cpu")
    assert_same(extract(loaded, data), wanted)
    assert_same(extract(loaded, data), wanted)


@needs_bitsandbytes
def test_weights_of_4_bits_are_those_that_the_model_runs_with(strong: Callable[[str], Path]) -> None:
    from bitsandbytes.functional import dequantize_4bit

    quantised_model: Any = quantised(strong("llama"), "nf4")
    whole = strong_model("llama")
    n = 0
    for name, module in quantised_model.named_modules():
        if type(module).__name__ == "Linear4bit":
            whole.get_submodule(name).weight.data = dequantize_4bit(module.weight.data, module.weight.quant_state)
            n += 1
    assert n == 14
    assert max(distances(extract(quantised_model, batch("llama")), extract(whole, batch("llama")))) < 1e-5


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_quantised_model_has_a_profile_and_is_left_as_found(
    quantization: str, strong: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model: Any = quantised(strong("bert"), quantization)
    matrix = model.encoder.layer[0].attention.self.query
    matrix.support_avx512bf16_for_cpu = True  # as on a processor that has it

    def seen(module: Any, _: Any) -> None:
        fast.append(module.support_avx512bf16_for_cpu)

    fast: list[bool] = []
    handle = matrix.register_forward_pre_hook(seen)
    before = state_of(model)
    profile = estimate(model, batch("bert", 80), estimator="mle", precision="bfloat16", progress=False)
    assert np.isfinite(profile["dimension"]).all()
    assert set(fast) == {False}
    assert matrix.support_avx512bf16_for_cpu
    assert state_of(model) == before  # the type of each bias too
    assert logging.getLogger("bitsandbytes").level == logging.NOTSET
    assert caplog.records == []  # the library would note every product
    handle.remove()
    save_profile(profile, tmp_path / "profile.nc")
    record = open_profile(tmp_path / "profile.nc")
    assert (record.attrs["quantization"], record.attrs["precision"]) == (quantization, "bfloat16")
    assert attribute(record, "quantization_options")["quant_method"] == "bitsandbytes"


@needs_bitsandbytes
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_the_fingerprint_of_a_quantised_model_tells_its_constants(
    quantization: str, strong: Callable[[str], Path], tmp_path: Path
) -> None:
    double = strong_model("bert")
    with torch.no_grad():  # the same integers, other constants
        double.encoder.layer[1].attention.self.value.weight *= 2
    double.save_pretrained(tmp_path / "double")
    own, other, again = (
        quantised(path, quantization) for path in (strong("bert"), tmp_path / "double", strong("bert"))
    )
    assert torch.equal(*(one.encoder.layer[1].attention.self.value.weight for one in (own, other)))
    marks = [weights_fingerprint(one, find_blocks(one)) for one in (own, other, again)]
    assert marks[0] == marks[2] != marks[1]


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore:on this processor bitsandbytes reads:UserWarning")  # the model is 32 wide
def test_a_model_is_quantised_as_finetuning_does_it(folder_of: Callable[[str], Path], sentiment: Any) -> None:
    from gelora.finetuning.classifiers import load_classifier
    from gelora.finetuning.tasks import load_task

    classifier = load_classifier(folder_of("bert"), load_task(sentiment), quantization="nf4", device="cpu")
    loaded = quantised(folder_of("bert"), "nf4")
    assert weights_fingerprint(loaded, find_blocks(loaded)) == classifier.weights


@needs_bitsandbytes
def test_real_numbers_keep_a_real_type_before_a_quantised_matrix() -> None:
    from bitsandbytes.nn import Linear4bit

    torch.manual_seed(0)
    model = torch.nn.Sequential(Linear4bit(16, 64, compute_dtype=torch.float32), torch.nn.Linear(64, 8)).to("cpu")
    points = torch.randn(30, 16)
    found = extract(model, [points], layers=["0", "1"])
    with torch.no_grad():
        np.testing.assert_allclose(found[1], model[0](points), rtol=1e-5, atol=1e-6)
    assert found.attributes["dtype"] == "float32"


@needs_bitsandbytes
def test_a_store_of_floats_is_refused_for_few_bits(strong: Callable[[str], Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "store": tmp_path / "s"}
    extract(strong("bert"), batch("bert"), **options)
    with pytest.raises(ValueError, match=r"`store`: .* made with something else .*quantization was '', is 'nf4'"):
        extract(strong("bert"), batch("bert"), quantization="nf4", **options)
    options["store"] = tmp_path / "few"
    found = extract(strong("bert"), batch("bert"), quantization="nf4", **options)
    for stored, held in zip(
        found.clouds, extract(strong("bert"), batch("bert"), quantization="nf4", device="cpu").clouds, strict=True
    ):
        assert np.asarray(stored).tobytes() == held.tobytes()
    with pytest.raises(ValueError, match="quantization was 'nf4', is 'int8'"):
        extract(strong("bert"), batch("bert"), quantization="int8", **options)
    with pytest.raises(ValueError, match="quantization was 'nf4', is ''"):
        extract(strong("bert"), batch("bert"), **options)


@pytest.mark.parametrize(("precision", "bits"), [("bfloat16", 8), ("float16", 11)])
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_is_near_full_precision_and_recorded(kind: str, precision: str, bits: int) -> None:
    model, data = strong_model(kind), batch(kind)
    found, wanted = extract(model, data, precision=precision), extract(model, data)
    # Rounding to so many bits, of a dozen products in a row.
    assert 0 < max(distances(found, wanted)) < 12 * 2.0**-bits
    assert (found.attributes["precision"], wanted.attributes["precision"]) == (precision, "float32")
    assert found.attributes["dtype"] == "float32"
    assert {cloud.dtype for cloud in found.clouds} == {np.dtype(np.float32)}


def test_points_that_leave_the_range_of_float16_are_counted_and_those_of_other_types_not() -> None:
    model = strong_model("bert")
    with torch.no_grad():
        model.encoder.layer[0].output.dense.bias[5] = 1e5  # float16 ends at 65504
    with pytest.warns(UserWarning, match=f"{N} of {N} points of 'encoder.layer.0' have non-finite coordinates, and"):
        found = extract(model, batch("bert"), precision="float16")
    assert found.attributes["n_nonfinite"] == {"encoder.layer.0": N, "encoder.layer.1": N}
    for precision in ("bfloat16", "float32"):
        assert extract(model, batch("bert"), precision=precision).attributes["n_nonfinite"] == {}


def test_the_weights_of_a_pass_in_mixed_precision_are_not_held_after_they_have_run() -> None:
    model = tiny_model("bert").requires_grad_(True)
    enabled: list[bool] = []
    handle = model.encoder.layer[1].register_forward_hook(lambda *_: enabled.append(torch.is_autocast_cache_enabled()))
    extract(model, batch("bert"), precision="bfloat16")
    handle.remove()
    assert set(enabled) == {False}
    with inference_on(model):
        assert torch.is_inference_mode_enabled()
    with inference_on(cpu_offload(model)):
        assert not torch.is_inference_mode_enabled()
        assert not torch.is_grad_enabled()


def test_the_command_line_spreads_and_quantises(
    tmp_path: Path, strong: Callable[[str], Path], monkeypatch: Any
) -> None:
    import gelora.estimation
    from gelora.cli import app

    given: dict[str, Any] = {}

    def run(model: Any, data: Any, **options: Any) -> Any:
        given.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(gelora.estimation, "estimate", run)
    arguments = ["estimate", "--model", "m", "--data", "d", "--output", str(tmp_path / "p.nc"), "--device-map"]
    CliRunner().invoke(app, [*arguments, "auto", "--quantization", "int8"])
    assert (given["device_map"], given["quantization"]) == ("auto", "int8")
    CliRunner().invoke(app, [*arguments, '{"encoder": 0, "": "cpu"}'])
    assert (given["device_map"], given["quantization"]) == ({"encoder": 0, "": "cpu"}, None)
    result = CliRunner().invoke(app, [*arguments, '{"encoder": }'])
    assert result.exit_code != 0
    assert "is no JSON object" in result.output


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_goes_through_the_memory_of_a_gpu_piece_by_piece(kind: str) -> None:
    wanted = extract(tiny_model(kind), batch(kind))
    found = extract(cpu_offload(tiny_model(kind), torch.device("cuda:0")), batch(kind))
    assert found.attributes["device"] == "cuda:0"
    assert found.attributes["weights_fingerprint"] == wanted.attributes["weights_fingerprint"]
    assert max(distances(found, wanted)) < 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_on_several_gpus_gives_the_states_of_one(kind: str, tmp_path: Path) -> None:
    tiny_model(kind).save_pretrained(tmp_path)
    wanted = extract(tmp_path, batch(kind), device="cuda:0")
    places = {name: number % 2 for number, name in enumerate(MAPS[kind])}
    found = extract(tmp_path, batch(kind), device_map=places)
    assert set(found.attributes["device_map"].values()) == {"0", "1"}
    assert found.attributes["weights_fingerprint"] == wanted.attributes["weights_fingerprint"]
    assert max(distances(found, wanted)) < 1e-4
