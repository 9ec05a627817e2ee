"""The legend of colors and classes."""

from __future__ import annotations

from collections.abc import Sequence

from paddleseg_psp.visual.text import name_entries

_ROWS = 30  # of a column


def draw_legend(entries: Sequence, path: str) -> None:
    """Writes a picture of colors and what they mean.

    Args:
        entries: (text, (red, green, blue)) pairs.
        path: a PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = -(-len(entries) // _ROWS)
    figure = Figure(figsize=(3 * columns, 0.3 + 0.25 * min(len(entries), _ROWS)))
    FigureCanvasAgg(figure)
    patches = [Patch(color=tuple(value / 255 for value in color), label="…") for _, color in entries]
    legend = figure.legend(handles=patches, loc="center", ncols=columns, frameon=False)
    name_entries(legend, [text for text, _ in entries])
    figure.savefig(path, dpi=100, format="png", bbox_inches="tight")  # as wide as the texts are
