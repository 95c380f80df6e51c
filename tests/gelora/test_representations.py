"""Clouds hold what the model computes, whatever the batches, the padding, the thread or the kind of data."""

import threading

import datasets
import numpy as np
import pytest
import torch
import transformers as hf

from gelora.blocks import UnknownArchitectureError, find_blocks
from gelora.pooling import POOLINGS, choose_tokens, pool
from gelora.representations import extract_representations
from tiny_models import (
    MORE_TEXT_ARCHITECTURES,
    TEXT_ARCHITECTURES,
    VOCABULARY,
    WIDTH,
    ragged_batch,
    tiny_model,
    tiny_texts,
    tiny_tokenizer,
)

CLOSE = {"rtol": 1e-4, "atol": 2e-6}


def extract(model, data, **options):
    return extract_representations(model, data, **{"progress": False, "n_samples": None, **options})


def rows_of(batch):
    return [ids[mask.bool()] for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def reference(model, ids):
    """Block inputs and the last block's output of one unpadded example, from transformers' own outputs."""
    runner = model.get_encoder() if model.config.is_encoder_decoder else model
    last = []
    blocks = find_blocks(model)
    last_name = [block.name for block in blocks if block.stack == blocks[0].stack][-1]
    final = dict(model.named_modules())[last_name]
    handle = final.register_forward_hook(
        lambda _m, _i, out: last.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    with torch.no_grad():
        states = runner(input_ids=ids[None], output_hidden_states=True).hidden_states
    handle.remove()
    return [state[0] for state in states[:-1]] + [last[0][0]]


REDUCE = {
    "mean": lambda h: h.mean(0),
    "last": lambda h: h[-1],
    "cls": lambda h: h[0],
    "max": lambda h: h.amax(0),
}


CASES = [(name, pooling, side) for name in TEXT_ARCHITECTURES for pooling in REDUCE for side in ("left", "right")]
CASES += [(name, "mean", "left") for name in MORE_TEXT_ARCHITECTURES]


@pytest.mark.parametrize(("name", "pooling", "side"), CASES)
def test_each_row_is_the_pooled_hidden_state_of_its_example_run_alone(name, pooling, side):
    model = tiny_model(name)
    batch = ragged_batch(12, side=side)
    found = extract(model, batch, pooling=pooling, batch_size=5)
    assert found.layers == (0, 1, 2)
    for row, data_row in enumerate(found.rows[found.stacks[0]]):
        expected = reference(model, rows_of(batch)[data_row])
        for layer in range(3):
            np.testing.assert_allclose(found[layer][row], REDUCE[pooling](expected[layer]).numpy(), **CLOSE)


def test_the_last_layer_is_the_last_block_before_the_final_norm():
    model = tiny_model("llama")
    batch = ragged_batch(6)
    cloud = extract(model, batch, pooling="last")[2]
    with torch.no_grad():
        normed = model.norm(torch.from_numpy(cloud))
        last = model(**batch).last_hidden_state
    ends = batch["attention_mask"].sum(1) - 1
    np.testing.assert_allclose(normed, last[torch.arange(6), ends], **CLOSE)
    assert not np.allclose(cloud, normed, rtol=0.1)


def test_pooling_looks_at_attended_tokens_alone_on_either_side():
    hidden = torch.tensor([[[9.0], [1.0], [3.0]], [[1.0], [3.0], [torch.nan]]])
    mask = torch.tensor([[False, True, True], [True, True, False]])
    expected = {"mean": [2.0, 2.0], "last": [3.0, 3.0], "cls": [1.0, 1.0], "max": [3.0, 3.0], "tokens": [1, 3, 1, 3]}
    assert set(expected) == set(POOLINGS)
    for pooling, values in expected.items():
        assert pool(hidden, mask, pooling).flatten().tolist() == values
    assert pool(hidden.double(), mask, "mean").dtype == torch.float64
    assert pool(hidden.bfloat16(), mask, "mean").dtype == torch.float32


def test_every_token_is_a_point_of_its_text():
    model, batch = tiny_model("bert"), ragged_batch(7)
    found = extract(model, batch, pooling="tokens", n_tokens=None, batch_size=3)
    lengths = batch["attention_mask"].sum(1).numpy()
    np.testing.assert_array_equal(found.rows["encoder"], np.repeat(np.arange(7), lengths))
    expected = torch.cat([reference(model, ids)[1] for ids in rows_of(batch)])
    np.testing.assert_allclose(found[1], expected, **CLOSE)


def test_a_draw_of_tokens_depends_on_the_seed_and_not_on_the_batches():
    model, batch = tiny_model("bert"), ragged_batch(20)
    one, two = (extract(model, batch, pooling="tokens", n_tokens=30, batch_size=size, seed=4) for size in (2, 20))
    assert one[0].shape == (30, WIDTH)
    np.testing.assert_array_equal(one.rows["encoder"], two.rows["encoder"])
    np.testing.assert_allclose(one[2], two[2], **CLOSE)
    other = extract(model, batch, pooling="tokens", n_tokens=30, seed=5)
    assert not np.array_equal(one.rows["encoder"], other.rows["encoder"])


def test_tokens_are_chosen_uniformly_over_all_texts(rng):
    lengths = np.array([1, 9, 90])
    counts = np.zeros(3)
    for _ in range(400):
        kept = choose_tokens(lengths, 10, rng)
        assert sum(map(len, kept)) == 10
        assert all((part < length).all() for part, length in zip(kept, lengths, strict=True))
        counts += [len(part) for part in kept]
    np.testing.assert_allclose(counts / 4000, lengths / 100, atol=0.02)
    with pytest.raises(ValueError, match="`n_tokens` must be"):
        choose_tokens(lengths, 0, rng)


def test_texts_lists_datasets_loaders_and_tensors_give_the_same_clouds(tmp_path):
    model, tokenizer, texts = tiny_model("bert"), tiny_tokenizer(), sorted(set(tiny_texts(30)))
    expected = extract(model, texts, tokenizer=tokenizer)
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    batches = [{key: value[i : i + 7] for key, value in encoded.items()} for i in range(0, len(texts), 7)]
    table = datasets.Dataset.from_dict({"text": texts, "label": [0] * len(texts)})
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    tokenized = table.map(lambda row: dict(tokenizer(row["text"])), remove_columns=["text", "label"])
    for data, options in (
        (table, {"tokenizer": tokenizer, "text_column": "text"}),
        (tmp_path / "texts.txt", {"tokenizer": tokenizer}),
        (dict(encoded), {}),
        (torch.utils.data.DataLoader(batches, batch_size=None), {}),
        (tokenized, {}),
    ):
        found = extract(model, data, **options)
        for layer in range(3):
            np.testing.assert_allclose(found[layer], expected[layer], **CLOSE)
        np.testing.assert_array_equal(found.rows["encoder"], expected.rows["encoder"])


def test_pairs_are_encoded_together():
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    pairs = [("w1 w2", "w3"), ("w1", "w2 w3")]
    found = extract(model, pairs, tokenizer=tokenizer)
    encoded = tokenizer(["w1 w2", "w1"], ["w3", "w2 w3"], padding=True, return_tensors="pt")
    assert encoded["token_type_ids"].any()
    np.testing.assert_allclose(found[2], extract(model, dict(encoded))[2], **CLOSE)
    assert not np.allclose(found[2], extract(model, ["w1 w2 w3", "w1 w2 w3 w4"], tokenizer=tokenizer)[2])
    with pytest.raises(TypeError, match="texts or pairs of texts, got both"):
        extract(model, ["w1", ("w1", "w2")], tokenizer=tokenizer)


def test_texts_with_the_same_token_ids_run_once_and_rows_say_which():
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    texts = ["w1", "w2", " w1 ", "w3", "w2"]
    calls = []
    handle = model.register_forward_pre_hook(lambda _m, _a, kw: calls.append(len(kw["input_ids"])), with_kwargs=True)
    found = extract(model, texts, tokenizer=tokenizer)
    handle.remove()
    assert sum(calls) == 3
    assert found.rows["encoder"].tolist() == [0, 1, 3]
    assert found.attributes["text_copies_removed"] == 2
    assert len(found[0]) == 3


def test_truncated_texts_are_counted_and_cut_to_the_limit():
    model, tokenizer = tiny_model("bert"), tiny_tokenizer(limit=6)
    long, short = "w1 w2 w3 w4 w5 w6 w7", "w1 w2"
    found = extract(model, [long, short], tokenizer=tokenizer, pooling="tokens", n_tokens=None)
    assert found.attributes["n_truncated"] == 1
    assert found.attributes["max_length"] == 6
    assert np.bincount(found.rows["encoder"]).tolist() == [6, 4]
    shorter = extract(model, [long, short], tokenizer=tokenizer, max_length=4)
    assert shorter.attributes["n_truncated"] == 1
    with pytest.raises(ValueError, match="`max_length` must be"):
        extract(model, ["w1"], tokenizer=tokenizer, max_length=1)


def test_the_draw_of_rows_is_seeded_and_the_same_call_gives_the_same_bits():
    model, batch = tiny_model("bert"), ragged_batch(40)
    one, two = (extract(model, batch, n_samples=15, seed=3) for _ in range(2))
    assert len(one.rows["encoder"]) == 15
    np.testing.assert_array_equal(one.rows["encoder"], two.rows["encoder"])
    for layer in range(3):
        assert one[layer].tobytes() == two[layer].tobytes()
    assert not np.array_equal(one.rows["encoder"], extract(model, batch, n_samples=15, seed=4).rows["encoder"])


def test_the_model_is_left_exactly_as_found():
    model = tiny_model("bert").train()
    model.encoder.layer[0].eval()
    model.embeddings.requires_grad_(False)

    def state():
        return (
            [module.training for module in model.modules()],
            [(p.requires_grad, p.device, p.dtype, p.data_ptr(), p.grad) for p in model.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
            torch.is_grad_enabled(),
            torch.get_rng_state().tolist(),
        )

    before = state()
    extract(model, ragged_batch(5))
    assert state() == before
    handle = model.encoder.layer[1].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        extract(model, ragged_batch(5))
    handle.remove()
    assert state() == before


def test_dropout_is_off_while_a_training_model_is_read():
    model, batch = tiny_model("bert").train(), ragged_batch(9)
    np.testing.assert_array_equal(extract(model, batch)[2], extract(model.eval(), batch)[2])


def test_two_threads_on_one_model_get_the_serial_results_and_foreign_passes_are_ignored():
    model = tiny_model("bert").train()
    batches = [ragged_batch(40, seed=seed) for seed in range(4)]
    serial = [extract(model, batch, batch_size=4)[2] for batch in batches]
    found: dict[int, np.ndarray] = {}
    stop = threading.Event()

    def serve():
        with torch.no_grad():
            while not stop.is_set():
                model(**ragged_batch(3, seed=9))

    threads = [
        threading.Thread(target=lambda i=i: found.update({i: extract(model, batches[i], batch_size=4)[2]}))
        for i in range(4)
    ]
    server = threading.Thread(target=serve)
    server.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    server.join()
    for i in range(4):
        np.testing.assert_array_equal(found[i], serial[i])
    assert all(module.training for module in model.modules())


def test_the_decoder_is_read_from_shifted_labels_or_decoder_texts_and_else_left_out():
    model = tiny_model("t5", hf.AutoModelForSeq2SeqLM.from_config)
    tokenizer = tiny_tokenizer(pairs=False)
    sources, targets = ["w1 w2", "w3"], ["w4 w5 w6", "w7"]
    alone = extract(model, sources, tokenizer=tokenizer)
    assert set(alone.stacks) == {"encoder"}
    by_text = extract(model, sources, tokenizer=tokenizer, decoder_texts=targets, pooling="last")
    assert by_text.stacks == ("encoder",) * 3 + ("decoder",) * 3
    assert by_text.layers == (0, 1, 2, 0, 1, 2)
    encoded = tokenizer(sources, padding=True, return_tensors="pt")
    labels = tokenizer(targets, padding=True, return_tensors="pt")["input_ids"].masked_fill_(
        torch.tensor([[False] * 3, [False, True, True]]), -100
    )
    by_label = extract(model, {**encoded, "labels": labels}, pooling="last")
    with torch.no_grad():
        states = model(
            **{key: encoded[key] for key in ("input_ids", "attention_mask")},
            decoder_input_ids=model._shift_right(labels),
            output_hidden_states=True,
        ).decoder_hidden_states
    for layer in range(2):
        expected = states[layer][torch.arange(2), torch.tensor([2, 0])]
        np.testing.assert_allclose(by_label[3 + layer], expected, **CLOSE)
        np.testing.assert_allclose(by_text[3 + layer], expected, **CLOSE)
    with pytest.raises(ValueError, match="`decoder_texts` must hold one text for each of the 2 rows"):
        extract(model, sources, tokenizer=tokenizer, decoder_texts=["w1"])
    with pytest.raises(ValueError, match="go with an encoder-decoder model"):
        extract(tiny_model("bert"), sources, tokenizer=tokenizer, decoder_texts=targets)


def test_a_vision_model_reads_pixels_and_its_tokens_are_patches():
    model = tiny_model("vit", hf.AutoModelForImageClassification.from_config)
    pixels = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = extract(model, pixels, batch_size=4)
    with torch.no_grad():
        states = model(pixels, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(found[1], states[1].mean(1), **CLOSE)
    tokens = extract(model, {"pixel_values": pixels}, pooling="tokens", n_tokens=None)
    assert tokens[0].shape == (6 * 5, WIDTH)  # four patches and the class token
    np.testing.assert_allclose(tokens[1], states[1].flatten(0, 1), **CLOSE)


def test_any_module_can_be_read_with_named_layers():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 5))
    points = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    found = extract(model, points, layers=["0", "1", "2"])
    assert [cloud.shape[1] for cloud in found.clouds] == [3, 4, 4, 5]
    np.testing.assert_array_equal(found[0], points)
    np.testing.assert_allclose(found[3], model(points).detach(), **CLOSE)
    with pytest.raises(UnknownArchitectureError, match="`layers="):
        extract(model, points)


def test_blocks_that_share_a_module_or_do_not_run_are_errors():
    shared = torch.nn.Linear(3, 3)
    with pytest.raises(UnknownArchitectureError, match="ran twice in one pass"):
        extract(torch.nn.Sequential(shared, shared), torch.rand(3, 3), layers=["0"])

    class Idle(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(UnknownArchitectureError, match="'idle' did not run"):
        extract(Idle(), torch.rand(3, 3), layers=["used", "idle"])


def test_half_precision_and_peft_models_run_as_they_are():
    from peft import LoraConfig, get_peft_model

    model, batch = tiny_model("llama"), ragged_batch(6)
    expected = extract(model, batch)[2]
    half = extract(tiny_model("llama").to(torch.bfloat16), batch)
    assert half[2].dtype == np.float32
    np.testing.assert_allclose(half[2], expected, rtol=0.2, atol=0.02)
    wrapped = get_peft_model(tiny_model("llama"), LoraConfig(r=2, target_modules=["q_proj"]))
    np.testing.assert_allclose(extract(wrapped, batch)[2], expected, **CLOSE)  # B starts at zero


def test_weights_that_are_not_numbers_are_named():
    model = tiny_model("bert")
    with torch.no_grad():
        model.encoder.layer[1].attention.self.key.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'encoder\.layer\.1\.attention\.self\.key\.weight' holds 1 NaN or infinite"):
        extract(model, ragged_batch(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "first"}, "`pooling` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"device": "cpu"}, "`device` goes with a model given by name"),
        ({"n_samples": 0}, "`n_samples` must be"),
        ({"seed": -1, "n_samples": 2}, "`seed` must be"),
        ({"text_column": "a"}, "go with texts"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        extract(tiny_model("bert"), ragged_batch(3), **options)


def test_a_loader_of_several_tensors_of_token_ids_is_refused_and_of_images_with_labels_is_read():
    batch = ragged_batch(6)
    tensors = torch.utils.data.TensorDataset(batch["input_ids"], batch["attention_mask"])
    with pytest.raises(ValueError, match="nobody knows which is the mask"):
        extract(tiny_model("bert"), torch.utils.data.DataLoader(tensors, batch_size=2))
    pixels = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.utils.data.TensorDataset(pixels, torch.arange(6))
    found = extract(tiny_model("vit"), torch.utils.data.DataLoader(images, batch_size=2))
    np.testing.assert_allclose(found[2], extract(tiny_model("vit"), pixels)[2], **CLOSE)


def test_a_tokenized_dataset_keeps_the_decoders_inputs():
    batch = ragged_batch(6)
    rows = [{"input_ids": ids.tolist(), "decoder_input_ids": [0, *ids.tolist()]} for ids in rows_of(batch)]
    assert set(extract(tiny_model("t5"), datasets.Dataset.from_list(rows)).stacks) == {"encoder", "decoder"}


def test_class_labels_are_not_taken_for_a_decoders_text():
    found = extract(tiny_model("t5"), {**ragged_batch(6), "labels": torch.arange(6)})
    assert set(found.stacks) == {"encoder"}


def test_roberta_has_fewer_positions_than_it_embeds():
    tokens = torch.full((1, 512), 5)
    with pytest.raises(ValueError, match="512 tokens, but the model has 511 positions"):
        extract(tiny_model("roberta"), tokens)
    assert extract(tiny_model("roberta"), tokens[:, :511])[0].shape == (1, WIDTH)


def test_truncated_decoder_texts_are_counted_and_change_the_fingerprint():
    model, tokenizer = tiny_model("t5"), tiny_tokenizer(pairs=False, limit=4)
    short, long = (
        extract(model, ["w1", "w2"], tokenizer=tokenizer, decoder_texts=["w3", text]).attributes
        for text in ("w4", "w4 w5 w6 w7 w8")
    )
    assert (short["n_truncated"], long["n_truncated"]) == (0, 1)
    assert short["data_fingerprint"] != long["data_fingerprint"]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "at least one text"),
        (3, TypeError, "`data` must be texts"),
        ({"input_ids": torch.zeros(0, 4).long()}, ValueError, "at least one example"),
        ({"input_ids": torch.full((1, 3), VOCABULARY)}, ValueError, "does not belong to the model"),
        ({"inputs_embeds": torch.zeros(1, 2, WIDTH)}, TypeError, "'inputs_embeds', which cannot be batched"),
        ({"input_ids": torch.ones(1, 600).long()}, ValueError, "600 tokens, but the model has 512 positions"),
        ({"label": torch.zeros(1)}, ValueError, "must hold `input_ids` or `pixel_values`"),
        ({"text": ["a", "b"]}, ValueError, "texts come as a list of strings"),
        (torch.ones(3).long(), ValueError, "at least one axis more"),
        ([{"input_ids": [1, 2]}], ValueError, r"datasets\.Dataset\.from_list"),
        ({"input_ids": [[1, 2], [3]]}, ValueError, "return_tensors='pt'"),
        ({"input_ids": torch.zeros(2, 2).long(), "labels": torch.zeros(3)}, ValueError, "must have one length"),
        (
            {"input_ids": torch.ones(1, 2).long(), "attention_mask": torch.zeros(1, 2)},
            ValueError,
            "has no attended token",
        ),
    ],
)
def test_data_that_cannot_be_read_is_an_error_that_says_why(data, error, message):
    with pytest.raises(error, match=message):
        extract(tiny_model("bert"), data, tokenizer=tiny_tokenizer())


def test_a_model_that_is_none_is_refused():
    with pytest.raises(TypeError, match="`model` must be a loaded model"):
        extract(3, ["a"])


def test_an_empty_text_without_special_tokens_is_named_by_its_row():
    with pytest.raises(ValueError, match="the text in row 1 has no tokens"):
        extract(tiny_model("gpt2"), ["w1", ""], tokenizer=tiny_tokenizer(pairs=False))


def test_a_device_that_is_none_is_named(minilm):
    with pytest.raises(ValueError, match="`device` must be 'auto' or a torch device"):
        extract(minilm, ["a"], device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="torch finds no CUDA device"):
            extract(minilm, ["a"], device="cuda:0")


@pytest.mark.smoke
def test_the_real_encoder_is_read_from_its_folder_and_the_record_says_what_was_done(minilm):
    texts = ["A sentence.", "Another one, longer.", "A sentence."]
    found = extract(minilm, texts)
    assert [cloud.shape for cloud in found.clouds] == [(2, 384)] * 7
    assert found.names[:2] == ("encoder.layer.0 (input)", "encoder.layer.0")
    assert found.attributes["architecture"] == {"model_type": "bert", "blocks": {"encoder": 6}, "width": 384}
    assert found.attributes["text_copies_removed"] == 1
    assert found.attributes["n_available"] == 3
    assert len(found.attributes["data_fingerprint"]) == 64
