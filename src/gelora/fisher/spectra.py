"""Spectra of the empirical Fisher information, from the gradients of single labelled examples."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from gelora.messages import check_integer

if TYPE_CHECKING:
    import torch

    from gelora.fisher.gradients import Target

Spectra = dict[str, "FisherSpectrum"]
# Rounding of forward and backward pass, in units of the gradients' precision.
_LEAST_TOLERANCE = 100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FisherSpectrum:
    r"""Eigenvalues of the empirical Fisher information of some parameters.

    Parameters
    ----------
    eigenvalues : ndarray of shape (min(n_examples, n_parameters),)
        Of :math:`\frac1N \sum_n g_n g_n^\top`, descending, in squared loss per squared parameter; all others are 0.
    n_examples : int
        N, how many gradients there were.
    n_parameters : int
        Length of a gradient.
    tolerance : float
        Eigenvalues up to this share of the largest one are rounding error.

    Examples
    --------
    >>> spectrum = FisherSpectrum(eigenvalues=np.array([3.0, 1.0, 0.0]), n_examples=4, n_parameters=3)
    >>> spectrum.rank, spectrum.energy_rank(0.9), spectrum.saturated
    (2, 2, False)
    """

    eigenvalues: NDArray[np.float64]
    n_examples: int
    n_parameters: int
    tolerance: float = 1e-13

    @property
    def rank(self) -> int:
        """Numerical rank: eigenvalues above ``tolerance`` times the largest."""
        return int((self.eigenvalues > self.tolerance * self.eigenvalues.max(initial=0.0)).sum())

    @property
    def saturated(self) -> bool:
        """Whether every example added a direction, so that `rank` is a lower bound: take more examples."""
        return self.rank == self.n_examples < self.n_parameters

    @property
    def effective_rank(self) -> float:
        """Exponential of the entropy of the normalised eigenvalues (RoyVetterli2007); 0 where all are 0."""
        total = self.eigenvalues.sum()
        if total <= 0:
            return 0.0
        shares = self.eigenvalues[self.eigenvalues > 0] / total
        return float(np.exp(-(shares * np.log(shares)).sum()))

    def energy_rank(self, share: float) -> int:
        """Return how many of the largest eigenvalues hold ``share`` of their sum.

        Raises
        ------
        ValueError
            If ``share`` lies outside (0, 1].
        """
        return energy_rank(self.eigenvalues, share)


def energy_rank(energies: NDArray[np.float64], share: float) -> int:
    """Return how many of the largest of ``energies``, given in descending order, hold ``share`` of their sum.

    Raises
    ------
    ValueError
        If ``share`` lies outside (0, 1].

    Examples
    --------
    >>> energy_rank(np.array([8.0, 1.0, 1.0]), 0.9)
    2
    """
    if not 0 < share <= 1:
        raise ValueError(f"`share` must lie above 0 and not above 1, got {share!r}")
    total = energies.sum()
    if total <= 0:
        return 0
    # The last sum may fall short of the whole by rounding.
    reached = np.cumsum(energies) >= share * total * (1 - 1e-12)
    return int(np.argmax(reached)) + 1


def fisher_spectra(
    model: "torch.nn.Module",
    batches: Iterable[Mapping[str, Any]],
    names: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    max_examples: int = 256,
    max_bytes: int = 2**31,
    progress: bool = False,
) -> Spectra:
    r"""Return the spectrum of the empirical Fisher information of modules or parameters of ``model``.

    The information is :math:`F = \frac1N \sum_n g_n g_n^\top`, with :math:`g_n` the gradient of the loss of one
    labelled example. Its eigenvalues are those of the N × N matrix of products of gradients, so nothing of the size
    of the squared number of parameters is ever made. The model runs in evaluation mode, one example at a time, and
    is left exactly as found.

    Parameters
    ----------
    model : torch.nn.Module
        Called with a batch as keywords, it must return an object or mapping with a scalar ``loss``, as transformers'
        models with a head do. In float32 or float64.
    batches : iterable of mappings of tensors
        With ``labels``, e.g. a DataLoader; examples along the first axis of every tensor.
    names : sequence of str, or mapping from label to these
        Linear layers (``nn.Linear``, ``Conv1D``; their weight is meant, the bias is not) or parameters, by their paths
        in the model. With a mapping, each label gets the spectrum of all its parameters together.
    max_examples : int
        The first so many examples are used.
    max_bytes : int
        Memory for gradients, in bytes. Where they do not fit, the examples run several times, for some of the
        parameters each time.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    dict from str to FisherSpectrum
        By name or label, in the order asked for.

    See Also
    --------
    parameter_spectrum : The one spectrum of several parameters together.

    Raises
    ------
    ValueError, TypeError
        If a batch has no ``labels``, the model returns no loss, there is no example, a name is unknown, a gradient is
        not finite or the gradients of one module exceed ``max_bytes``.

    Notes
    -----
    Gradients are multiplied in float64. Singular values of the matrix of gradients below max(N, 100) · ε times the
    largest count as 0, with ε the precision of the model's weights, and so do eigenvalues below N times that of
    float64. For causal language models the loss of an example is the mean over its own tokens.

    RoyVetterli2007: the effective rank. EdDib2024, definition 3.1: the rank as local dimensionality.

    Examples
    --------
    >>> import torch
    >>> class Regression(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.linear = torch.nn.Linear(3, 1).double()
    ...
    ...     def forward(self, x, labels):
    ...         return {"loss": ((self.linear(x)[:, 0] - labels) ** 2).mean()}
    >>> x = torch.eye(3, dtype=torch.float64)[:2].repeat(4, 1)
    >>> fisher_spectra(Regression(), [{"x": x, "labels": torch.arange(8.0)}], ["linear"])["linear"].rank
    2
    """
    from gelora.fisher.gradients import collect_gradients, cut_batches, find_targets

    groups = _groups(names)
    check_integer("max_examples", max_examples, 1)
    check_integer("max_bytes", max_bytes, 1)
    targets = [target for label, found in groups.items() for target in find_targets(model, label, found)]
    examples = cut_batches(model, batches, max_examples)
    grams = {label: np.zeros((len(examples), len(examples))) for label in groups}
    waiting = targets
    with tqdm(desc="gradients", unit=" examples", disable=not progress) as bar:
        while waiting:
            bar.total = bar.n + len(examples)
            done, waiting = collect_gradients(model, examples, waiting, max_bytes, bar)
            for target in done:
                grams[target.label] += target.gram()
                target.forget()
    return {label: _spectrum(gram, [t for t in targets if t.label == label]) for label, gram in grams.items()}


def parameter_spectrum(
    model: "torch.nn.Module",
    batches: Iterable[Mapping[str, Any]],
    parameter_names: Sequence[str],
    *,
    max_examples: int = 256,
    max_bytes: int = 2**31,
    progress: bool = False,
) -> FisherSpectrum:
    """Return the one spectrum of the empirical Fisher information of several parameters together.

    For LoRA's factors, say: the rank of the information of all that is adapted.

    Parameters
    ----------
    model, batches, max_examples, max_bytes, progress
        As in `fisher_spectra`.
    parameter_names : sequence of str
        Paths of parameters in the model, or of linear layers for their weights. A parameter named twice counts once.

    Returns
    -------
    FisherSpectrum

    Raises
    ------
    ValueError, TypeError
        As `fisher_spectra`.

    Examples
    --------
    >>> import torch
    >>> class Line(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.slope, self.start = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    ...
    ...     def forward(self, x, labels):
    ...         return {"loss": ((self.slope * x + self.start - labels) ** 2).mean()}
    >>> batch = {"x": torch.arange(5.0), "labels": torch.ones(5)}
    >>> parameter_spectrum(Line(), [batch], ["slope", "start"]).rank
    2
    """
    options: Any = {"max_examples": max_examples, "max_bytes": max_bytes, "progress": progress}
    return fisher_spectra(model, batches, {"all": parameter_names}, **options)["all"]


def _groups(names: Any) -> dict[str, list[str]]:
    groups = names if isinstance(names, Mapping) else {"": names}
    for found in groups.values():
        if isinstance(found, str) or not isinstance(found, Sequence):
            raise TypeError(f"`names` must be a list of module or parameter names, or a mapping to such, got {names!r}")
    if not isinstance(names, Mapping):
        groups = {name: [name] for name in names}
    if not groups or not all(groups.values()):
        raise ValueError("`names` must name at least one linear layer or parameter for each spectrum, got none")
    return {str(label): list(dict.fromkeys(found)) for label, found in groups.items()}


def _spectrum(gram: NDArray[np.float64], targets: Sequence["Target"]) -> FisherSpectrum:
    import torch

    n, n_parameters = len(gram), sum(target.parameter.numel() for target in targets)
    eps = max(float(torch.finfo(target.parameter.dtype).eps) for target in targets)
    eigenvalues = np.maximum(np.linalg.eigvalsh(gram / n)[::-1], 0.0)[: min(n, n_parameters)]
    tolerance = max((max(n, _LEAST_TOLERANCE) * eps) ** 2, n * float(np.finfo(np.float64).eps))
    return FisherSpectrum(eigenvalues=eigenvalues, n_examples=n, n_parameters=n_parameters, tolerance=tolerance)
