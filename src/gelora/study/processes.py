"""Several processes on one run, as torchrun and accelerate start them: the first decides and writes, all agree."""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

Result = TypeVar("Result")


class Processes:
    """The processes of this job; one where it was started plainly.

    Parameters
    ----------
    device : str
        As `gelora.finetune` takes it: says what the processes talk by.
    """

    def __init__(self, device: str = "auto") -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.index = int(os.environ.get("RANK", "0"))
        if self.count > 1:
            import torch
            from accelerate import PartialState

            cpu = device == "cpu" or not torch.cuda.is_available()
            # The others wait while the first estimates dimensions.
            PartialState(cpu=cpu, timeout=timedelta(days=7))

    @property
    def first(self) -> bool:
        """Whether this process decides and writes."""
        return self.index == 0

    def agree(self, decide: Callable[[], Result]) -> Result:
        """Return what ``decide`` returned in the first process, in every process; its errors too.

        Raises
        ------
        Exception
            What ``decide`` raised; in the other processes a RuntimeError of the same text.
        """
        if self.count == 1:
            return decide()
        from torch.distributed import broadcast_object_list

        told: list[Any] = [None, None]
        raised: Exception | None = None
        if self.first:
            try:
                told[0] = decide()
            except Exception as error:  # noqa: BLE001 (raised again below, after the others have heard of it)
                raised = error
                told[1] = f"{type(error).__name__}: {error}"
        broadcast_object_list(told, src=0)
        if raised is not None:
            raise raised
        if told[1] is not None:
            raise RuntimeError(f"the first process failed: {told[1]}")
        found: Result = told[0]
        return found

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()
