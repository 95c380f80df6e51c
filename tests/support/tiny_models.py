"""Small random-weight models of each architecture, built from their configurations."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

WIDTH, HEADS, VOCABULARY = 32, 4, 64
_COMMON = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
}
_CAUSAL = {**_COMMON, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}


def _config(name: str) -> Any:
    return {
        "bert": lambda: hf.BertConfig(**_COMMON),
        "roberta": lambda: hf.RobertaConfig(**_COMMON, bos_token_id=1, eos_token_id=2),
        "deberta-v2": lambda: hf.DebertaV2Config(**_COMMON),
        "gpt2": lambda: hf.GPT2Config(
            n_embd=WIDTH, n_layer=2, n_head=HEADS, vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2
        ),
        "llama": lambda: hf.LlamaConfig(**_CAUSAL),
        "qwen2": lambda: hf.Qwen2Config(**_CAUSAL),
        "mistral": lambda: hf.MistralConfig(**_CAUSAL),
        "t5": lambda: hf.T5Config(
            d_model=WIDTH,
            d_kv=8,
            num_layers=2,
            num_heads=HEADS,
            d_ff=48,
            vocab_size=VOCABULARY,
            pad_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=0,
        ),
        "electra": lambda: hf.ElectraConfig(**_COMMON, embedding_size=WIDTH),
        "mpnet": lambda: hf.MPNetConfig(**_COMMON),
        "distilbert": lambda: hf.DistilBertConfig(
            dim=WIDTH, n_layers=2, n_heads=HEADS, hidden_dim=48, vocab_size=VOCABULARY, pad_token_id=0
        ),
        "modernbert": lambda: hf.ModernBertConfig(
            **_COMMON, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
        ),
        "qwen3": lambda: hf.Qwen3Config(**_CAUSAL, head_dim=8),
        "gemma": lambda: hf.GemmaConfig(**_CAUSAL, head_dim=8),
        "phi3": lambda: hf.Phi3Config(**_CAUSAL),
        "gpt-neox": lambda: hf.GPTNeoXConfig(**_COMMON, bos_token_id=1, eos_token_id=2),
        "bart": lambda: hf.BartConfig(
            d_model=WIDTH,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            vocab_size=VOCABULARY,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            forced_eos_token_id=2,
        ),
        "vit": lambda: hf.ViTConfig(
            **{key: value for key, value in _COMMON.items() if key not in ("vocab_size", "pad_token_id")},
            image_size=8,
            patch_size=4,
            num_channels=1,
        ),
    }[name]()


TEXT_ARCHITECTURES = ("bert", "roberta", "deberta-v2", "gpt2", "llama", "qwen2", "mistral", "t5")
ENCODER_DECODERS = ("t5", "bart")
MORE_TEXT_ARCHITECTURES = (
    "electra",
    "mpnet",
    "distilbert",
    "modernbert",
    "qwen3",
    "gemma",
    "phi3",
    "gpt-neox",
    "bart",
)
ARCHITECTURES = (*TEXT_ARCHITECTURES, *MORE_TEXT_ARCHITECTURES, "vit")
FUSED = ("gpt2", "phi3", "gpt-neox", "modernbert")


def tiny_model(name: str, auto: Callable[[Any], torch.nn.Module] | None = None, seed: int = 0) -> Any:
    """Build the architecture with seeded random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return (auto or hf.AutoModel.from_config)(_config(name)).eval()


def ragged_batch(n: int = 24, longest: int = 9, seed: int = 0, side: str = "right") -> dict[str, torch.Tensor]:
    """Random token ids of different lengths, padded on one side, ids from 3 up."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(n, longest, dtype=torch.long)
    mask = torch.zeros(n, longest, dtype=torch.long)
    for row in range(n):
        length = int(torch.randint(2, longest + 1, (1,), generator=generator))
        place = slice(0, length) if side == "right" else slice(longest - length, longest)
        ids[row, place] = torch.randint(3, VOCABULARY, (length,), generator=generator)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


WORDS = tuple(f"w{i}" for i in range(VOCABULARY - 5))


def tiny_tokenizer(*, pairs: bool = True, limit: int = 16) -> Any:
    """A tokenizer of whole words ``w0`` … with special tokens as BERT's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if pairs:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        model_max_length=limit,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def tiny_texts(n: int, seed: int = 0, longest: int = 8) -> list[str]:
    """Random sentences of known words, of different lengths."""
    import numpy as np

    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, longest + 1))) for _ in range(n)]
