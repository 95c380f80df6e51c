"""The Jacobian of one block's pooled output at one example, in float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gelora.blocks import Block
from gelora.pooling import pool
from gelora.provenance import generator
from gelora.theory.float64 import Float64, to_double
from gelora.theory.inputs import Call, exchange


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What `gelora.theory.jacobian_spectra` was asked for, checked; see there."""

    pooling: str
    n_probes: int | None
    chunk_size: int
    max_bytes: int
    seed: int
    tolerance: float | None
    respects: tuple[str, ...]


def n_parameters_of(module: torch.nn.Module) -> int:
    """Return how many parameters ``module`` has."""
    return sum(parameter.numel() for parameter in module.parameters())


class BlockJacobian:
    """One block at one example: copies of it in one batch, of which each gives a row of the Jacobian."""

    def __init__(
        self,
        module: torch.nn.Module,
        block: Block,
        call: Call,
        factors: Sequence[torch.nn.Module],
        options: Options,
        point: int,
    ) -> None:
        self.module = module
        self.block = block
        self.factors = factors
        self.options = options
        self.token = generator(options.seed, "token", block.stack, point)
        parameter = next(module.parameters(), None)
        self.device = torch.device("cpu") if parameter is None else parameter.device
        self.call = to_double(call, self.device)
        self.width = self.n_tokens = 0

    def jacobian(self) -> list[torch.Tensor]:
        """Return the Jacobian in the input, and that in the parameters, each of shape (rows, columns)."""
        outputs: list[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]] = []
        handles = [factor.register_forward_hook(_keeper(outputs)) for factor in self.factors]
        mode = Float64()  # type: ignore[no-untyped-call]
        with mode, torch.enable_grad():
            try:
                hidden, pooled = self._forward()
            finally:
                for handle in handles:
                    handle.remove()
            probes = self._probes()
            self._check_memory(len(probes), hidden)
            parts = [self._backward(hidden, pooled, outputs, chunk) for chunk in torch.split(probes, len(hidden))]
        return [torch.cat([part[i] for part in parts]) for i in range(2)]

    def _forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        leaves: list[torch.Tensor] = []

        def copies(hidden: torch.Tensor) -> torch.Tensor:
            shape = (self.options.chunk_size, *hidden.shape[1:])
            leaves.append(hidden.detach().expand(shape).clone().requires_grad_())
            return leaves[-1]

        args, kwargs = exchange(self.call, copies)
        output = self.module(*args, **kwargs)
        states = output if isinstance(output, torch.Tensor) else output[0]
        states = states[:, None, :] if states.ndim == 2 else states
        self.n_tokens, self.width = states.shape[1], states.shape[2]
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=self.device)
        keep = None
        if self.options.pooling == "tokens":
            keep = torch.zeros_like(mask)
            keep[:, int(self.token.integers(self.n_tokens))] = True
        return leaves[0], pool(states, mask, self.options.pooling, keep)

    def _probes(self) -> torch.Tensor:
        """Return the directions of the output that are followed back, orthonormal, of shape (n_rows, width)."""
        n_probes = self.options.n_probes
        if n_probes is None or n_probes >= self.width:
            return torch.eye(self.width, dtype=torch.float64, device=self.device)
        draws = generator(self.options.seed, "probes", self.width).standard_normal((self.width, n_probes))
        return torch.from_numpy(np.linalg.qr(draws)[0].T.copy()).to(self.device)

    def _check_memory(self, n_rows: int, hidden: torch.Tensor) -> None:
        needed = 8 * n_rows * (hidden[0].numel() + sum(n_parameters_of(factor) for factor in self.factors))
        if needed > self.options.max_bytes:
            raise ValueError(
                f"`max_bytes` must hold one Jacobian of the block {self.block.name!r}, {needed:,} bytes, got "
                f"{self.options.max_bytes:,}: raise it, give `n_probes` (now {n_rows} rows) or a smaller `max_length`"
            )

    def _backward(
        self,
        hidden: torch.Tensor,
        pooled: torch.Tensor,
        outputs: Sequence[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]],
        chunk: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one row of both Jacobians for each direction in ``chunk``."""
        directions = torch.zeros_like(pooled)
        directions[: len(chunk)] = chunk
        wanted = [hidden, *(output for _, _, output in outputs)]
        found = torch.autograd.grad(pooled, wanted, directions, retain_graph=True, allow_unused=True)
        of_input = torch.zeros_like(hidden) if found[0] is None else found[0]
        of_factor = {id(f): torch.zeros(len(hidden), n_parameters_of(f), dtype=torch.float64, device=self.device)
                     for f in self.factors}  # fmt: skip
        for (factor, given, _), gradient in zip(outputs, found[1:], strict=True):
            if gradient is not None:
                tokens = (len(hidden), -1)
                product = gradient.reshape(*tokens, gradient.shape[-1]).mT @ given.reshape(*tokens, given.shape[-1])
                of_factor[id(factor)] += product.flatten(1)
        empty = torch.zeros(len(hidden), 0, dtype=torch.float64, device=self.device)
        of_parameters = torch.cat([*of_factor.values(), empty], dim=1)
        return of_input.detach().flatten(1)[: len(chunk)], of_parameters.detach()[: len(chunk)]


def _keeper(outputs: list[tuple[torch.nn.Module, torch.Tensor, torch.Tensor]]) -> Any:
    def keep(module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        # Factors of a cross-attention read the encoder: what they give does not depend on the block's input.
        kept = output if output.requires_grad else output.detach().requires_grad_()
        outputs.append((module, args[0].detach(), kept))
        return kept

    return keep


def singular_values(parts: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    """Return the singular values of the matrices side by side, as many as there are rows."""
    # The triangle of a QR decomposition has the same ones, and is small.
    triangles = [torch.linalg.qr(part.T, mode="r").R for part in parts if part.shape[1]]
    values = np.zeros(len(parts[0]))
    if triangles:
        found = torch.linalg.svdvals(torch.cat(triangles)).cpu().numpy()
        values[: min(len(found), len(values))] = found[: len(values)]
    return values


def numerical_rank(values: NDArray[np.float64], n_columns: int, tolerance: float | None = None) -> int:
    """Return how many singular values exceed ``tolerance`` times the largest.

    Parameters
    ----------
    values : ndarray of shape (n_rows,)
        Singular values of a matrix in float64.
    n_columns : int
        Of that matrix.
    tolerance : float, optional
        By default max(n_rows, n_columns) · 2.2e-16: what rounding leaves of a zero.

    Examples
    --------
    >>> numerical_rank(np.array([2.0, 1.0, 1e-16]), 3)
    2
    """
    rounding = max(len(values), n_columns) * float(np.finfo(np.float64).eps)
    limit = (rounding if tolerance is None else tolerance) * values.max(initial=0.0)
    return int((values > limit).sum())
