r"""A linear layer with a GeoLoRA adapter: :math:`y = W_0 x + s\, U S Vᵀ x`.

Everything is stored at the largest rank that the layer may take, new directions on trial included, and used up to the
present rank, so that no tensor changes its shape when the rank moves: checkpoints, data-parallel buckets and optimizers
need to know nothing of it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gelora.blocks import is_transposed, matrix_shape

# The gradients of K and L are handed on this much smaller, and made whole by the optimizer: K and L are no parameters
# that move, and must not count in the gradient norm by which everything else is clipped. A power of two: exact.
DIRECTION_SCALE = 2.0**-12


class _LowRankProduct(torch.autograd.Function):
    """``scale · x V Sᵀ Uᵀ``, whose backward pass also yields G V and GᵀU, the gradients of zero K and L."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, U: Tensor, S: Tensor, V: Tensor, K: Tensor, L: Tensor, scale: float, collect: bool
    ) -> Tensor:
        projected = x @ V
        ctx.save_for_backward(projected, U, S, V, *([x] if collect else []))
        ctx.scale, ctx.collect, ctx.shapes, ctx.dtype = scale, collect, (K.shape, L.shape), K.dtype
        return (projected @ S.T) @ (U.T * scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        projected, U, S, V, *rest = ctx.saved_tensors
        flat = gradients[0].reshape(-1, U.shape[0])
        inner = (flat @ U) * ctx.scale
        flat_projected = projected.reshape(-1, V.shape[1])
        to_x = ((inner @ S) @ V.T).reshape(*gradients[0].shape[:-1], V.shape[0]) if ctx.needs_input_grad[0] else None
        to_S = inner.T @ flat_projected
        to_K = to_L = None
        if ctx.collect:
            to_K = _padded((flat.T @ flat_projected) * ctx.scale, ctx.shapes[0], ctx.dtype)
            to_L = _padded(rest[0].reshape(-1, V.shape[0]).T @ inner, ctx.shapes[1], ctx.dtype)
        return to_x, None, to_S, None, to_K, to_L, None, None


def _padded(gradient: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    whole = gradient.new_zeros(shape, dtype=dtype)
    whole[:, : gradient.shape[1]] = gradient
    return whole.mul_(DIRECTION_SCALE)


class GeoLoRALinear(nn.Module):
    """A frozen linear layer and its low-rank adapter.

    Parameters
    ----------
    base_layer : nn.Module
        ``nn.Linear``, transformers' ``Conv1D``, or a quantised one; frozen.
    rank : int
        To start with.
    max_rank : int
        The largest that a truncation may keep; at most the smaller side of the matrix.
    scale : float
        s: the factor on U S Vᵀ, the same whatever the rank.
    dropout : float
        Of the adapter's input.
    generator : torch.Generator, optional
        Draws the bases, on the CPU.

    Notes
    -----
    S starts at zero: the layer starts as the base layer. The capacity c is twice ``max_rank``, at most the smaller
    side: as many new directions as are kept can be on trial. Parameters: ``geolora_S`` (c, c), and ``geolora_K``
    (out, c) and ``geolora_L`` (in, c), which stay zero: their gradients are `DIRECTION_SCALE` times those of
    (U S + K) Vᵀ + U Lᵀ, G V and GᵀU. Buffers: ``geolora_U``, ``geolora_V``, ``geolora_ranks``: the rank in use, and how
    much of it the last truncation kept, `rank` and `kept_rank`.
    """

    geolora_U: Tensor  # noqa: N815 (the paper's names)
    geolora_V: Tensor  # noqa: N815
    geolora_ranks: Tensor
    geolora_S: nn.Parameter  # noqa: N815
    geolora_K: nn.Parameter  # noqa: N815
    geolora_L: nn.Parameter  # noqa: N815

    def __init__(
        self,
        base_layer: nn.Module,
        rank: int,
        max_rank: int,
        *,
        scale: float,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = matrix_shape(base_layer)
        if not 1 <= rank <= max_rank <= min(self.in_features, self.out_features):
            raise ValueError(
                f"`rank` and `max_rank` must be 1 ≤ rank ≤ max_rank ≤ {min(self.in_features, self.out_features)}, the "
                f"smaller side of the matrix, got {rank} and {max_rank}"
            )
        self.base_layer = base_layer
        self.base_layer.requires_grad_(False)
        self.max_rank, self.scale = max_rank, scale
        self.capacity = min(2 * max_rank, self.in_features, self.out_features)
        self.rank = self.kept_rank = rank
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout else nn.Identity()
        self.collect = True  # whether the next backward pass is to yield G V and GᵀU
        self._add_tensors(generator, _device_of(base_layer), _dtype_of(base_layer))

    def _add_tensors(self, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype) -> None:
        for name, side in (("U", self.out_features), ("V", self.in_features)):
            drawn = torch.randn(side, self.rank, generator=generator, dtype=torch.float64)
            basis = torch.zeros(side, self.capacity, dtype=dtype)
            basis[:, : self.rank] = torch.linalg.qr(drawn)[0]
            self.register_buffer(f"geolora_{name}", basis.to(device))
        shapes = {"S": self.capacity, "K": self.out_features, "L": self.in_features}
        for name, side in shapes.items():
            zeros = torch.zeros(side, self.capacity, dtype=dtype, device=device)
            self.register_parameter(f"geolora_{name}", nn.Parameter(zeros))
        self.register_buffer("geolora_ranks", torch.tensor([self.rank, self.rank], device=device))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return ``base_layer(x) + scale · U S Vᵀ dropout(x)``."""
        result: Tensor = self.base_layer(x, *args, **kwargs)
        dtype = self.geolora_S.dtype
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        rank = self.rank
        product: Any = _LowRankProduct
        added: Tensor = product.apply(
            self.dropout(x.to(dtype)),
            self.geolora_U[:, :rank].to(dtype),
            self.geolora_S[:rank, :rank].to(dtype),
            self.geolora_V[:, :rank].to(dtype),
            self.geolora_K,
            self.geolora_L,
            self.scale,
            self.collect,
        )
        summed: Tensor = result + added.to(result.dtype)
        return summed

    def set_rank(self, rank: int, kept: int | None = None) -> None:
        """Use the first ``rank`` columns from now on, of which the first ``kept``, by default all, are not on trial."""
        self.rank, self.kept_rank = rank, rank if kept is None else kept
        self.geolora_ranks.copy_(torch.tensor([self.rank, self.kept_rank]))

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return A (rank, in) and B (out, rank) with B A = U S Vᵀ, each with half of the singular values' roots."""
        rank = self.rank
        P, sigma, Qt = torch.linalg.svd(self.geolora_S.detach()[:rank, :rank].double())
        root = sigma.sqrt()
        A = (root[:, None] * Qt) @ self.geolora_V[:, :rank].double().T
        B = self.geolora_U[:, :rank].double() @ (P * root)
        return A.to(self.geolora_S.dtype), B.to(self.geolora_S.dtype)

    def delta_weight(self) -> Tensor:
        """Return scale · U S Vᵀ in the shape of the base layer's weight."""
        rank = self.rank
        U, S, V = self.geolora_U[:, :rank], self.geolora_S.detach()[:rank, :rank], self.geolora_V[:, :rank]
        delta = self.scale * (U @ S @ V.T)
        return delta.T if is_transposed(self.base_layer) else delta

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if f"{prefix}geolora_ranks" in state_dict:
            self.read_ranks()

    def read_ranks(self) -> None:
        """Take the ranks from the buffer, after something else has filled it."""
        self.rank, self.kept_rank = self.geolora_ranks.tolist()


def _device_of(layer: nn.Module) -> torch.device:
    return next(iter(layer.parameters())).device


def _dtype_of(layer: nn.Module) -> torch.dtype:
    # Half-precision or quantised weights get an adapter in float32: small updates would be lost otherwise.
    dtype = next(iter(layer.parameters())).dtype
    return dtype if dtype == torch.float64 else torch.float32
