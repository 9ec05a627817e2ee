"""A confusion matrix as a picture."""

from __future__ import annotations

import numpy as np

from paddleseg_psp.visual.text import labels, show, shown


def draw_confusion_matrix(counts: np.ndarray, names: list[str], path: str) -> None:
    """Writes a picture of which class is taken for which: each row is a label's class, in shares of its pixels.

    Args:
        counts: int64 [classes, classes], label by prediction.
        names: of the classes.
        path: a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    counts, total = np.asarray(counts, float), np.sum(counts, axis=1, keepdims=True)
    shares = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    side = 1 + 0.32 * len(names)
    figure = Figure(figsize=(side + 1, side))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="prediction", ylabel="label", xticks=range(len(names)), yticks=range(len(names)))
    names = labels(names)
    for axis, rotation in ((axes.xaxis, 90), (axes.yaxis, 0)):
        axis.set_ticklabels([shown(name)[0] for name in names], rotation=rotation, fontsize=8)
        for artist, name in zip(axis.get_ticklabels(), names):
            show(artist, name)
    if len(names) <= 40:  # more would not be legible
        for row, column in np.argwhere(shares >= 0.005):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", fontsize=6, color=color)
    figure.colorbar(image, ax=axes, shrink=0.6, label="share of the label's pixels")
    figure.savefig(path, dpi=110, format="png", bbox_inches="tight")  # the names around it, however long, add to its size
