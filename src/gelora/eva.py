"""EVA: ranks by how much of the variance of each matrix's inputs they explain, as peft computes it."""

import contextlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gelora.blocks import check_finite_parameters
from gelora.messages import check_integer
from gelora.quiet import quiet_libraries
from gelora.targets import Matrix

if TYPE_CHECKING:
    from torch import Tensor, nn

MatrixKey = tuple[str, int, str]
Batch = dict[str, dict[str, Any]]
_LABELS = ("labels", "label")
_IGNORED_LABEL = -100


def eva_ranks(
    model: "nn.Module",
    batches: Iterable[Mapping[str, Any]],
    matrices: Sequence[Matrix],
    *,
    budget: int | None = None,
    rank: int | None = None,
    minimum: int = 1,
    rho: float = 2.0,
    tau: float = 0.99,
    max_steps: int = 1000,
) -> dict[MatrixKey, int]:
    r"""Return the ranks that EVA gives ``matrices`` on the data (arXiv 2410.07170).

    The inputs of each matrix over the tokens of the batches are decomposed by peft's incremental SVD until the
    directions stand still. The ranks of all matrices together go to the components that explain the largest share
    of their own inputs' variance.

    With ``rank`` this is peft's own result, ``peft.get_eva_state_dict`` with ``r=rank``: as many ranks in all as
    ``rank`` times the number of matrices, at most ``rho * rank`` each, some perhaps 0, which leaves a matrix
    unadapted. With ``budget`` components are bought by descending share at in + out parameters each, as long as one
    fits. Every matrix gets ``minimum`` first, which EVA alone does not promise. Where all matrices cost the same and
    the budget is that of ``rank`` throughout, both agree at ``minimum=0``, but for which of the matrices with one
    input gets the odd rank, which peft leaves to its sorting and a budget gives to the first.

    Parameters
    ----------
    model : torch.nn.Module
        The model to adapt, not adapted yet. It is left as found.
    batches : iterable of mappings
        Inputs of the model as keyword arguments, as a DataLoader gives them; all are read into memory, in one
        order. Padding after ``attention_mask`` and ``decoder_attention_mask`` is left out, and so are tokens labelled
        −100 where ``labels`` has the shape of ``input_ids``, as peft has it; other labels are not read.
    matrices : sequence of Matrix
        From `gelora.targets.find_matrices` on this model.
    budget : int, optional
        Trainable adapter parameters, not exceeded.
    rank : int, optional
        Mean rank of a matrix, instead of a budget.
    minimum : int
        Smallest rank within a budget; peft's own result knows none.
    rho : float
        How far a rank may exceed the mean, at least 1.
    tau : float
        Cosine similarity from which a direction counts as standing still between two batches, from 0 to 1.
    max_steps : int
        Forward passes after which to give up; the batches are read again and again.

    Returns
    -------
    dict of (stack, block, role) to int
        In the order of ``matrices``. No rank exceeds the number of inputs.

    Raises
    ------
    ValueError
        If an option is out of range, a batch has too few tokens for the components, a matrix is not reached or
        not of this model, inputs are not finite, or the directions do not settle.
    TypeError
        If a batch is no mapping.

    Notes
    -----
    EVA reads what goes into a matrix and nothing else. Matrices that share their input, such as query, key and value
    of a block, have equal spectra and so nearly equal ranks. A rank says how much of the input's variance the
    directions keep, not how much the task needs the matrix to move.

    Examples
    --------
    >>> import torch
    >>> from gelora.blocks import find_blocks
    >>> from gelora.targets import find_matrices
    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(
    ...     num_hidden_layers=2, hidden_size=16, num_attention_heads=2, intermediate_size=16, vocab_size=60
    ... ))
    >>> batch = {"input_ids": torch.arange(60).reshape(6, 10)}
    >>> ranks = eva_ranks(model, [batch], find_matrices(model, find_blocks(model)), rank=2)
    >>> sum(ranks.values())
    16
    """
    _check_options(budget, rank, minimum, rho, tau, max_steps)
    _check_model(model, matrices)
    held = _read_batches(batches, model)
    if rank is not None:
        means = dict.fromkeys((matrix.name for matrix in matrices), rank)
    else:
        means = _means_for(matrices, int(budget or 0), minimum, rho)
    _check_inputs(matrices, means, rho)
    chosen, shares = _run_peft(model, held, matrices, means, rho, tau, max_steps)
    if rank is not None:
        return {matrix.key: chosen[matrix.name] for matrix in matrices}
    # peft's order: of equal shares it takes those of the matrices first that the others share their input with.
    order = {name: position for position, name in enumerate(chosen)}
    ranks = _buy(sorted(matrices, key=lambda matrix: order[matrix.name]), shares, int(budget or 0), minimum)
    return {matrix.key: ranks[matrix.name] for matrix in matrices}


