"""What a report shows of training records: loss by step, and a row of scores and costs for each."""

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from gelora.netcdf import json_attribute
from gelora.palette import COLORS
from gelora.report.charts import escaped, figure
from gelora.report.pieces import Chart, Table, number, row

_LOSSES = ("first loss", "median loss", "last loss")
_MOST_STEPS = 2000  # of a line: more are not seen


def records_chart(records: Mapping[str, xr.Dataset]) -> Chart:
    """Return the training loss of each record by step of the optimiser, and the table of scores and costs."""
    traces = []
    for index, (name, record) in enumerate(records.items()):
        every = max(1, record.sizes["step"] // _MOST_STEPS)
        loss = record["loss"].values[::every]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": escaped(name),
                "x": [int(step) for step in record["step"].values[::every]],
                "y": [float(value) if np.isfinite(value) else None for value in loss],
                "line": {"color": COLORS[index % len(COLORS)]},
                "hovertemplate": "%{y:.3f}",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "step of the optimiser"}},
        "yaxis": {"title": {"text": "training loss"}, "rangemode": "tozero"},
        "hovermode": "x unified",
        "showlegend": len(traces) > 1,
    }
    table = records_table(records)
    return Chart(
        name="records", title="Training loss by step", figures={"": figure(traces, layout)}, height=320, table=table
    )


def records_table(records: Mapping[str, xr.Dataset]) -> Table:
    """Return score, trained parameters, time and losses of each record."""
    rows = []
    for name, record in records.items():
        parts = record["trainable_parameters"]
        metrics = json_attribute(record, "score_metrics", "`record`")
        score = " and ".join(str(one) for one in metrics) if isinstance(metrics, list) else ""
        rows.append(
            row(
                name,
                str(record.attrs.get("task", "")),
                str(record.attrs.get("adapter", "")),
                f"{float(record['score']):.4f}" + (f" ({score})" if score else ""),
                f"{int(parts.sel(part='adapter')):,}",
                f"{int(parts.sel(part='head')):,}",
                number(float(record["seconds"])),
                f"{record.sizes['step']:,}",
                *(number(loss, 4) for loss in _losses(record)),
            )
        )
    return Table(
        caption="Score of the last evaluation on the validation rows; trained parameters of the adapter and the head; "
        "training loss at the first step, its median over the steps, and at the last",
        head=["run", "task", "adapter", "score", "adapter parameters", "head parameters", "seconds", "steps", *_LOSSES],
        rows=rows,
        left=frozenset({0, 1, 2}),
    )


def _losses(record: xr.Dataset) -> tuple[float, float, float]:
    """Return the first, the median and the last training loss; NaN where there is none, the median of finite ones."""
    loss = record["loss"].values
    finite = loss[np.isfinite(loss)]
    if not finite.size:
        return math.nan, math.nan, math.nan
    return float(loss[0]), float(np.median(finite)), float(loss[-1])
