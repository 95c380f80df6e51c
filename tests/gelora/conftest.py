"""Tiny models with random weights, a tokenizer of whole words and a task that can be learnt."""

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = ["a", "the", "film", "play", "song", "was", "is", "very", "good", "bad", "long", "short", "old", "new"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
ARCHITECTURES = ("bert", "roberta", "deberta", "gpt2", "llama")
Rows = list[dict[str, Any]]


def make_tokenizer(pairs: bool = True, pad: bool = True) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if pairs:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokens = {"unk_token": "[UNK]", "eos_token": "[SEP]"}
    tokens |= {"cls_token": "[CLS]", "sep_token": "[SEP]"} if pairs else {}
    tokens |= {"pad_token": "[PAD]"} if pad else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens)


def make_model(architecture: str) -> Any:
    """Return a bare model with seeded random weights."""
    import torch
    import transformers

    n = len(SPECIAL) + len(WORDS)
    common = {"vocab_size": n, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    common |= {"intermediate_size": 48, "max_position_embeddings": 40}
    dropped = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    match architecture:
        case "bert":  # without the pooler, as many checkpoints are stored
            config = transformers.BertConfig(**common, **dropped, initializer_range=0.2)
            return transformers.BertModel(config, add_pooling_layer=False)
        case "roberta":
            config = transformers.RobertaConfig(**common, **dropped, pad_token_id=0, initializer_range=0.2)
            return transformers.RobertaModel(config, add_pooling_layer=False)
        case "deberta":
            config = transformers.DebertaV2Config(
                **common, **dropped, relative_attention=True, pos_att_type=["p2c", "c2p"], initializer_range=0.2
            )
            return transformers.DebertaV2Model(config)
        case "gpt2":
            config = transformers.GPT2Config(
                vocab_size=n,
                n_positions=40,
                n_embd=32,
                n_layer=2,
                n_head=4,
                initializer_range=0.2,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                bos_token_id=2,
                eos_token_id=3,
            )
            return transformers.GPT2Model(config)
        case _:
            config = transformers.LlamaConfig(
                **common, num_key_value_heads=4, initializer_range=0.2, bos_token_id=2, eos_token_id=3
            )
            return transformers.LlamaModel(config)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of a tiny model of an architecture, saved with its tokenizer."""
    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = tmp_path_factory.mktemp(architecture)
            make_model(architecture).save_pretrained(made[architecture])
            encoder = architecture not in ("gpt2", "llama")
            make_tokenizer(pairs=encoder, pad=encoder).save_pretrained(made[architecture])
        return made[architecture]

    return folder


@pytest.fixture(scope="session")
def plan_for(folder_of: Callable[[str], Path]) -> Callable[..., Any]:
    """Give a plan with another rank for each block."""
    from dataclasses import replace

    from gelora.ranks import plan_ranks

    def plan(architecture: str, ranks: tuple[int, int] = (2, 3)) -> Any:
        uniform = plan_ranks(None, folder_of(architecture), "uniform", rank=1)
        modules = (replace(m, rank=ranks[m.block - 1], alpha=2.0 * ranks[m.block - 1]) for m in uniform.modules)
        return replace(uniform, modules=tuple(modules))

    return plan


def make_rows(n: int, seed: int) -> Rows:
    """Return sentences whose label is whether the word is good or bad."""
    draw = random.Random(seed)
    rows = []
    for label in itertools.islice(itertools.cycle((0, 1)), n):
        words = [draw.choice(WORDS[:8]) for _ in range(draw.randint(2, 6))]
        words.insert(draw.randint(0, len(words)), "good" if label else "bad")
        rows.append({"sentence": " ".join(words), "label": label})
    return rows


@pytest.fixture(scope="session")
def sentiment() -> Any:
    """Give a task of single texts that a tiny model learns in a few steps."""
    from gelora.finetuning.tasks import Task

    return Task(
        name="sentiment",
        text=("sentence",),
        label_names=("bad", "good"),
        metrics=("accuracy", "f1"),
        train=make_rows(64, 1),
        validation=make_rows(24, 2),
    )


@pytest.fixture(scope="session")
def tiny_model() -> Callable[[str], Any]:
    """Give a bare model of an architecture, loaded from nowhere."""
    return make_model


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[..., Any]:
    """Give a tokenizer of whole words."""
    return make_tokenizer


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """Give each architecture in turn."""
    return str(request.param)
