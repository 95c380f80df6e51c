"""What a report shows of the rises of a dimension, which ranks are made of."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from gelora.evidence import rise_intervals
from gelora.palette import COLORS
from gelora.report.charts import block_names, figure
from gelora.report.pieces import Chart, Table, number, row


def rises_chart(profile: xr.Dataset, labels: Sequence[str]) -> Chart | None:
    """Return the rise over each block with its interval, by estimator; None where none has replicates enough."""
    found = {label: one for label in labels if (one := _rises(profile, label)) is not None}
    if not found:
        return None
    return Chart(
        name="rises",
        title="Rise of the dimension over each block, with 95 % intervals",
        figures={label: _figure(rises) for label, rises in found.items()},
        choices={"Estimator": list(found)},
        height=320,
        table=_table(found),
    )


def _rises(profile: xr.Dataset, label: str) -> xr.Dataset | None:
    if "dimension_replicates" not in profile.variables:
        return None
    try:
        rises = rise_intervals(profile, label)
    except ValueError:  # undefined on too many halves
        return None
    return rises if rises.sizes["block"] and bool(np.isfinite(rises["standard_error"].values).any()) else None


def _names(rises: xr.Dataset) -> list[str]:
    return block_names([(str(s), int(b)) for s, b in zip(rises["stack"].values, rises["block"].values, strict=True)])


def _figure(rises: xr.Dataset) -> dict[str, Any]:
    value, high, low = (rises[name].values for name in ("rise", "ci_high", "ci_low"))
    known = np.isfinite(value)
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": "rise",
        "x": _names(rises),
        "y": [float(one) if is_known else None for one, is_known in zip(value, known, strict=True)],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": np.nan_to_num(high - value, posinf=0.0).tolist(),
            "arrayminus": np.nan_to_num(value - low, posinf=0.0).tolist(),
            "thickness": 1.5,
            "width": 5,
        },
        "hovertemplate": "%{y:.2f}",
        "marker": {"color": COLORS[0], "size": 10},
    }
    layout = {
        "xaxis": {"title": {"text": "block"}, "type": "category"},
        "yaxis": {"title": {"text": "rise of the dimension"}, "zeroline": True, "zerolinecolor": COLORS[-1]},
        "showlegend": False,
    }
    return figure([points], layout)


def _table(found: dict[str, xr.Dataset]) -> Table:
    rows = []
    for label, rises in found.items():
        for place, name in enumerate(_names(rises)):
            one = rises.isel(block=place)
            values = [float(one[key]) for key in ("rise", "standard_error", "ci_low", "ci_high")]
            rows.append(row(label, name, *(number(value, 2) for value in values)))
    return Table(
        caption="Rise of the dimension over each block: standard error, and ends of the 95 % interval",
        head=["estimator", "block", "rise", "standard error", "from", "to"],
        rows=rows,
    )
