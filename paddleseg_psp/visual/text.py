"""Text in pictures in any script for which the machine has a font."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddleseg_psp.log import warn_once


@functools.lru_cache(maxsize=None)
def shown(text: str) -> tuple[str, str]:
    """Returns a text in a form that can be drawn, and the font file for it.

    The font is matplotlib's, or else an installed one that has all its characters. Where none has, those that matplotlib's
    lacks are escaped (\\u9053), so that different names stay different, and a warning says so.
    """
    from matplotlib import font_manager, get_data_path

    usual = os.path.join(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    installed = [path for path in font_manager.findSystemFonts() if "lastresort" not in path.lower()]  # it draws boxes
    installed.sort(key=lambda path: ("regular" not in path.lower(), path))
    needed = {ord(character) for character in text}
    for path in (usual, *installed):
        if text.isprintable() and needed <= _characters(path):
            return text, path
    warn_once(
        "No font on this machine has the characters of some names, which pictures show escaped: for Chinese, Japanese and "
        "Korean install one, such as Debian's fonts-noto-cjk or fonts-wqy-zenhei"
    )
    return "".join(
        character if character.isprintable() and ord(character) in _characters(usual) else ascii(character)[1:-1]
        for character in text
    ), usual


def labels(class_names: Sequence[str]) -> list[str]:
    """Returns the names of classes for a picture; the index comes first if no font can show the name."""
    return [name if shown(name)[0] == name else f"{index}: {name}" for index, name in enumerate(class_names)]


@functools.lru_cache(maxsize=None)
def _characters(path):
    """Returns the code points that a font of outlines has, as a set."""
    from matplotlib.ft2font import FT2Font

    with contextlib.suppress(RuntimeError, OSError):  # not every file there is a font
        font = FT2Font(path)
        if font.scalable:
            return frozenset(font.get_charmap())
    return frozenset()


def draw_text(picture: np.ndarray, text: str, at: tuple[int, int], size: int, color: tuple[int, int, int]) -> None:
    """Draws a text into a picture [H, W, 3] uint8.

    Args:
        at: (x, y) of its left end and the middle of its line.
        size: of the font in pixels.
        color: in the picture's order.
    """
    text, font = shown(text)
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text(at, text, fill=color, font=_font(font, size), anchor="lm")
    picture[:] = np.asarray(image)


def text_width(text: str, size: int) -> int:
    """Returns how many pixels wide a text is."""
    text, font = shown(text)
    return round(_font(font, size).getlength(text))


@functools.lru_cache(maxsize=None)
def _font(path, size):
    return ImageFont.truetype(path, size)


def show(artist: Any, text: str) -> None:
    """Makes one of matplotlib's Text objects show a text, as it is, in its size."""
    from matplotlib.font_manager import FontProperties

    text, font = shown(text)
    artist.set(text=text, fontproperties=FontProperties(fname=font, size=artist.get_fontsize()), parse_math=False)


def name_entries(legend: Any, names: Sequence[str]) -> None:
    """Gives the entries of one of matplotlib's legends their names, which it would leave out where they begin with _."""
    for artist, name in zip(legend.get_texts(), names):
        show(artist, name)
