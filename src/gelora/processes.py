"""Several processes on one work, as torchrun and accelerate start them: the first decides, all agree."""

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
    alone : bool
        Take this process for the only one, whatever others there are.
    """

    def __init__(self, device: str = "auto", *, alone: bool = False) -> None:
        self.count = 1 if alone else int(os.environ.get("WORLD_SIZE", "1"))
        self.index = 0 if alone else int(os.environ.get("RANK", "0"))
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

    def first_error(self, name: str, error: str) -> str:
        """Return the error that the first process to fail in the training ``name`` had: the others fail by it."""
        if self.count == 1:
            return error
        known: bytes = _store().compare_set(f"gelora/error/{name}", "", error)
        return known.decode()

    def all_failed(self, name: str, patience: float = 60.0) -> bool:
        """Say whether all processes come here within ``patience`` seconds after this one, each once for a name."""
        if self.count == 1:
            return True
        store = _store()
        store.set(f"gelora/failed/{name}/{self.index}", "yes")
        try:
            store.wait([f"gelora/failed/{name}/{index}" for index in range(self.count)], timedelta(seconds=patience))
        except RuntimeError:  # of the store's timeout
            return False
        return True

    def wait(self) -> None:
        """Wait until all have come here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def _store() -> Any:
    """Return what the processes share beside collectives, which would wait for those inside another one."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()
