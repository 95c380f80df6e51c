"""Labelled batches of a task are its rows, and the model has the head that they need."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gelora.finetuning.labelled import labelled_batches
from gelora.fisher import fisher_spectra


def test_every_row_comes_once_with_its_label_and_its_padding(folder_of: Callable[[str], Path], sentiment: Any) -> None:
    model, batches = labelled_batches(folder_of("bert"), sentiment, n_examples=64, batch_size=10)
    assert [len(batch["labels"]) for batch in batches] == [10] * 6 + [4]
    labels = torch.cat([batch["labels"] for batch in batches]).tolist()
    assert labels == [row["label"] for row in sentiment.train]
    for batch in batches:
        lengths = batch["attention_mask"].sum(1)
        assert int(lengths.max()) == batch["input_ids"].shape[1]
        assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    assert model.config.num_labels == 2
    assert not model.training
    assert torch.isfinite(model(**batches[0]).loss)


def test_the_draw_and_the_head_go_by_the_seed_alone(folder_of: Callable[[str], Path], sentiment: Any) -> None:
    state = torch.random.get_rng_state()
    options: dict[str, Any] = {"n_examples": 12, "batch_size": 12}
    one, two = (labelled_batches(folder_of("bert"), sentiment, seed=4, **options) for _ in range(2))
    other = labelled_batches(folder_of("bert"), sentiment, seed=5, **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one[0].classifier.weight, two[0].classifier.weight)
    assert torch.equal(one[1][0]["input_ids"], two[1][0]["input_ids"])
    assert not torch.equal(one[0].classifier.weight, other[0].classifier.weight)


def test_a_decoder_gets_a_padding_token_and_a_loaded_model_stays_as_it_is(
    tiny_model: Callable[[str], Any], tiny_tokenizer: Callable[..., Any], sentiment: Any
) -> None:
    bare = tiny_model("gpt2")
    model, batches = labelled_batches(
        bare, sentiment, tokenizer=tiny_tokenizer(pairs=False, pad=False), n_examples=5, batch_size=5
    )
    assert model.config.pad_token_id is not None
    assert bare.config.pad_token_id is None
    assert model.transformer is not bare
    assert torch.isfinite(model(**batches[0]).loss)


def test_a_regression_has_numbers_for_labels(folder_of: Callable[[str], Path]) -> None:
    from gelora.finetuning.tasks import Task

    rows = [{"sentence": "good film", "label": 0.5 * i} for i in range(6)]
    task = Task(name="grades", text=("sentence",), problem="regression", train=rows, validation=rows)
    model, batches = labelled_batches(folder_of("bert"), task, batch_size=4)
    assert model.config.num_labels == 1
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == [0.5 * i for i in range(6)]
    assert torch.isfinite(model(**batches[0]).loss)


def test_texts_are_cut_to_the_asked_length(folder_of: Callable[[str], Path], sentiment: Any) -> None:
    _, batches = labelled_batches(folder_of("bert"), sentiment, n_examples=20, max_length=5)
    assert max(batch["input_ids"].shape[1] for batch in batches) == 5


def test_the_spectra_of_real_sentences_do_not_depend_on_batches_or_padding(minilm: Path, data_dir: Path) -> None:
    spectra = []
    for batch_size in (1, 6):
        model, batches = labelled_batches(minilm, "sst2", data_dir / "sst2", n_examples=12, batch_size=batch_size)
        names = [f"bert.encoder.layer.{i}.attention.self.query" for i in (0, 5)]
        spectra.append(fisher_spectra(model.double(), batches, names))
    alone, padded = spectra
    for name, one in alone.items():
        np.testing.assert_allclose(padded[name].eigenvalues, one.eigenvalues, rtol=1e-8)
        assert one.rank == one.n_examples == 12
        assert 1 < one.effective_rank < 12


def test_a_model_that_is_adapted_already_is_refused(tiny_model: Callable[[str], Any], sentiment: Any) -> None:
    import peft

    adapted = peft.get_peft_model(tiny_model("bert"), peft.LoraConfig(r=1, target_modules=["query"]))
    with pytest.raises(TypeError, match="got PeftModel; merge an adapted one first"):
        labelled_batches(adapted, sentiment)


def test_a_wrong_call_is_refused(folder_of: Callable[[str], Path], sentiment: Any) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1, got 0"):
        labelled_batches(folder_of("bert"), sentiment, batch_size=0)
    with pytest.raises(ValueError, match="`n_examples` must be an integer of at least 1, got 0"):
        labelled_batches(folder_of("bert"), sentiment, n_examples=0)
    with pytest.raises(ValueError, match="`max_length` must be an integer of at least 1, got 1.5"):
        labelled_batches(folder_of("bert"), sentiment, max_length=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the train split must have at least two classes"):
        labelled_batches(folder_of("bert"), sentiment, n_examples=1)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        labelled_batches(folder_of("bert"), "sst2", "nowhere")
    with pytest.raises(ValueError, match="no column 'text'"):
        labelled_batches(folder_of("bert"), replace(sentiment, text=("text",)))
