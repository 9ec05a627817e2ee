"""Curves of trainings."""

from __future__ import annotations

import numpy as np

from paddleseg_psp.visual.text import name_entries

_PANELS = (("Train", "loss"), ("Train", "lr"), ("Evaluate", "mIoU"))
_SMOOTHED = 25  # a loss is averaged over this part of the run, 1/25


def draw_curves(runs: dict, path: str) -> None:
    """Writes a picture of loss, learning rate and mIoU over the iterations.

    Args:
        runs: for each run's name its records, as `read_records` gives them.
        path: a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (group, key) in zip(figure.subplots(1, len(_PANELS)), _PANELS):
        axes.set(title=key, xlabel="iteration")
        axes.grid(alpha=0.3)
        names = []
        for index, (name, records) in enumerate(runs.items()):
            points = [(item["iteration"], item[key]) for item in records if item["group"] == group and item[key] is not None]
            if not points:
                continue
            x, y = np.array(points).T
            style = {"color": f"C{index}", "marker": "o" if group == "Evaluate" else None}
            window = len(y) // _SMOOTHED
            if key == "loss" and window > 1:
                axes.plot(x, y, color=style["color"], alpha=0.25)
                x, y = x[window - 1 :], np.convolve(y, np.full(window, 1 / window), "valid")
            axes.plot(x, y, label="…", **style)
            names.append(name)
        if len(runs) > 1 and axes.lines:
            name_entries(axes.legend(), names)
    figure.savefig(path, dpi=100, format="png")
