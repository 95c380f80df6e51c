"""Tell the optimizer when the run is so far that its bases are to stay."""

# ruff: noqa: D102 (the signature of the event is that of transformers)

from typing import Any

from transformers import TrainerCallback


class Settling(TrainerCallback):
    """Lets the bases of a `GeoLoRAOptimizer` stay for the last part of a run of ``Trainer``.

    Parameters
    ----------
    share : float
        Of the steps of the run, at its end.
    """

    def __init__(self, share: float) -> None:
        self._share = share

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        optimizer = kwargs["optimizer"]
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        inner.last_move = int((1.0 - self._share) * state.max_steps)