def _check_options(budget: int | None, rank: int | None, minimum: int, rho: float, tau: float, max_steps: int) -> None:
    if (rank is None) == (budget is None):
        raise ValueError("EVA needs either `rank` or `budget`, got " + ("neither" if rank is None else "both"))
    for name, value in (("rank", rank), ("budget", budget)):
        if value is not None:
            check_integer(name, value, 1)
    check_integer("minimum", minimum, 0)
    check_integer("max_steps", max_steps, 1)
    for name, number, low, high in (("rho", rho, 1.0, math.inf), ("tau", tau, 0.0, 1.0)):
        if isinstance(number, bool) or not isinstance(number, int | float) or not low <= number <= high:
            raise ValueError(f"`{name}` must be a number from {low:g} to {high:g}, got {number!r}")


def _check_model(model: "nn.Module", matrices: Sequence[Matrix]) -> None:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    if hasattr(model, "peft_config"):
        raise ValueError(
            "`model` carries adapters of peft, but EVA reads the model before it is adapted: pass the base model"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("`model` must hold its weights, but is on the meta device: load it")
    check_finite_parameters(model)
    names = [matrix.name for matrix in matrices]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"`matrices` must hold different matrices, at least one, got {len(names)}: see find_matrices")
    modules = dict(model.named_modules())
    for name in names:
        if not isinstance(modules.get(name), nn.Linear | Conv1D):
            found = type(modules[name]).__name__ if name in modules else "nothing"
            raise ValueError(
                f"`matrices`: {name!r} must be a Linear or Conv1D layer of `model`, which has {found} there: find the "
                "matrices of this model by gelora.targets.find_matrices"
            )


def _read_batches(batches: Iterable[Mapping[str, Any]], model: "nn.Module") -> list[Batch]:
    """Return the inputs of every batch, and which tokens of each stack count."""
    import torch

    two_stacks = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
    held = []
    for batch in [batches] if isinstance(batches, str | Mapping) else batches:
        if not isinstance(batch, Mapping) or isinstance(batches, Mapping):
            raise TypeError(
                f"`batches` must be mappings of tensors, one after another as a DataLoader gives them, got "
                f"{type(batch).__name__}" + (" alone: put it in a list" if isinstance(batch, Mapping) else "")
            )
        inputs = {str(key): value for key, value in batch.items() if value is not None and key not in _LABELS}
        bad = [key for key, value in inputs.items() if not isinstance(value, torch.Tensor)]
        if bad:
            raise TypeError(f"`batches`: {bad[0]!r} must be a tensor, got {type(inputs[bad[0]]).__name__}")
        labels = batch.get("labels")
        masks = _masks(inputs, labels if isinstance(labels, torch.Tensor) else None, two_stacks)
        if two_stacks and labels is not None and "decoder_input_ids" not in inputs:
            inputs["labels"] = labels  # the decoder's inputs are made of them
        held.append({"inputs": inputs, "masks": masks})
    if not held:
        raise ValueError("`batches` must hold at least one batch, got none")
    return held


def _masks(inputs: Mapping[str, "Tensor"], labels: "Tensor | None", two_stacks: bool) -> dict[str, "Tensor"]:
    masks = {
        name: inputs[key].bool()
        for name, key in (("first", "attention_mask"), ("second", "decoder_attention_mask"))
        if key in inputs
    }
    if labels is None or labels.ndim < 2:
        return masks
    labelled = labels != _IGNORED_LABEL
    if two_stacks and "decoder_input_ids" not in inputs:
        masks.setdefault("second", labelled)
    elif not two_stacks and "input_ids" in inputs and labels.shape == inputs["input_ids"].shape:
        masks["first"] = masks["first"] & labelled if "first" in masks else labelled
    return masks


