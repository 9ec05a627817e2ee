"""Names in pictures: in whatever script, different ones look different."""

import cv2
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager, get_data_path

from paddleseg_psp import log
from paddleseg_psp.visual import (
    color_map,
    draw_comparison,
    draw_confusion_matrix,
    draw_curves,
    draw_legend,
    draw_panels,
    draw_throughput,
)
from paddleseg_psp.visual.text import labels, shown, text_width

BACKGROUND, ROAD = "\u80cc\u666f", "\u9053\u8def"
IMAGE, ZEROS = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)


@pytest.fixture
def install(monkeypatch, tmp_path):
    """Returns a function that makes these files the machine's fonts: at first one that draws boxes and one that is none."""

    def install(*paths):
        shown.cache_clear()
        log.warn_once.cache_clear()
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path) for path in paths])

    (tmp_path / "broken.ttf").write_text("no font")
    install(f"{get_data_path()}/fonts/ttf/LastResortHE-Regular.ttf", tmp_path / "broken.ttf")
    yield install
    shown.cache_clear()


def make_font(path, characters):
    """Writes a font whose glyphs are squares, the wider the later the character is in the list."""
    names = [".notdef", *(f"glyph{index}" for index in range(len(characters)))]
    font, glyphs = FontBuilder(1000), {}
    for index, name in enumerate(names):
        pen = TTGlyphPen(None)
        corners = [(0, 0), (0, 700), (100 * index + 100, 700), (100 * index + 100, 0)]
        pen.moveTo(corners[0])
        for corner in corners[1:]:
            pen.lineTo(corner)
        pen.closePath()
        glyphs[name] = pen.glyph()
    font.setupGlyphOrder(names)
    font.setupCharacterMap(dict(zip(map(ord, characters), names[1:])))
    font.setupGlyf(glyphs)
    font.setupHorizontalMetrics({name: (1000, 0) for name in names})
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(path)
    return str(path)


def drawn(path):
    picture = cv2.imread(str(path))
    assert picture is not None and picture.std() > 0
    return picture


def comparison(name, path):
    cv2.imwrite(path, draw_comparison([(IMAGE, [ZEROS])], ["label"], [name], color_map(None)))


PICTURES = {
    "comparison": comparison,
    "panels": lambda name, path: cv2.imwrite(path, draw_panels([[(name, IMAGE)]])),
    "legend": lambda name, path: draw_legend([(name, (1, 2, 3))], path),
    "confusion": lambda name, path: draw_confusion_matrix(np.eye(2, dtype=int), [name, "x"], path),
    "throughput": lambda name, path: draw_throughput([(name, 1, 1.0), (name, 2, 2.0)], "title", path),
    "curves": lambda name, path: draw_curves(
        {key: [{"group": "Train", "iteration": 1, "loss": 1.0, "lr": 1.0}] for key in (name, "other")}, path
    ),
}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("with_font", [False, True], ids=["without a font", "with a font"])
def test_different_names_look_different(tmp_path, install, picture, with_font):
    if with_font:
        install(make_font(tmp_path / "squares.ttf", BACKGROUND + ROAD + "lp"))  # the last two matplotlib measures lines by
    same = (2 if picture == "panels" else 4) * BACKGROUND  # long names differ at their end; titles are cut off
    for first, second in ((BACKGROUND, ROAD), (same + BACKGROUND, same + ROAD), ("caf\u00e9", "caf\u00e8"), ("_a", "_b")):
        for name, path in ((first, "first.png"), (second, "second.png")):
            PICTURES[picture](name, str(tmp_path / path))
        first, second = drawn(tmp_path / "first.png"), drawn(tmp_path / "second.png")
        assert first.shape != second.shape or not np.array_equal(first, second)


@pytest.mark.parametrize("name", ["$\\frac{", "100 $", "two\nlines", "caf\udce9", "\U0001f600", ""])
@pytest.mark.parametrize("picture", PICTURES)
def test_any_name_can_be_drawn(tmp_path, install, picture, name):
    PICTURES[picture](name, str(tmp_path / "picture.png"))
    drawn(tmp_path / "picture.png")


def test_what_no_font_has_is_escaped_and_told_once(install, capsys):
    assert shown("road")[0] == "road" and not capsys.readouterr().out
    assert shown(f"caf\u00e9 {ROAD}\n")[0] == "caf\u00e9 \\u9053\\u8def\\n"
    assert labels(["road", ROAD]) == ["road", f"1: {ROAD}"]
    (line,) = capsys.readouterr().out.splitlines()
    assert "No font on this machine has the characters of some names" in line and "fonts-noto-cjk" in line


def test_an_installed_font_is_found(tmp_path, install, capsys):
    partial = make_font(tmp_path / "a.ttf", BACKGROUND)
    whole = make_font(tmp_path / "b.ttf", BACKGROUND + ROAD)
    install(partial, whole)
    assert shown(BACKGROUND) == (BACKGROUND, partial) and shown(BACKGROUND + ROAD) == (BACKGROUND + ROAD, whole)
    assert labels([ROAD]) == [ROAD] and text_width(ROAD, 20) == 40  # each character is as wide as it is high
    assert not capsys.readouterr().out


@pytest.mark.parametrize("height, width", [(1, 1000), (1000, 1), (2, 4000), (5000, 3)])
def test_images_of_any_shape(height, width):
    image, classes = np.full((height, width, 3), 7, np.uint8), np.ones((height, width), np.uint8)
    picture = draw_comparison(
        [(image, [classes]), (IMAGE, [ZEROS])], ["label"], ["zero", "one"], color_map([(9, 9, 9), (8, 8, 8)])
    )
    assert max(picture.shape) < 3000
    for color in (7, 8):  # image and label are there
        assert (picture == color).all(-1).any()
