"""Blocks and their matrices are found in every architecture, bare, under a head and wrapped."""

import pytest
import torch
import transformers as hf

from gelora.blocks import UnknownArchitectureError, architecture_of, find_blocks, matrix_shape, weights_fingerprint
from gelora.models import load_pretrained, load_tokenizer
from tiny_models import ARCHITECTURES, ENCODER_DECODERS, FUSED, WIDTH, tiny_model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_block_of_an_architecture_is_found_with_its_attention_matrices(name):
    model = tiny_model(name)
    blocks = find_blocks(model)
    stacks = ["encoder", "encoder", "decoder", "decoder"] if name in ENCODER_DECODERS else [blocks[0].stack] * 2
    assert [block.stack for block in blocks] == stacks
    assert [block.index for block in blocks] == [1, 2] * (len(stacks) // 2)
    modules = dict(model.named_modules())
    for block in blocks:
        roles = {"query_key_value", "output"} if name in FUSED else {"query", "key", "value", "output"}
        assert set(block.roles) == roles
        for role, path in block.roles.items():
            fan_in, fan_out = matrix_shape(modules[path])
            assert (fan_in, fan_out) == tuple(reversed(_weight_shape(modules[path])))
            assert role != "output" or fan_out == WIDTH


def _weight_shape(module):
    weight = module.weight
    return tuple(weight.shape) if isinstance(module, torch.nn.Linear) else tuple(weight.T.shape)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in (*ENCODER_DECODERS, "vit")])
def test_a_head_changes_neither_the_architecture_nor_the_fingerprint_of_the_weights(name):
    bare = tiny_model(name)
    headed = tiny_model(name, hf.AutoModelForSequenceClassification.from_config)
    headed.base_model.load_state_dict(bare.state_dict(), strict=False)
    found, under = find_blocks(bare), find_blocks(headed)
    assert architecture_of(bare, found) == architecture_of(headed, under)
    assert weights_fingerprint(bare, found) == weights_fingerprint(headed, under)
    assert [block.roles.keys() for block in found] == [block.roles.keys() for block in under]


def test_the_fingerprint_tells_other_weights_and_survives_half_precision():
    model = tiny_model("bert")
    blocks = find_blocks(model)
    own = weights_fingerprint(model, blocks)
    other = tiny_model("bert", seed=1)
    assert weights_fingerprint(other, find_blocks(other)) != own
    assert weights_fingerprint(model.to(torch.bfloat16), blocks) == own
    with torch.device("meta"):
        empty = hf.AutoModel.from_config(model.config)
    assert weights_fingerprint(empty, find_blocks(empty)) is None


def test_an_adapter_of_peft_changes_neither_blocks_nor_fingerprint():
    from peft import LoraConfig, get_peft_model

    model = tiny_model("bert")
    own = weights_fingerprint(model, find_blocks(model))
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["query"]))
    blocks = find_blocks(wrapped)
    assert len(blocks) == 2
    assert weights_fingerprint(wrapped, blocks) == own
    assert matrix_shape(dict(wrapped.named_modules())[blocks[0].roles["query"]]) == (WIDTH, WIDTH)
    with torch.no_grad():  # a trained adapter makes another model
        dict(wrapped.named_modules())[blocks[0].roles["query"]].lora_B["default"].weight += 0.1
    assert weights_fingerprint(wrapped, blocks) != own


def test_an_unknown_architecture_is_an_error_that_names_the_layers_argument():
    with pytest.raises(UnknownArchitectureError, match=r"no transformer blocks .* `layers="):
        find_blocks(torch.nn.Sequential(torch.nn.Linear(2, 2)))


def test_named_layers_become_the_blocks_in_the_order_given():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert [block.name for block in find_blocks(model, ["1", "0"])] == ["1", "0"]
    with pytest.raises(UnknownArchitectureError, match=r"`layers` must be .* no module '7'"):
        find_blocks(model, ["7"])
    with pytest.raises(UnknownArchitectureError, match="non-empty list"):
        find_blocks(model, [])


def test_two_lists_of_blocks_in_one_stack_are_an_error_that_names_the_layers_argument():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = tiny_model("bert"), tiny_model("bert")

    with pytest.raises(UnknownArchitectureError, match="two lists of blocks"):
        find_blocks(Two())


def test_a_missing_folder_is_an_error_without_asking_the_hub(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_pretrained(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_pretrained("./absent")
    with pytest.raises((FileNotFoundError, ValueError), match="could not be loaded by AutoModel"):
        load_pretrained(tmp_path)  # a folder, but of no model
    tiny_model("bert").save_pretrained(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="could not be loaded by AutoModel"):
        load_pretrained(tmp_path / "cut")
    with pytest.raises(FileNotFoundError, match="no-such-model-of-anyone"):
        load_pretrained("no-such-model-of-anyone", local_files_only=True)


def test_a_model_without_a_tokenizer_of_its_own_asks_for_the_argument():
    with pytest.raises(ValueError, match="`tokenizer` must be given"):
        load_tokenizer(tiny_model("bert"))


@pytest.mark.smoke
def test_the_real_encoder_and_its_tokenizer_load_from_their_folder(minilm):
    model = load_pretrained(minilm)
    assert str(architecture_of(model, find_blocks(model))) == "bert with 6 encoder blocks of width 384"
    assert load_tokenizer(model)("a text")["input_ids"][0] == load_tokenizer(model, str(minilm)).cls_token_id


def test_a_module_that_is_no_linear_layer_has_no_shape():
    with pytest.raises(UnknownArchitectureError, match="LayerNorm is not a linear layer"):
        matrix_shape(torch.nn.LayerNorm(3))
