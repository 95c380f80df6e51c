"""GeoLoRA's ranks over training, from several starting ranks.

Usage: python paper_figures/geolora_1_ranks.py [--runs docs/benchmarks/geolora_ranks.nc] [--output folder]

The paper (arXiv 2410.18720) claims that the ranks a run ends with do not depend on those it starts with.
"""

import json

import xarray as xr
from drawing import COLUMN, RESULTS, new_figure, read_arguments

from gelora.plots import plot_rank_history


def main():
    """Draw one line a run, its last mean rank in the legend."""
    arguments = read_arguments(__doc__, runs=RESULTS / "geolora_ranks.nc", setting=RESULTS / "adapters.json")
    setting = json.loads(arguments.setting.read_text(encoding="utf-8"))["ranks"]
    with xr.open_datatree(arguments.runs, engine="h5netcdf") as tree:
        runs = {name.replace("_", " "): node.to_dataset().load() for name, node in tree.children.items()}
    runs = dict(sorted(runs.items(), key=lambda entry: int(entry[0].split()[-1])))
    ends = {f"{name}, ends at {run['rank_history'].values[-1].mean():.1f}": run for name, run in runs.items()}
    learnt = any(row["score"] > 0 for row in setting["rows"].values())
    origin = (
        f"all-MiniLM-L6-v2, not the paper's DeBERTaV3-base; CoLA, {setting['steps']} steps of 16 sentences, "
        f"τ = {setting['tolerance']}, rate {setting['learning_rate']}, one seed. "
        f"Line: mean rank of 24 matrices; band: their middle half."
        f"{'' if learnt else ' No run learnt CoLA in so few steps.'} {setting['machine']['date']}."
    )
    with new_figure(arguments.output, "geolora-1-ranks", size=(COLUMN, 2.6), made_from=origin) as figure:
        plot_rank_history(ends, figure.subplots())


if __name__ == "__main__":
    main()
