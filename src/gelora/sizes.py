"""The sizes of a model that its cost follows from: counted by the configuration, without its weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gelora.blocks import find_blocks, matrix_shape
from gelora.messages import check_choice
from gelora.models import load_pretrained
from gelora.quiet import quiet_libraries

if TYPE_CHECKING:
    from torch import nn

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """The sizes of a model that its cost depends on.

    Parameters
    ----------
    n_parameters : int
        Of all that is loaded.
    n_blocks : int
        Of the stack that runs: of an encoder-decoder the encoder.
    block_weights : int
        Numbers in the matrices of these blocks. Of a mixture of experts those of all experts, though a token
        passes a few: what is made of them is then an upper bound.
    width : int
        Of the hidden states.
    attention_width : int
        Heads times their width: what the attention output is made of.
    dtype : str
        Of the weights.
    """

    n_parameters: int
    n_blocks: int
    block_weights: int
    width: int
    attention_width: int
    dtype: str

    @property
    def weights_bytes(self) -> int:
        """Bytes of the weights."""
        return self.n_parameters * BYTES[self.dtype]

    def forward_flops(self, n_tokens: int, last: int | None = None) -> int:
        r"""Return the floating-point operations of one text of ``n_tokens`` tokens up to block ``last``.

        :math:`T \, (2 P + 4 L T a)`: a multiplication and an addition for each token and each of the P weights in the
        matrices of L blocks, and two products of :math:`T \times T` scores with heads of a numbers in all. Embeddings
        are looked up, and no language-model head runs. Kaplan et al. (arXiv 2001.08361, section 2.1) have 2 in place of
        4: half of the scores of a causal model are masked, which a kernel may leave out.
        """
        depth = self.n_blocks if last is None else last
        weights = self.block_weights * depth // self.n_blocks
        return n_tokens * (2 * weights + 4 * depth * n_tokens * self.attention_width)


def model_size(
    model: Any, dtype: str | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> ModelSize:
    """Return the sizes of a model; by its configuration alone where it is not loaded.

    Parameters
    ----------
    model : PretrainedConfig, torch.nn.Module, str or Path
        A configuration of transformers, a loaded model, or the folder or hub name of one, whose weights are not read.
    dtype : str, optional
        Of the weights: one of ``"float64"``, ``"float32"``, ``"bfloat16"``, ``"float16"``, ``"int8"``. By default that
        of the loaded model or of the configuration, float32 where it says nothing.
    revision, trust_remote_code
        As for `gelora.extract_representations`.

    Raises
    ------
    ValueError, FileNotFoundError
        If the model is not found, or is no text model whose blocks are known, or for another ``dtype``.

    Examples
    --------
    >>> from transformers import LlamaConfig
    >>> llama = LlamaConfig(hidden_size=4096, num_hidden_layers=32, intermediate_size=11008, vocab_size=32000)
    >>> model_size(llama).n_parameters  # without the language-model head, which does not run
    6607343616
    """
    import torch

    loaded = model if isinstance(model, torch.nn.Module) else _without_weights(model, revision, trust_remote_code)
    parameter = next(loaded.parameters(), None)
    found = str(getattr(parameter, "dtype", "torch.float32")).removeprefix("torch.")
    chosen = found if dtype is None else dtype
    check_choice("dtype", chosen, BYTES)
    blocks = find_blocks(loaded)
    blocks = [block for block in blocks if block.stack == blocks[0].stack]
    modules = dict(loaded.named_modules())
    width = int(getattr(getattr(loaded, "config", None), "hidden_size", 0) or 0)
    return ModelSize(
        n_parameters=sum(parameter.numel() for parameter in loaded.parameters()),
        n_blocks=len(blocks),
        block_weights=sum(_matrix_weights(modules[block.name]) for block in blocks),
        width=width or matrix_shape(modules[blocks[0].roles["output"]])[1],
        attention_width=matrix_shape(modules[blocks[0].roles["output"]])[0],
        dtype=chosen,
    )


def decoder_parameters(
    n_blocks: int, width: int, intermediate: int, vocabulary: int, key_value_width: int, *, head: bool = True
) -> int:
    """Return the parameters of a decoder like LLaMA: gated feed-forward layers, no biases, an untied head.

    V d (2 with the head, else 1) + L (2 d² + 2 d d_kv + 3 d m + 2 d) + d.

    Parameters
    ----------
    n_blocks, width, intermediate, vocabulary : int
        L, d, m and V.
    key_value_width : int
        Heads of keys and values times their width, d_kv; the width itself without grouped queries.
    head : bool
        Count the language-model head, which hidden states do not need.

    Examples
    --------
    >>> decoder_parameters(32, 4096, 11008, 32000, 4096)
    6738415616
    """
    block = 2 * width * width + 2 * width * key_value_width + 3 * width * intermediate + 2 * width
    return (2 if head else 1) * vocabulary * width + n_blocks * block + width


def _without_weights(model: Any, revision: str | None, trust_remote_code: bool) -> "nn.Module":
    """Build a model on the meta device, where its tensors have shapes and no numbers."""
    import torch
    import transformers

    config = model
    if isinstance(model, str | Path):
        config = load_pretrained(model, "AutoConfig", revision=revision, trust_remote_code=trust_remote_code)
    if not isinstance(config, transformers.PretrainedConfig):
        raise TypeError(
            "`model` must be sizes, a configuration of transformers, a loaded model, a folder or a hub name, got "
            f"{type(model).__name__}"
        )
    with quiet_libraries(), torch.device("meta"):
        untyped: Any = transformers.AutoModel
        built: nn.Module = untyped.from_config(config, trust_remote_code=trust_remote_code)
    return built


def _matrix_weights(block: "nn.Module") -> int:
    """Return the numbers in what a block multiplies by: its parameters but biases, norms and look-ups."""
    from torch import nn

    return sum(
        parameter.numel()
        for module in block.modules()
        if not isinstance(module, nn.Embedding)
        for parameter in module.parameters(recurse=False)
        if parameter.ndim >= 2
    )
