"""Tables as they are printed."""

import io
import json

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from gelora.tables import record_table


@pytest.mark.parametrize(("memory", "shown"), [(3.5 * 2**30, "3,584"), (np.nan, "–")])
def test_a_run_is_a_row_of_score_parameters_time_and_peak_memory(memory: float, shown: str) -> None:
    record = xr.Dataset(
        {
            "score": 0.81,
            "trainable_parameters": ("part", [12_345, 770]),
            "seconds": 61.25,
            "seconds_per_step": 0.4321,
            "peak_memory": memory,
        },
        coords={"part": ["adapter", "head"]},
        attrs={"score_metrics": json.dumps(["accuracy", "f1"])},
    )
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(record_table({"mine": record}))
    lines = console.export_text().splitlines()
    head = next(line for line in lines if "accuracy and f1" in line)
    assert "peak MiB" in head
    row = next(line for line in lines if "mine" in line)
    cells = [cell.strip() for cell in row.strip("│┃ ").split("│")]
    assert cells == ["mine", "0.8100", "12,345", "770", "61.2", "432", shown]
