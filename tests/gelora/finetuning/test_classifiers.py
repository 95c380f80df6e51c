"""Models become classifiers: which modules are new, which tokenizers fit, what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gelora.finetuning.adaptation import Adapted, Setting
from gelora.finetuning.classifiers import load_classifier
from gelora.finetuning.encoded import encode_split, length_limit
from gelora.finetuning.lora import LoRA, check_ranks
from gelora.finetuning.run import bind_plan
from gelora.finetuning.tasks import TaskData, load_task

Folder = Callable[[str], Path]


def adapt_lora(classifier: Any, plan: Any) -> Adapted:
    bound = bind_plan(plan, classifier)
    return LoRA()(Setting(classifier=classifier, plan=bound, dropout=0.0, seed=0, batches=lambda: iter(())))


@pytest.fixture
def data(sentiment: Any) -> TaskData:
    return load_task(sentiment)


def test_modules_that_no_stored_weights_fill_are_the_head(folder_of: Folder, data: TaskData, architecture: str) -> None:
    expected = {
        "bert": ("classifier", "bert.pooler.dense"),
        "roberta": ("classifier",),
        "deberta": ("pooler", "classifier"),
        "gpt2": ("score",),
        "llama": ("score",),
    }
    found = load_classifier(folder_of(architecture), data)
    assert found.head == expected[architecture]
    assert found.model.config.id2label == {0: "bad", 1: "good"}
    assert found.model.config.pad_token_id == found.tokenizer.pad_token_id


def test_a_stored_pooler_is_neither_new_for_a_folder_nor_for_the_model_loaded_from_it(
    tiny_tokenizer: Any, data: TaskData, tmp_path: Path
) -> None:
    from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertModel

    config = BertConfig(vocab_size=18, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with_head = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=2)
    bare = AutoModel.from_pretrained(tmp_path)
    for model in (tmp_path, bare, with_head):
        assert load_classifier(model, data).head == ("classifier",)
    with torch.no_grad():
        bare.pooler.dense.weight += 1.0  # no longer what is stored
    assert load_classifier(bare, data).head == ("classifier", "bert.pooler.dense")


def test_a_model_from_nowhere_trains_and_saves_its_pooler(tiny_tokenizer: Any, data: TaskData) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=18, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertModel(config)
    found = load_classifier(model, data, tokenizer=tiny_tokenizer())
    assert found.head == ("classifier", "bert.pooler.dense")
    assert torch.equal(found.model.bert.pooler.dense.weight, model.pooler.dense.weight)
    assert found.model.bert.pooler.dense.weight is not model.pooler.dense.weight


def test_a_language_model_gives_its_transformer(tiny_model: Any, tiny_tokenizer: Any, data: TaskData) -> None:
    from transformers import GPT2LMHeadModel

    bare = tiny_model("gpt2")
    model = GPT2LMHeadModel(bare.config)
    found = load_classifier(model, data, tokenizer=tiny_tokenizer())
    assert type(found.model).__name__ == "GPT2ForSequenceClassification"
    assert torch.equal(found.model.transformer.h[0].attn.c_attn.weight, model.transformer.h[0].attn.c_attn.weight)


def test_a_tokenizer_without_padding_pads_with_its_end_token_and_stays_as_it_was(
    tiny_model: Any, tiny_tokenizer: Any, data: TaskData
) -> None:
    tokenizer = tiny_tokenizer(pairs=False, pad=False)
    found = load_classifier(tiny_model("gpt2"), data, tokenizer=tokenizer)
    assert found.tokenizer.pad_token == "[SEP]"
    assert found.model.config.pad_token_id == 3
    assert tokenizer.pad_token is None


def test_a_tokenizer_that_cannot_pad_is_refused(tiny_model: Any, tiny_tokenizer: Any, data: TaskData) -> None:
    tokenizer = tiny_tokenizer(pairs=False, pad=False)
    tokenizer.eos_token = tokenizer.unk_token = None
    with pytest.raises(ValueError, match=r"`tokenizer` must have a padding token: set its `pad_token`"):
        load_classifier(tiny_model("gpt2"), data, tokenizer=tokenizer)


def test_a_tokenizer_of_another_model_is_refused(tiny_model: Any, tiny_tokenizer: Any, data: TaskData) -> None:
    large = tiny_tokenizer()
    large.add_tokens([f"word{i}" for i in range(9)])
    with pytest.raises(ValueError, match=r"`tokenizer` does not belong to the model: it has 27 tokens, .* embeds 18"):
        load_classifier(tiny_model("bert"), data, tokenizer=large)
    other = tiny_tokenizer()
    other.pad_token = "[SEP]"
    with pytest.raises(ValueError, match=r"`tokenizer` pads with the token id 3, but the model counts positions"):
        load_classifier(tiny_model("roberta"), data, tokenizer=other)


def test_a_model_without_any_tokenizer_is_refused(tiny_model: Any, data: TaskData) -> None:
    with pytest.raises(ValueError, match="`tokenizer` must be given to read texts"):
        load_classifier(tiny_model("bert"), data)


def test_a_head_of_another_size_is_refused(folder_of: Folder, data: TaskData, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder_of("roberta"), num_labels=3)
    with pytest.raises(ValueError, match=r"its head has 3 outputs, but the task 'sentiment' needs 2: load it with"):
        load_classifier(model, data)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"stored head 'classifier.out_proj.bias' .* does not fit the 2 outputs"):
        load_classifier(tmp_path, data)


def test_half_precision_weights_need_mixed_precision(tiny_model: Any, tiny_tokenizer: Any, data: TaskData) -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    with pytest.raises(
        ValueError, match=r"`model` has weights of type torch.bfloat16: load it with dtype=torch.float32"
    ):
        load_classifier(model, data, tokenizer=tiny_tokenizer())
    found = load_classifier(model, data, tokenizer=tiny_tokenizer(), precision="bfloat16")
    assert found.model.dtype == torch.bfloat16


def test_an_adapted_model_is_refused(folder_of: Folder, plan_for: Callable[..., Any], data: TaskData) -> None:
    adapted = adapt_lora(load_classifier(folder_of("bert"), data), plan_for("bert"))
    with pytest.raises(TypeError, match=r"`model` must be a transformers model, .* merge an adapted one first"):
        load_classifier(adapted.model, data)


def test_a_model_that_cannot_classify_texts_is_refused(data: TaskData) -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16
    )
    with pytest.raises(ValueError, match=r"`model`: transformers has no sequence classifier for ViTModel"):
        load_classifier(ViTModel(config), data)


def test_a_folder_without_weights_of_the_transformer_is_refused(
    folder_of: Folder, data: TaskData, tmp_path: Path
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder_of("bert"), tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if "layer.1.attention.self.query" not in name}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"stored weights of .*cut' lack 'bert.encoder.layer.1.attention.self.query'"):
        load_classifier(tmp_path / "cut", data)


def test_ranks_that_peft_read_otherwise_are_noticed(
    folder_of: Folder, plan_for: Callable[..., Any], data: TaskData
) -> None:
    classifier = load_classifier(folder_of("bert"), data)
    plan = bind_plan(plan_for("bert"), classifier)
    adapted = adapt_lora(classifier, plan)
    check_ranks(adapted.model, plan, 2.0)
    first = plan.modules[0]
    wrong = replace(plan, modules=(replace(first, rank=first.rank + 1), *plan.modules[1:]))
    with pytest.raises(
        RuntimeError, match=rf"the module '{first.name}' should have \(rank, scale\) \(3, .*has \(2, 2.0\)"
    ):
        check_ranks(adapted.model, wrong, 2.0)


def test_trained_parameters_are_float32_beside_half_precision_weights(
    tiny_model: Any, tiny_tokenizer: Any, plan_for: Callable[..., Any], data: TaskData
) -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    classifier = load_classifier(model, data, tokenizer=tiny_tokenizer(), precision="bfloat16")
    plan = replace(plan_for("llama"), weights_fingerprint="")
    trained = [p for p in adapt_lora(classifier, plan).model.parameters() if p.requires_grad]
    assert trained
    assert all(parameter.dtype == torch.float32 for parameter in trained)


def test_long_texts_are_cut_and_counted(tiny_tokenizer: Any, data: TaskData) -> None:
    tokenizer = tiny_tokenizer()
    lengths = [len(tokenizer(text)["input_ids"]) for text in data.train["sentence"]]
    rows, n_cut = encode_split(data.train, data.task, tokenizer, 6)
    assert max(len(row["input_ids"]) for row in rows) == 6
    assert n_cut == sum(length > 6 for length in lengths) > 0
    assert [row["labels"] for row in rows] == list(data.train["label"])


def test_the_length_is_limited_by_the_positions_of_the_model(tiny_model: Any, tiny_tokenizer: Any) -> None:
    assert length_limit(tiny_model("bert"), tiny_tokenizer(), 128) == 40
    assert length_limit(tiny_model("bert"), tiny_tokenizer(), 16) == 16
    assert length_limit(tiny_model("roberta"), tiny_tokenizer(), 128) == 39  # positions count from the padding id 0 on
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 12
    assert length_limit(tiny_model("gpt2"), tokenizer, 128) == 12
