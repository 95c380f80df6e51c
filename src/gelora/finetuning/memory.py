"""Peak memory of a training: on a GPU what torch allocated, on a CPU what the process held."""

import math
from pathlib import Path

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The peak since this was made.

    Parameters
    ----------
    device : str
        ``"cuda:0"``, ``"cpu"``, …: on a GPU bytes allocated by torch; elsewhere the largest resident set of the
        process, libraries and data included, which Linux alone tells.

    Examples
    --------
    >>> peak = PeakMemory("cpu").read()
    >>> peak > 1e6 or peak != peak
    True
    """

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        else:
            self._known = _reset()

    def read(self) -> float:
        """Return the peak in bytes, NaN where the system does not tell."""
        if self._cuda:
            import torch

            return float(torch.cuda.max_memory_allocated())
        return _resident_peak() if self._known else math.nan


def _reset() -> bool:
    try:
        _RESET.write_text("5", encoding="ascii")  # proc(5): reset the peak resident set to the present one
    except OSError:
        return False
    return True


def _resident_peak() -> float:
    for line in _STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024.0 * int(line.split()[1])
    return math.nan
