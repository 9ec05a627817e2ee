import errno
import os

import cv2
import numpy as np
import pytest
from PIL import Image

from paddleseg_psp.errors import UserError
from paddleseg_psp.visual import (
    color_map,
    colorize,
    draw_curves,
    draw_legend,
    overlay,
    save_classes,
    save_index_png,
    write_image,
)
from paddleseg_psp.visual.comparison import draw_comparison
from tests.helpers import run_python

PALETTE = [(200, 10, 20), (30, 40, 250)]
CLASSES = np.array([[0, 1], [1, 255]], np.uint8)


def test_color_map_has_the_palette_then_more_and_black_for_ignored():
    colors = color_map(PALETTE)
    assert colors.shape == (256, 3) and colors.dtype == np.uint8
    assert colors[:2].tolist() == [list(color) for color in PALETTE]
    assert colors[2].any() and not colors[255].any()


def test_colors_are_written_blue_first():
    expected = [[[20, 10, 200], [250, 40, 30]], [[250, 40, 30], [0, 0, 0]]]
    assert colorize(CLASSES, color_map(PALETTE)).tolist() == expected


def test_overlay_mixes():
    image = np.full((2, 2, 3), 100, np.uint8)
    mixed = overlay(image, CLASSES, color_map(PALETTE), image_weight=0.25)
    np.testing.assert_allclose(mixed, 25 + 0.75 * colorize(CLASSES, color_map(PALETTE)), atol=1)


def test_index_png_keeps_the_indices(tmp_path):
    save_index_png(tmp_path / "map.png", CLASSES, color_map(PALETTE))
    image = Image.open(tmp_path / "map.png")
    np.testing.assert_array_equal(np.asarray(image), CLASSES)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colorize(CLASSES, color_map(PALETTE))[..., ::-1])


def test_more_classes_than_a_palette_holds(tmp_path):
    classes, colors = np.array([[0, 300], [256, 1]], np.int32), color_map(PALETTE)
    save_classes(str(tmp_path / "ids.png"), classes)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "ids.png")), classes)
    save_index_png(str(tmp_path / "map.png"), classes, colors)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "map.png")), colors[classes % 256])


def test_legend_shows_each_color(tmp_path):
    entries = [(f"class {index}", (index, 255 - index, 100)) for index in range(45)]
    draw_legend(entries, tmp_path / "legend.png")
    seen = set(map(tuple, np.asarray(Image.open(tmp_path / "legend.png").convert("RGB")).reshape(-1, 3).tolist()))
    assert all(color in seen for _, color in entries)


def test_comparison_shows_each_map_in_its_colors():
    colors = color_map(PALETTE)
    image = np.full((40, 80, 3), 77, np.uint8)
    maps = [np.zeros((40, 80), np.uint8), np.ones((40, 80), np.uint8), np.full((40, 80), 255, np.uint8)]
    picture = draw_comparison([(image, maps), (image, maps)], ["label", "a", "b"], ["zero", "one"], colors)
    width = picture.shape[1] // 4
    row = picture[100]  # through the first row of panels
    assert row[width // 2].tolist() == [77, 77, 77]
    for column, color in enumerate((PALETTE[0], PALETTE[1], (0, 0, 0)), 1):
        assert row[column * width + width // 2].tolist() == list(color[::-1])
    legend = picture[-25:].reshape(-1, 3)
    for color in (*PALETTE, (0, 0, 0)):
        assert (legend == color[::-1]).all(1).any()


def test_picture_of_predictions(tiny_data, tmp_path):
    images, labels = tiny_data / "leftImg8bit" / "val", tiny_data / "gtFine" / "val"
    for label in labels.rglob("*_labelTrainIds.png"):
        target = tmp_path / "maps" / label.parent.name / label.name.replace("_gtFine_labelTrainIds", "_leftImg8bit")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(label.read_bytes())
    command = ["tools/compare_predictions.py", "--image_dir", images, "--label_dir", labels, "--save_path", tmp_path / "p.png"]
    process = run_python([*command, "--prediction", f"copied={tmp_path / 'maps'}", "--rows", 2])
    assert process.returncode == 0 and f"2 of 3 images are shown in {tmp_path / 'p.png'}" in process.stdout
    picture = np.asarray(Image.open(tmp_path / "p.png"))
    label, copied = (picture[40:500, 8 + column * 328 : 328 + column * 328] for column in (1, 2))  # panels of 320 pixels
    np.testing.assert_array_equal(label, copied)
    assert len(np.unique(label.reshape(-1, 3), axis=0)) > 3
    process = run_python([*command, "--prediction", f"gone={tmp_path / 'gone'}"])
    assert process.returncode == 1 and process.stderr.splitlines()[-1].startswith("Error: ")


def test_curves(tmp_path):
    """Two runs show as lines of two colors, the upper one in the loss's panel being the one with the larger loss."""
    runs = {
        name: [{"group": "Train", "iteration": i, "loss": loss, "lr": 0.1} for i in range(1, 200)]
        + [{"group": "Evaluate", "iteration": 100, "mIoU": None}]
        for name, loss in (("low", 1.0), ("high", 2.0))
    }
    path = tmp_path / "curves.png"
    draw_curves(runs, str(path))
    panel = cv2.imread(str(path))[:, :500].astype(int)
    blue, orange = ((np.abs(panel - color[::-1]).sum(-1) < 30) for color in ((31, 119, 180), (255, 127, 14)))
    rows = [np.median(np.nonzero(mask)[0]) for mask in (blue, orange)]
    assert rows[1] < rows[0] - 100
    runs["low"][5]["loss"] = None  # not finite
    draw_curves({"": runs["low"]}, str(path))


@pytest.mark.parametrize("name", [b"a.png", b"caf\xe9.PNG", b"x" * 251 + b".bmp", b"a.tif", b"a.jpg", b"a.webp"])
def test_pictures_of_any_name(tmp_path, name):
    path = os.fsdecode(os.path.join(os.fsencode(tmp_path), name))
    picture = np.tile(np.arange(0, 240, 6, dtype=np.uint8)[:, np.newaxis, np.newaxis], (1, 30, 3))
    write_image(path, picture)
    with open(path, "rb") as file:
        read = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    assert np.abs(read.astype(int) - picture).max() <= (6 if name.endswith((b"jpg", b"webp")) else 0)


def test_a_full_disk_is_said(tmp_path):
    os.symlink("/dev/full", tmp_path / "a.png")
    with pytest.raises(OSError) as caught:
        write_image(str(tmp_path / "a.png"), np.zeros((9, 9, 3), np.uint8))
    assert caught.value.errno == errno.ENOSPC


def test_pictures_that_no_file_takes(tmp_path):
    with pytest.raises(UserError, match="a.docx: pictures are written to .png"):
        write_image(str(tmp_path / "a.docx"), np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(UserError, match="20000x9 pixels does not fit into a .webp file"):
        write_image(str(tmp_path / "a.webp"), np.zeros((9, 20000, 3), np.uint8))
    assert not os.listdir(tmp_path)
