"""The singular values of the Jacobian of every block's pooled output, at single examples."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from gelora.blocks import Block, architecture_of, weights_fingerprint
from gelora.fisher import energy_rank
from gelora.masking import masked
from gelora.messages import check_integer
from gelora.netcdf import plain_attributes
from gelora.plan import ModuleRank, RankPlan
from gelora.pooling import check_pooling
from gelora.provenance import package_versions, timestamp
from gelora.theory.adapted import BlockKey, lora_at_generic_point, lora_factors, planned_matrices
from gelora.theory.block_jacobian import BlockJacobian, Options, n_parameters_of, numerical_rank, singular_values
from gelora.theory.float64 import double_copy
from gelora.theory.inputs import Call, Subject, load_model, open_subject, record_calls

RESPECTS = ("input", "parameters", "both")
ENERGY_SHARES = {"energy_rank_90": 0.90, "energy_rank_99": 0.99}
_LONG_NAMES = {
    "singular_values": "singular values of the Jacobian of the pooled output, descending",
    "rank": "numerical rank of the Jacobian",
    "energy_rank_90": "singular values that hold 90 % of the sum of squares",
    "energy_rank_99": "singular values that hold 99 % of the sum of squares",
    "lower_bound": "whether the probes ran out, so that the rank may be larger",
    "n_adapted": "adapted parameters of the block",
    "width": "width of the block's output",
    "n_tokens": "tokens of the example",
}


def jacobian_spectra(
    model: Any,
    data: Any,
    *,
    plan: RankPlan | None = None,
    with_respect_to: Sequence[str] | None = None,
    n_points: int = 8,
    pooling: str = "mean",
    n_probes: int | None = None,
    tolerance: float | None = None,
    chunk_size: int = 32,
    max_bytes: int = 2**31,
    layers: Sequence[str] | None = None,
    text_column: str | Sequence[str] | None = None,
    max_length: int | None = None,
    decoder_texts: Sequence[str] | None = None,
    tokenizer: Any = None,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    r"""Return the singular values of the Jacobian of every block at single examples.

    Block i maps the sequence :math:`x` of its input and its adapted parameters :math:`\theta` to the pooled vector
    :math:`y` that `gelora.extract_representations` gives for layer i. The Jacobian :math:`\partial y / \partial x`
    has width rows and tokens × width columns, :math:`\partial y / \partial\theta` a column a parameter. Each block
    runs by itself, as a copy in float64, on exactly what the model passes to it. The model is left as found. What a
    decoder's block takes from the encoder is held fixed.

    Parameters
    ----------
    model : PreTrainedModel, torch.nn.Module, str or Path
        Bare, with a head, or adapted by peft's LoRA.
    data : list of str, DataLoader, tensors, path, …
        As for `gelora.extract_representations`, and so are ``layers``, ``text_column``, ``max_length``,
        ``decoder_texts``, ``tokenizer``, ``revision`` and ``trust_remote_code``.
    plan : RankPlan, optional
        The adapted parameters of a model that is not adapted: LoRA factors of the planned ranks at a generic point.
        Where factors exist they are taken as they are; at their start, B = 0, the derivative by A is 0.
    with_respect_to : sequence of {"input", "parameters", "both"}, optional
        All three where there are adapted parameters, else ``"input"``.
    n_points : int
        Examples drawn, by the seed alone; the largest rank over the data is at least the largest over these.
    pooling : {"mean", "last", "cls", "max", "tokens"}
        ``"tokens"`` takes one token of each example, drawn by the seed.
    n_probes : int, optional
        For wide models: rows of a random orthogonal projection of the output, in place of all of them. Ranks are
        exact up to ``n_probes`` and a lower bound there (``lower_bound``); singular values and energy ranks are those
        of the projection.
    tolerance : float, optional
        Singular values up to this share of the largest do not count towards the rank; by default max(rows, columns) · ε
        with ε = 2.2e-16, what rounding in float64 leaves of a zero. Weights stored in float32 are rounded themselves:
        a product of low rank has full rank at the default, and its own at 1e-5.
    chunk_size : int
        Copies of an example that run together, one a row of the Jacobian.
    max_bytes : int
        Most memory for one Jacobian, in bytes.
    seed : int
        Of the examples, probes, tokens and generic factors.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    xarray.Dataset
        ``singular_values`` (respect, block, point, value), and of each Jacobian ``rank``, ``energy_rank_90``,
        ``energy_rank_99``, ``lower_bound`` (respect, block, point); ``n_adapted``, ``width`` (block); ``n_tokens``
        (point). Values of the last axis beyond what a Jacobian has are NaN.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        Naming the argument, the requirement, what was found and the remedy.
    UnknownArchitectureError
        If the blocks are not found and ``layers`` is not given.

    Notes
    -----
    A block with a residual connection has full rank at nearly every input; one that ends in a layer norm lacks one
    direction. The bound of theorem 3.2 of EdDib2024 (as we read it) is then empty.

    Examples
    --------
    >>> block = torch.nn.Sequential(torch.nn.Linear(6, 2), torch.nn.Linear(2, 6))
    >>> spectra = jacobian_spectra(torch.nn.Sequential(block), torch.randn(3, 4, 6), layers=["0"], progress=False)
    >>> spectra["rank"].sel(respect="input").values.tolist()
    [[2, 2, 2]]
    """
    check_pooling(pooling)
    for name, value in (("n_points", n_points), ("chunk_size", chunk_size), ("max_bytes", max_bytes)):
        check_integer(name, value, 1)
    if n_probes is not None:
        check_integer("n_probes", n_probes, 1, ", or None for all rows")
    if tolerance is not None and not 0 < tolerance < 1:
        raise ValueError(f"`tolerance` must lie between 0 and 1, or be None for the rounding error, got {tolerance!r}")
    loaded, tokenizer = load_model(model, data, tokenizer, revision, trust_remote_code)
    encoding = {"text_column": text_column, "max_length": max_length, "decoder_texts": decoder_texts}
    subject = open_subject(loaded, data, layers, tokenizer=tokenizer, n_samples=n_points, seed=seed, **encoding)
    planned = {} if lora_factors(subject.runner) else planned_matrices(plan, subject.runner)
    options = Options(
        pooling=pooling,
        n_probes=n_probes,
        chunk_size=chunk_size,
        max_bytes=max_bytes,
        seed=seed,
        tolerance=tolerance,
        respects=_respects(with_respect_to, bool(planned or lora_factors(subject.runner))),
    )
    return _assemble(loaded, subject, _measure(subject, planned, options, progress), options)


def _respects(asked: Sequence[str] | None, adapted: bool) -> tuple[str, ...]:
    if asked is None:
        return RESPECTS if adapted else ("input",)
    if isinstance(asked, str) or not asked or set(asked) - set(RESPECTS):
        raise ValueError(f"`with_respect_to` must be a list of some of {', '.join(RESPECTS)}, got {asked!r}")
    if not adapted and set(asked) != {"input"}:
        raise ValueError(
            "`plan` must say which parameters are adapted, since `model` has no LoRA factors: give a rank plan, or "
            "with_respect_to=['input']"
        )
    return tuple(asked)


@dataclass(frozen=True, slots=True)
class _BlockReading:
    """By respect, the singular values at each point and the columns of the Jacobian; and sizes of the block."""

    values: dict[str, list[NDArray[np.float64]]]
    columns: dict[str, list[int]]
    n_adapted: int
    width: int
    n_tokens: list[int]


def _measure(
    subject: Subject, planned: dict[BlockKey, list[ModuleRank]], options: Options, progress: bool
) -> list[_BlockReading]:
    n_points = len(subject.examples.features)
    calls = [record_calls(subject, point, options.chunk_size) for point in range(n_points)]
    readings = []
    bar = tqdm(total=n_points * len(subject.blocks), desc="Jacobians", disable=not progress)
    # The caller may be in inference mode, whose tensors take no part in a backward pass.
    with torch.inference_mode(False), bar:
        for block in subject.blocks:
            module = double_copy(subject.runner.get_submodule(block.name))
            matrices = planned.get((block.stack, block.index), [])
            with lora_at_generic_point(module, matrices, options.seed, prefix=f"{block.name}."):
                readings.append(_read_block(module, block, [call[block.name] for call in calls], options, bar.update))
    return readings


def _read_block(
    module: torch.nn.Module, block: Block, calls: Sequence[Call], options: Options, advance: Callable[[], Any]
) -> _BlockReading:
    factors = list(lora_factors(module).values()) if set(options.respects) != {"input"} else []
    values: dict[str, list[NDArray[np.float64]]] = {respect: [] for respect in options.respects}
    columns: dict[str, list[int]] = {respect: [] for respect in options.respects}
    n_tokens, width = [], 0
    for point, call in enumerate(calls):
        rows = BlockJacobian(module, block, call, factors, options, point)
        parts = rows.jacobian()
        width = rows.width
        n_tokens.append(rows.n_tokens)
        for respect in options.respects:
            found = {"input": parts[:1], "parameters": parts[1:], "both": parts}[respect]
            values[respect].append(singular_values(found))
            columns[respect].append(sum(part.shape[1] for part in found))
        advance()
    n_adapted = sum(n_parameters_of(factor) for factor in lora_factors(module).values())
    return _BlockReading(values, columns, n_adapted, width, n_tokens)


def _assemble(
    model: torch.nn.Module, subject: Subject, readings: Sequence[_BlockReading], options: Options
) -> xr.Dataset:
    blocks, n_points = subject.blocks, len(subject.examples.features)
    grid = ("respect", "block", "point")
    shape = (len(options.respects), len(blocks), n_points)
    most = max(len(found) for reading in readings for found in reading.values[options.respects[0]])
    values = np.full((*shape, most), math.nan)
    tables = {name: np.zeros(shape, dtype=np.int64) for name in ("rank", *ENERGY_SHARES)}
    lower = np.zeros(shape, dtype=bool)
    for index in np.ndindex(shape):
        respect, reading = options.respects[index[0]], readings[index[1]]
        found, columns = reading.values[respect][index[2]], reading.columns[respect][index[2]]
        values[(*index, slice(len(found)))] = found
        tables["rank"][index] = rank = numerical_rank(found, columns, options.tolerance)
        for name, share in ENERGY_SHARES.items():
            tables[name][index] = energy_rank(found**2, share)
        lower[index] = rank == len(found) < min(reading.width, columns)
    dataset = xr.Dataset(
        {
            "singular_values": ((*grid, "value"), values),
            **{name: (grid, table) for name, table in tables.items()},
            "lower_bound": (grid, lower),
            "n_adapted": ("block", np.array([reading.n_adapted for reading in readings], dtype=np.int64)),
            "width": ("block", np.array([reading.width for reading in readings], dtype=np.int64)),
            "n_tokens": ("point", np.array(readings[0].n_tokens, dtype=np.int64)),
        },
        coords={
            "respect": np.array(options.respects, dtype=object),
            "block": np.array([block.index for block in blocks], dtype=np.int64),
            "stack": ("block", np.array([block.stack for block in blocks], dtype=object)),
            "name": ("block", np.array([block.name for block in blocks], dtype=object)),
            "row": ("point", subject.examples.rows),
        },
        attrs=plain_attributes(_attributes(model, subject, options)),
    )
    for name, text in _LONG_NAMES.items():
        dataset[name].attrs["long_name"] = text
    return dataset


def _attributes(model: torch.nn.Module, subject: Subject, options: Options) -> dict[str, Any]:
    return {
        **subject.examples.record,
        "model": masked(str(getattr(model, "name_or_path", "") or type(model).__name__)),
        "architecture": architecture_of(subject.runner, subject.blocks).as_dict(),
        "weights_fingerprint": weights_fingerprint(subject.runner, subject.blocks) or "",
        "pooling": options.pooling,
        "n_probes": options.n_probes or "all",
        "tolerance": options.tolerance or "max(rows, columns) eps",
        "seed": options.seed,
        "versions": package_versions(),
        "created": timestamp(),
    }