def _n_components(matrix: Matrix, mean: int, rho: float) -> int:
    return min(round(mean * rho), matrix.in_features, matrix.out_features)


def _means_for(matrices: Sequence[Matrix], budget: int, minimum: int, rho: float) -> dict[str, int]:
    """Return the mean rank to ask of peft for each matrix, so that its components can spend the budget."""
    costs = [matrix.n_per_rank for matrix in matrices]
    least = sum(cost * min(minimum, m.in_features, m.out_features) for cost, m in zip(costs, matrices, strict=True))
    if budget < least:
        raise ValueError(
            f"`budget` must pay for rank {minimum} in every matrix, {least:,} parameters, got {budget:,}: raise it, or "
            "adapt fewer matrices"
        )
    most = [max(1, math.floor(matrix.in_features / rho)) for matrix in matrices]
    mean = max(1, minimum, math.ceil(budget / sum(costs)))
    while True:
        means = [min(mean, limit) for limit in most]
        counts = [_n_components(matrix, asked, rho) for matrix, asked in zip(matrices, means, strict=True)]
        worth = sum(cost * count for cost, count in zip(costs, counts, strict=True))
        if worth >= budget or mean >= max(most):
            return {matrix.name: asked for matrix, asked in zip(matrices, means, strict=True)}
        mean += 1


def _check_inputs(matrices: Sequence[Matrix], means: Mapping[str, int], rho: float) -> None:
    for matrix in matrices:
        if round(means[matrix.name] * rho) > matrix.in_features:
            raise ValueError(
                f"`rank` times `rho` must not exceed the inputs of a matrix, {matrix.in_features} of {matrix.name!r}, "
                f"got {means[matrix.name]} · {rho:g}: lower one of them"
            )


