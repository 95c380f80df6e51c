"""What extraction and estimation will cost: operations, bytes and, by rates, seconds.

Everything follows from the sizes of a model and of the data. Nothing is run, and no weights are read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gelora.messages import check_integer
from gelora.pooling import check_pooling
from gelora.sizes import ModelSize, model_size
from gelora.windows import window_rows

STATE_BYTES = 4  # of a coordinate: hidden states are kept in float32
ROW_BYTES = 8  # of the data row of a point
TOKEN_BYTES = 4  # of a token id
# Of an example in memory: its row as drawn and for each point, where its tokens and its points begin, their
# number, its place in the table and in a window, and 16 bytes that find copies.
EXAMPLE_BYTES = 72
# As in the search on a CPU: of the part of a cloud that is compared at once, numbers in a block of the product,
# fewest rows of one.
SEARCH_PART_BYTES, SEARCH_BLOCK, SEARCH_ROWS = 2**28, 2**23, 256
COVARIATE_BLOCK = 2**22  # numbers that the covariates go over at once
WINDOW_COPIES = 4  # of the states of a window while it is written: stacked, and in zarr's hands
SHARE_OF_MEMORY = 0.25  # that a layer may take before it is mapped from disk
_MOST_TASKS = 4  # that run at once in threads


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast a machine is, by the second; what is left out takes no time.

    Parameters
    ----------
    tokens : float
        Tokens made of text.
    flops : float
        Operations of the forward pass.
    write_bytes, read_bytes : float
        Bytes of hidden states, as they are before compression, written to a store and read from one.
    search_flops, tree_flops, covariance_flops : float
        Operations of the neighbour search, of spanning trees and of the covariates, as `Cost` counts them.
    readings, half_readings : float
        Points that an estimator reads, with its error, from neighbours that are known; and points of halves.
    """

    tokens: float = math.inf
    flops: float = math.inf
    write_bytes: float = math.inf
    read_bytes: float = math.inf
    search_flops: float = math.inf
    tree_flops: float = math.inf
    covariance_flops: float = math.inf
    readings: float = math.inf
    half_readings: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What an extraction and an estimation take.

    Parameters
    ----------
    n_points, n_layers, n_windows : int
        Points of a layer, layers kept, and windows they are cut into.
    n_tokens : int
        Tokens of all texts.
    forward_flops : int
        Operations of all forward passes.
    search_flops : int
        Of the neighbour search in all layers: 2 n² (d + 2) in each.
    tree_flops : int
        Of spanning trees in all layers: 2 m² (d + 2) for each of m points. What a tree searches beyond its first
        lists is in the rate.
    covariance_flops : int
        Of the covariates: 2 n d min(n, d) and 4/3 min(n, d)³ in each layer, in float64.
    n_readings, n_half_readings : int
        Points read by estimators in all layers, and those of halves for replicates.
    states_bytes, store_bytes : int
        The hidden states of all layers before compression; and with the data rows, which is all that a store holds
        but a few hundred bytes a window.
    token_bytes : int
        Token ids, on disk beside a store while the call lasts; models with token types have a quarter more.
    weights_bytes, window_bytes, example_bytes : int
        In memory while hidden states are made: weights, the states of a window, and what is known of each example.
    extraction_memory : int
        Together, with the window as often as it is there while it is written. Activations of a batch come on top.
    layer_bytes : int
        The states of a layer.
    mapped : bool
        Whether a layer is mapped from disk.
    estimation_memory : int
        What the tasks that run at once hold: a layer each unless mapped, and work space. Without the weights.
    read_bytes : int
        States read back from the store: once for each task of a layer.
    passed_bytes : int
        Of a mapped layer, what searches go through: it is read again for each part of the cloud.
    """

    n_points: int
    n_layers: int
    n_windows: int
    n_tokens: int
    forward_flops: int
    search_flops: int
    tree_flops: int
    covariance_flops: int
    n_readings: int
    n_half_readings: int
    states_bytes: int
    store_bytes: int
    token_bytes: int
    weights_bytes: int
    window_bytes: int
    example_bytes: int
    extraction_memory: int
    layer_bytes: int
    mapped: bool
    estimation_memory: int
    read_bytes: int
    passed_bytes: int

    def seconds(self, rates: Rates) -> dict[str, float]:
        """Return the seconds of each step at these rates, one after the other, with ``"total"``.

        Examples
        --------
        >>> from transformers import LlamaConfig
        >>> config = LlamaConfig(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, intermediate_size=128)
        >>> cost = estimate_cost(config, 1000, 128)
        >>> cost.seconds(Rates(flops=cost.forward_flops / 60))["forward"]
        60.0
        """
        found = {
            "tokens": self.n_tokens / rates.tokens,
            "forward": self.forward_flops / rates.flops,
            "write": self.states_bytes / rates.write_bytes,
            "read": self.read_bytes / rates.read_bytes,
            "search": self.search_flops / rates.search_flops,
            "trees": self.tree_flops / rates.tree_flops,
            "covariates": self.covariance_flops / rates.covariance_flops,
            "estimators": self.n_readings / rates.readings,
            "halves": self.n_half_readings / rates.half_readings,
        }
        return found | {"total": sum(found.values())}


def estimate_cost(
    model: Any,
    n_examples: int,
    tokens_per_example: int,
    *,
    pooling: str = "mean",
    n_tokens: int | None = 20_000,
    layers: Sequence[int] | None = None,
    dtype: str | None = None,
    store: bool = True,
    n_estimators: int = 1,
    n_searches: int = 1,
    n_neighbors: int = 104,
    tree_sizes: Sequence[int] = (),
    n_replicates: int = 0,
    free_memory: int | None = None,
    n_tasks: int = 1,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Cost:
    """Say what it takes to extract hidden states and estimate their dimension.

    Parameters
    ----------
    model : ModelSize, PretrainedConfig, torch.nn.Module, str or Path
        Sizes, as from `model_size`; or what it takes.
    n_examples : int
        Distinct texts.
    tokens_per_example : int
        Their tokens, all of one length: for texts of different lengths the mean, which counts their attention short.
    pooling, n_tokens, layers, revision, trust_remote_code
        As for `gelora.extract_representations`.
    dtype : str, optional
        Of the weights; by default as `model_size` finds it.
    store : bool
        Whether hidden states and token ids go to disk; else memory holds all of them.
    n_estimators : int
        Estimators that take their neighbours from a shared search, as ``twonn``, ``mle`` and ``gride`` do.
    n_searches : int
        Searches of a whole layer: one for all of these on one device, and one for each estimator that makes its own.
        At least one: a covariate needs it.
    n_neighbors : int
        Neighbours found for each point: 32 for ``twonn``, 104 for ``mle``.
    tree_sizes : sequence of int
        Points of each spanning tree that is grown in a layer: for ``ph`` those of all its draws.
    n_replicates : int
        Halves that are read, from the neighbours that are known.
    free_memory : int, optional
        Bytes that are free when a layer is read; without it no layer is taken to be mapped.
    n_tasks : int
        Tasks that run at once: in threads as many as there are cores, four at most.

    Returns
    -------
    Cost

    Raises
    ------
    ValueError
        Naming the argument and what it must be.

    Examples
    --------
    >>> from transformers import LlamaConfig
    >>> llama = LlamaConfig(hidden_size=4096, num_hidden_layers=32, intermediate_size=11008, vocab_size=32000)
    >>> cost = estimate_cost(llama, 10_000, 128)
    >>> cost.n_layers, round(cost.store_bytes / 1e9, 2), f"{cost.forward_flops:.2g}"
    (33, 5.41, '1.7e+16')
    """
    size = model if isinstance(model, ModelSize) else model_size(model, dtype, revision, trust_remote_code)
    check_pooling(pooling)
    n, length = check_integer("n_examples", n_examples, 1), check_integer("tokens_per_example", tokens_per_example, 1)
    check_integer("n_searches", n_searches, 1)
    check_integer("n_tasks", n_tasks, 1)
    asked = list(range(size.n_blocks + 1)) if layers is None else sorted(set(layers))
    if not asked or not 0 <= asked[0] <= asked[-1] <= size.n_blocks:
        raise ValueError(f"`layers` must be numbers from 0 to {size.n_blocks}, got {layers!r}")
    n_points, n_runs = _points(pooling, n, length, n_tokens, window_rows(size.width))
    n_windows = -(-n_points // window_rows(size.width))
    layer_bytes = n_points * size.width * STATE_BYTES
    window_bytes = len(asked) * min(window_rows(size.width), n_points) * size.width * STATE_BYTES
    token_bytes, states_bytes = n * length * TOKEN_BYTES, len(asked) * layer_bytes
    mapped = free_memory is not None and layer_bytes > free_memory * SHARE_OF_MEMORY
    held = 0 if mapped else layer_bytes
    rows_bytes = n_points * ROW_BYTES
    return Cost(
        n_points=n_points,
        n_layers=len(asked),
        n_windows=n_windows,
        n_tokens=n * length,
        forward_flops=n_runs * size.forward_flops(length, asked[-1]),
        search_flops=len(asked) * n_searches * _pair_flops(n_points, size.width),
        tree_flops=len(asked) * sum(_pair_flops(m, size.width) for m in tree_sizes),
        covariance_flops=len(asked) * _covariance_flops(n_points, size.width),
        n_readings=len(asked) * n_estimators * n_points,
        n_half_readings=len(asked) * n_estimators * n_replicates * (n_points // 2),
        states_bytes=states_bytes,
        store_bytes=states_bytes + rows_bytes,
        token_bytes=token_bytes,
        weights_bytes=size.weights_bytes,
        window_bytes=window_bytes,
        example_bytes=n * EXAMPLE_BYTES,
        extraction_memory=size.weights_bytes
        + n * EXAMPLE_BYTES
        + (WINDOW_COPIES * window_bytes if store else window_bytes + states_bytes + token_bytes),
        layer_bytes=layer_bytes,
        mapped=mapped,
        estimation_memory=min(n_tasks, _MOST_TASKS) * (held + _work_bytes(n_points, size.width, n_neighbors)),
        read_bytes=states_bytes * (2 + n_estimators) if store else 0,  # the search, each estimator, the covariates
        passed_bytes=states_bytes * n_searches * _n_parts(n_points, size.width) if mapped else 0,
    )


def _points(pooling: str, n_examples: int, length: int, n_tokens: int | None, rows: int) -> tuple[int, int]:
    """Return how many points there are, and at most how many times a text is run."""
    if pooling != "tokens":
        return n_examples, n_examples
    everything = n_examples * length
    n_points = everything if n_tokens is None else min(check_integer("n_tokens", n_tokens, 1), everything)
    # A text without kept tokens does not run; one whose points lie in two windows runs for both.
    split = -(-n_points // rows) - 1
    whole = n_points == everything and rows % length == 0
    return n_points, min(n_examples, n_points) + (0 if whole else split)


def _pair_flops(n: int, width: int) -> int:
    """Return the operations of one product of all pairs, two columns more for the bounds on its rounding."""
    return 2 * n * n * (width + 2)


def _covariance_flops(n: int, width: int) -> int:
    small = min(n, width)
    return 2 * n * width * small + 4 * small**3 // 3


def _n_parts(n: int, width: int) -> int:
    """Return in how many parts a cloud is compared with itself."""
    return -(-n // _part_rows(width))


def _part_rows(width: int) -> int:
    return max(1, SEARCH_PART_BYTES // (STATE_BYTES * (width + 2)))


def _work_bytes(n: int, width: int, n_neighbors: int) -> int:
    """Return what a task holds beside the layer: a search, or what the covariates take if that is more."""
    columns = min(n, _part_rows(width))
    rows = min(n, max(SEARCH_ROWS, SEARCH_BLOCK // columns))
    # The part of the cloud, a block of the product and its left factor; norms; distances and numbers of neighbours.
    search = STATE_BYTES * (columns * (width + 2) + rows * columns + rows * (width + 2)) + 8 * n + 16 * n * n_neighbors
    small = min(n, width)
    # In float64: the Gram matrix and its copy, and three blocks of points.
    return max(search, 8 * (2 * small * small + 3 * min(n * width, COVARIATE_BLOCK)))
