import base64
import io
import json
import os

import numpy as np
import pytest
from helpers import run_tool
from PIL import Image

HEIGHT, WIDTH = 30, 40


def shape(label, kind, *points, **more):
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points], **more}


def mask(values):
    content = io.BytesIO()
    Image.fromarray(np.asarray(values, bool)).save(content, "png")
    return base64.b64encode(content.getvalue()).decode()


@pytest.fixture
def convert(tmp_path, capfd):
    """Returns a function that writes labelme's files {name: shapes}, converts them, and gives the process."""

    def run(files):
        for name, shapes in files.items():
            path = tmp_path / "photos" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {
                "version": "5.5.0",
                "imagePath": f"{name}.jpg",
                "imageHeight": HEIGHT,
                "imageWidth": WIDTH,
                "shapes": shapes,
            }
            path.write_text(json.dumps(content), encoding="utf-8")
        return run_tool("tools/data/labelme2seg.py", [tmp_path / "photos", "--save_dir", tmp_path / "labels"], capfd)

    run.label = lambda name: np.asarray(Image.open(tmp_path / "labels" / f"{name}.png"))
    run.names = lambda: (tmp_path / "labels" / "class_names.txt").read_text().splitlines()
    return run


def test_every_kind_of_shape(convert):
    inside = np.zeros((5, 6), bool)
    inside[1:3, 2:5] = True
    shapes = [
        shape("leaf", "polygon", (0, 0), (19, 0), (19, 9), (0, 9)),
        shape("stem", "rectangle", (25, 12), (15, 5)),  # drawn from below, over the polygon
        shape("leaf", "mask", (30, 20), (35, 24), mask=mask(inside)),
        shape("__ignore__", "polygon", (0, 25), (39, 25), (39, 29), (0, 29)),
        shape("_background_", "rectangle", (2, 2), (3, 3)),
        shape("stem", "circle", (8, 18), (8, 14)),
    ]
    process = convert({"a": shapes, "sub/ü": []})
    assert process.returncode == 0, process.stderr
    assert convert.names() == ["_background_", "leaf", "stem"]
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[:10, :20], expected[5:13, 15:26], expected[21:23, 32:35], expected[25:], expected[2:4, 2:4] = 1, 2, 1, 255, 0
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(columns - 8, rows - 18)
    label = convert.label("a")
    sure = (distance < 3.5) | (distance > 4.5)  # the edge of a circle is a matter of taste
    np.testing.assert_array_equal(label[sure], np.where(distance < 4, 2, expected)[sure])
    assert not convert.label("sub/ü").any()


def test_indices_stay_when_more_is_labelled(convert, tmp_path):
    square = (0, 0), (5, 5)
    convert({"a": [shape("leaf", "rectangle", *square)], "b": []})
    for name in ("a", "b"):
        os.utime(tmp_path / "labels" / f"{name}.png", (1e9 if name == "a" else 2e9,) * 2)
    process = convert({"a": [shape("bark", "rectangle", *square)], "b": []})
    assert "1 labels written, 1 were there" in process.stdout
    assert convert.names() == ["_background_", "leaf", "bark"] and convert.label("a")[0, 0] == 2


def test_wrong_files(convert, tmp_path):
    process = convert({"a": [shape("leaf", "line", (0, 0), (5, 5))]})
    assert process.returncode == 1 and "a.json cannot be read: the line 'leaf' has no area" in process.stderr
    (tmp_path / "photos" / "a.json").write_text('{"shapes": [')
    process = convert({})
    assert process.returncode == 1 and "a.json is no file of labelme: JSONDecodeError" in process.stderr
    os.unlink(tmp_path / "photos" / "a.json")
    process = convert({})
    assert process.returncode == 1 and "there is no .json file below" in process.stderr
