"""A picture of images per second."""

from __future__ import annotations

from collections.abc import Sequence

from paddleseg_psp.visual.text import name_entries


def draw_throughput(points: Sequence, title: str, path: str) -> None:
    """Writes a picture of images a second over the batch size.

    Args:
        points: (name of a curve, batch size, images a second) triples.
        title: of the picture.
        path: a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = list(dict.fromkeys(name for name, _, _ in points))
    for name in names:
        own = sorted((size, rate) for other, size, rate in points if other == name)
        axes.plot(*zip(*own), marker="o", label="…")
    axes.set(title=title, xlabel="batch size", ylabel="images a second", xscale="log")
    axes.set_xticks(sorted({size for _, size, _ in points}), labels=sorted({size for _, size, _ in points}))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    name_entries(axes.legend(), names)
    figure.savefig(path, dpi=100, format="png")
