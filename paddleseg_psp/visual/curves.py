"""Curves of trainings."""

import numpy as np

_SMOOTHED = 20  # points


def draw_curves(runs, path):
    """Writes a picture of loss, learning rate and evaluations over the iterations.

    Args:
        runs (dict): for each run's name its records, as `read_records` gives them.
        path (str): a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("Train", "loss"), ("Train", "lr"), ("Evaluate", "mIoU"))
    for axes, (group, key) in zip(figure.subplots(1, 3), panels):
        axes.set(title=key, xlabel="iteration")
        axes.grid(alpha=0.3)
        for index, (name, records) in enumerate(runs.items()):
            points = [(item["iteration"], item[key]) for item in records if item["group"] == group and item[key] is not None]
            if not points:
                continue
            x, y = np.array(points).T
            color = f"C{index}"
            if key == "loss" and len(y) > _SMOOTHED:
                axes.plot(x, y, color=color, alpha=0.25)
                y = _smoothed(y)
            axes.plot(x, y, color=color, label=name, marker="o" if group == "Evaluate" else None)
        if len(runs) > 1:
            axes.legend()
    figure.savefig(path, dpi=100, format="png")


def _smoothed(values):
    """Returns the mean of each value and those before it, up to _SMOOTHED of them."""
    sums = np.concatenate([[0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - _SMOOTHED, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
