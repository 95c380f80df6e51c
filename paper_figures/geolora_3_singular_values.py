"""Singular values of GeoLoRA's coefficients S over a run: those that are kept, and those on trial.

Usage: python paper_figures/geolora_3_singular_values.py [--values file] [--output folder]
"""

import json

import numpy as np
import xarray as xr
from drawing import INPUTS, PAGE, new_figure, read_arguments

from gelora.palette import COLORS

FLOOR = 1e-3  # values below it are off the logarithmic axis


def draw_spectrum(axes, step, values, kept):
    """Draw every singular value over the steps, as many as the last truncation kept in blue, the others in orange."""
    place = np.arange(values.shape[1])
    is_kept = place[None, :] < kept[:, None]
    for chosen, style in ((~is_kept, {"color": COLORS[4], "linewidth": 0.6}), (is_kept, {"color": COLORS[0]})):
        axes.plot(step, np.where(chosen & (values > FLOOR), values, np.nan), **{"linewidth": 0.9} | style)
    axes.set(yscale="log", ylim=(FLOOR, None))


def main():
    """Draw a panel for each matrix."""
    arguments = read_arguments(__doc__, values=INPUTS / "singular_values.nc")
    with xr.open_dataset(arguments.values, engine="h5netcdf") as stored:
        found = stored.load()
    setting, measured = (json.loads(found.attrs[name]) for name in ("setting", "origin"))
    every = int(found["step"][2] - found["step"][1])
    below = int((found["singular_value"] <= FLOOR).sum())
    origin = (
        f"all-MiniLM-L6-v2, not the paper's DeBERTaV3-base; SST-2, {setting['steps']} steps of {setting['batch_size']} "
        f"rows, τ = {setting['tolerance']}, rate {setting['learning_rate']}, from rank {setting['start']}, one seed; "
        f"accuracy {100 * found.attrs['score']:.0f} % on {setting['n_validation']} rows. Bases move every "
        f"{setting['interval']} steps and stay for the last tenth; values every {every} steps, "
        f"{below:,} below {FLOOR:g} not drawn. {measured['date']}."
    )
    matrices = found["matrix"].values
    with new_figure(arguments.output, "geolora-3-singular-values", size=(PAGE, 3.8), made_from=origin) as figure:
        axes = figure.subplots(2, len(matrices) // 2, sharex=True, sharey=True)
        # By block from left to right, a row for each role.
        order = sorted(range(len(matrices)), key=lambda place: (matrices[place].split(", ")[::-1], place))
        for panel, place in zip(axes.flat, order, strict=True):
            kept = found["kept_rank"].sel(module=found["matrix_module"].values[place]).values
            draw_spectrum(panel, found["step"].values, found["singular_value"].values[:, place], kept)
            panel.set_title(f"{matrices[place]}: rank {kept[0]} → {kept[-1]}", loc="left")
        for panel in axes[-1]:
            panel.set_xlabel("step of the optimiser")
        figure.supylabel("singular value of S (log)", fontsize=8)
        axes[0, 0].plot([], [], color=COLORS[0], label="kept by the last truncation")
        axes[0, 0].plot([], [], color=COLORS[4], label="on trial")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)


if __name__ == "__main__":
    main()
