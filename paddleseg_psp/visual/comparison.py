"""One picture that shows images beside their labels and predictions."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from paddleseg_psp.visual.masks import IGNORED, colorize
from paddleseg_psp.visual.text import draw_text, labels, text_width

_INK, _PAPER = (40, 40, 40), 255
_PANEL_WIDTH, _MARGIN, _LINE, _TEXT = 320, 8, 22, 13  # pixels
_LONGEST_PANEL = 4 * _PANEL_WIDTH
_COLUMN, _PATCH = 160, 22  # of the legend, at least, and of the color in it


def draw_comparison(
    rows: Sequence[tuple[np.ndarray, Sequence[np.ndarray]]],
    titles: Sequence[str],
    class_names: Sequence[str],
    colors: np.ndarray,
) -> np.ndarray:
    """Returns a picture [H, W, 3] (blue, green, red) uint8: a row per image, columns for it and its class maps.

    Args:
        rows: (image [h, w, 3] uint8, list of class maps [h, w]) pairs.
        titles: of the class maps.
        class_names: names; the legend has the classes that occur, with their index where no font shows the name.
        colors: uint8 [256, 3] (red, green, blue), see `color_map`.
    """
    lines = [_titles(["image", *titles])]
    for image, maps in rows:
        lines.append(_row([image, *(colorize(classes, colors) for classes in maps)]))
    width = lines[0].shape[1]
    names = {**dict(enumerate(labels(class_names))), IGNORED: "ignored"}
    occurring = np.unique(np.concatenate([classes.ravel() for _, maps in rows for classes in maps]))
    lines.append(_legend([(names[index], colors[index % len(colors)]) for index in occurring if index in names], width))
    return np.concatenate(lines)


def draw_panels(rows: Sequence) -> np.ndarray:
    """Returns a picture of rows of panels, under the titles of the first row.

    Args:
        rows: lists of (title, image [h, w, 3] uint8), equally long.
    """
    return np.concatenate([_titles([title for title, _ in rows[0]]), *(_row([panel for _, panel in row]) for row in rows)])


def _row(panels):
    """Returns panels side by side; the size of the first one sets the layout."""
    height, width = panels[0].shape[:2]
    scale = min(_PANEL_WIDTH / width, _LONGEST_PANEL / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    panels = [cv2.resize(panel, size, interpolation=cv2.INTER_NEAREST) for panel in panels]
    rest = _PANEL_WIDTH - size[0]
    paper = {"borderType": cv2.BORDER_CONSTANT, "value": (_PAPER,) * 3}
    row = np.concatenate([cv2.copyMakeBorder(panel, 0, _MARGIN, _MARGIN, rest, **paper) for panel in panels], axis=1)
    return cv2.copyMakeBorder(row, 0, 0, 0, _MARGIN, **paper)


def _titles(titles):
    strip = np.full((_LINE + _MARGIN, len(titles) * (_PANEL_WIDTH + _MARGIN) + _MARGIN, 3), _PAPER, np.uint8)
    for column, title in enumerate(titles):
        draw_text(strip, title, (column * (_PANEL_WIDTH + _MARGIN) + _MARGIN, _LINE // 2 + 2), _TEXT, _INK)
    return strip


def _legend(entries, width):
    column = max([_COLUMN, *(text_width(name, _TEXT) + _PATCH + 2 * _MARGIN for name, _ in entries)])
    per_line = max(1, (width - _MARGIN) // column)
    strip = np.full((-(-len(entries) // per_line) * _LINE + _MARGIN, width, 3), _PAPER, np.uint8)
    for place, (name, color) in enumerate(entries):
        x, y = place % per_line * column + _MARGIN, place // per_line * _LINE
        cv2.rectangle(strip, (x, y + 3), (x + 16, y + 17), color[::-1].tolist(), -1)
        draw_text(strip, name, (x + _PATCH, y + 10), _TEXT, _INK)
    return strip