def _run_peft(
    model: "nn.Module",
    held: list[Batch],
    matrices: Sequence[Matrix],
    means: Mapping[str, int],
    rho: float,
    tau: float,
    max_steps: int,
) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Return peft's ranks by module name, in its order, and the shares of variance of each matrix's components."""
    from peft import EvaConfig, LoraConfig, get_eva_state_dict

    from gelora.hooks import inference_on

    watch = _Watch(matrices, len(held), max_steps)
    with quiet_libraries():
        config = LoraConfig(
            r=max(means.values()),
            rank_pattern={f"^{re.escape(name)}": mean for name, mean in means.items()},
            target_modules="|".join(re.escape(name) for name in means),
            init_lora_weights="eva",
            eva_config=EvaConfig(rho=rho, tau=tau),
        )
        with inference_on(model), _no_hooks_left(model), watch.encoder(model):
            vectors = get_eva_state_dict(
                model,
                held,
                config,
                forward_fn=watch.forward,
                prepare_model_inputs_fn=lambda batch, _: batch["masks"],
                prepare_layer_inputs_fn=watch.tokens_of,
                show_progress_bar=False,
            )
    return {name: len(vector) for name, vector in vectors.items()}, watch.shares()


@contextlib.contextmanager
def _no_hooks_left(model: "nn.Module") -> Iterator[None]:
    """Remove the forward hooks that peft leaves behind where it fails."""
    before = {id(module): set(module._forward_hooks) for module in model.modules()}
    try:
        yield
    finally:
        for module in model.modules():
            for key in set(module._forward_hooks) - before[id(module)]:
                del module._forward_hooks[key]


class _Watch:
    """Runs the model for peft, picks the tokens that count, and reads the spectra off peft's hooks."""

    def __init__(self, matrices: Sequence[Matrix], n_batches: int, max_steps: int) -> None:
        self.stacks = {matrix.name: matrix.stack for matrix in matrices}
        self.n_batches = n_batches
        self.max_steps = max_steps
        self.steps = 0
        self.n_tokens: dict[str, int] = {}
        self.inputs: dict[str, int] = {}  # a hash of what each matrix read first: equal where it is the same
        self.decompositions: dict[str, Any] = {}
        self.two_stacks = False
        self.encoded: Tensor | None = None

    @contextlib.contextmanager
    def encoder(self, model: "nn.Module") -> Iterator[None]:
        """Keep the encoder's output in sight, which cross-attention reads within the decoder."""
        self.two_stacks = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        if not self.two_stacks:
            yield
            return

        def keep(_: "nn.Module", __: Any, output: Any) -> None:
            self.encoded = output[0]

        handle = model.get_encoder().register_forward_hook(keep)  # type: ignore[operator]
        try:
            yield
        finally:
            handle.remove()
            self.encoded = None

    def forward(self, model: "nn.Module", batch: Batch) -> None:
        """Run the model once, as peft asks."""
        if self.steps >= self.max_steps:
            raise ValueError(
                f"EVA's directions have not settled within `max_steps`={self.max_steps} forward passes: give more "
                "data, or lower `tau`, `rank` or `budget`"
            )
        with contextlib.redirect_stdout(io.StringIO()):  # peft prints a note on every batch too small for it
            model(**batch["inputs"])
        self.steps += 1
        self._read_hooks(model)

    def tokens_of(self, layer_input: Any, masks: Mapping[str, "Tensor"], name: str) -> "Tensor":
        """Return what a matrix reads, (n_tokens, in), without padding."""
        import torch

        value: Tensor = layer_input[0] if isinstance(layer_input, tuple | list) else layer_input
        mask = masks.get("second" if self._of_decoder(value, name) else "first")
        if mask is not None and value.shape[:-1] == mask.shape:
            value = value[mask]
        value = value.reshape(-1, value.shape[-1])
        if not torch.isfinite(value).all():
            raise ValueError(f"the inputs of {name!r} hold NaN or infinite values: use another precision or other data")
        self.n_tokens[name] = max(len(value), self.n_tokens.get(name, 0))
        return value

    def _of_decoder(self, value: "Tensor", name: str) -> bool:
        if not self.two_stacks or self.stacks[name] != "decoder":
            return False
        encoded = self.encoded
        return encoded is None or value.shape != encoded.shape or value.data_ptr() != encoded.data_ptr()

    def _read_hooks(self, model: "nn.Module") -> None:
        from peft.tuners.lora.eva import HashHook, SVDHook

        for name in self.stacks:
            for hook in model.get_submodule(name)._forward_hooks.values():
                if isinstance(hook, HashHook) and hook.hashed_inputs:
                    self.inputs[name] = hook.hashed_inputs[0]
                elif isinstance(hook, SVDHook):
                    self.decompositions[name] = hook
        if self.steps == 1:
            self._check_reached()
        if self.steps == 1 + self.n_batches:
            self._check_large_enough()

    def _check_reached(self) -> None:
        idle = [name for name in self.stacks if not self.n_tokens.get(name)]
        if idle:
            raise ValueError(
                f"`batches`: no token of the first batch reaches {idle[0]!r}, so EVA knows nothing of its inputs: give "
                "larger batches, or leave the matrix out"
            )

    def _check_large_enough(self) -> None:
        for name, hook in self.decompositions.items():
            if not hasattr(hook.svd, "components_"):
                raise ValueError(
                    f"`batches`: {hook.n_components} components of the inputs of {name!r} need a batch of as many "
                    f"tokens, got at most {self.n_tokens[name]}: give larger batches, or lower `rank`, `budget` or "
                    "`rho`"
                )

    def shares(self) -> dict[str, list[float]]:
        """Return the explained shares of variance of every matrix, largest first."""
        by_input = {self.inputs[name]: hook for name, hook in self.decompositions.items()}
        found = {name: by_input[read].svd.explained_variance_ratio_.tolist() for name, read in self.inputs.items()}
        still = [name for name, values in found.items() if not all(map(math.isfinite, values))]
        if still:
            raise ValueError(f"`batches`: the inputs of {still[0]!r} are the same for all tokens: give other data")
        return found


def _buy(
    matrices: Sequence[Matrix], shares: Mapping[str, Sequence[float]], budget: int, minimum: int
) -> dict[str, int]:
    """Take the minimum everywhere, then components by descending share as long as one fits the budget."""
    ranks = {m.name: min(minimum, m.in_features, m.out_features) for m in matrices}
    rest = budget - sum(ranks[matrix.name] * matrix.n_per_rank for matrix in matrices)
    # No rank exceeds the outputs, and no spectrum is longer than the inputs.
    offers = [(share, m) for m in matrices for share in shares[m.name][ranks[m.name] : m.out_features]]
    for _, matrix in sorted(offers, key=lambda offer: -offer[0]):
        if matrix.n_per_rank <= rest:
            ranks[matrix.name] += 1
            rest -= matrix.n_per_rank
    return ranks
