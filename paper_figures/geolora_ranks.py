"""Draw how GeoLoRA's ranks move from several starting ranks, from the file that the benchmark wrote.

Usage: python paper_figures/geolora_ranks.py docs/benchmarks/geolora_ranks.nc --output folder
"""

import argparse
from pathlib import Path

import matplotlib as mpl
import xarray as xr
from matplotlib.figure import Figure

from gelora.plots import plot_rank_history

STYLE = Path(__file__).with_name("paper.mplstyle")


def main() -> None:
    """Read the file named on the command line and write the figure as PDF and PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="one group a run (.nc)")
    parser.add_argument("--output", type=Path, default=Path("figures"), help="folder to write to")
    arguments = parser.parse_args()

    with xr.open_datatree(arguments.runs, engine="h5netcdf") as tree:
        records = {name.replace("_", " "): node.to_dataset().load() for name, node in tree.children.items()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(5.5, 2.8), layout="constrained")
        plot_rank_history(records, figure.subplots())
        figure.savefig(arguments.output / "geolora-ranks.pdf", metadata={"CreationDate": None})
        figure.savefig(arguments.output / "geolora-ranks.png")
    print(f"written: {arguments.output / 'geolora-ranks'}.pdf, .png")


if __name__ == "__main__":
    main()
