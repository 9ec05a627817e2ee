import base64
import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from tests.helpers import run_tool

HEIGHT, WIDTH = 30, 40


def shape(label, kind, *points, **more):
    return {"label": label, "shape_type": kind, "points": [list(point) for point in points], **more}


def mask(values):
    content = io.BytesIO()
    Image.fromarray(np.asarray(values, bool)).save(content, "png")
    return base64.b64encode(content.getvalue()).decode()


@pytest.fixture
def convert(tmp_path, capfd):
    """Returns a function that writes labelme's files {name: shapes}, converts them, and gives the process.

    `names` is what class_names.txt holds before, `changes` what is other in the files.
    """

    def run(files, names=None, encoding="utf-8", **changes):
        if names is not None:
            (tmp_path / "labels").mkdir(exist_ok=True)
            (tmp_path / "labels" / "class_names.txt").write_bytes(names)
        for name, shapes in files.items():
            path = tmp_path / "photos" / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            content = {
                "version": "5.5.0",
                "imagePath": f"{name}.jpg",
                "imageHeight": HEIGHT,
                "imageWidth": WIDTH,
                "shapes": shapes,
                **changes,
            }
            path.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
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
    process = convert({"a": []})
    (tmp_path / "photos" / "a.json").write_text('{"shapes": [')
    process = convert({})
    assert process.returncode == 1 and "a.json is no file of labelme: JSONDecodeError" in process.stderr
    os.unlink(tmp_path / "photos" / "a.json")
    process = convert({})
    assert process.returncode == 1 and "there is no .json file below" in process.stderr


def distance_to_segment(first, second):
    """Returns the distance of each pixel to a segment."""
    points = np.moveaxis(np.mgrid[:HEIGHT, :WIDTH][::-1], 0, -1).astype(float)
    first, second = np.array(first, float), np.array(second, float)
    along = np.clip((points - first) @ (second - first) / max(((second - first) ** 2).sum(), 1e-9), 0, 1)
    return np.linalg.norm(points - first - along[..., None] * (second - first), axis=-1)


@pytest.mark.parametrize(
    "kind, points, segments",
    [
        ("point", [(12, 14)], [((12, 14), (12, 14))]),
        ("points", [(12, 14), (28, 9)], [((12, 14), (12, 14)), ((28, 9), (28, 9))]),
        ("line", [(-20, -10), (59, 40)], [((-20, -10), (59, 40))]),
        ("linestrip", [(0, 8), (25, 8), (25, 29)], [((0, 8), (25, 8)), ((25, 8), (25, 29))]),
    ],
)
def test_points_and_lines_are_five_pixels_to_each_side(convert, kind, points, segments):
    """As in labelme's shape_to_mask: a radius of 5, a width of 10."""
    process = convert({"a": [shape("leaf", kind, *points)]})
    assert process.returncode == 0, process.stderr
    distance = np.min([distance_to_segment(*segment) for segment in segments], axis=0)
    sure = abs(distance - 5) > 1
    np.testing.assert_array_equal(convert.label("a")[sure], (distance < 5)[sure])


@pytest.mark.parametrize("kind, turn", [("oriented_rectangle", 0.5), ("rotation", 0.5), ("polygon", 0.5), ("rectangle", 0)])
def test_four_corners(convert, kind, turn):
    """labelme's turned rectangles, those of X-AnyLabeling, and its rectangles, which have four corners too."""
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    centre = np.array([20, 15])
    points = [centre + 10 * x * along + 6 * y * across for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    process = convert({"a": [shape("leaf", kind, *(map(float, point) for point in points))]})
    assert process.returncode == 0, process.stderr
    pixels = np.moveaxis(np.mgrid[:HEIGHT, :WIDTH][::-1], 0, -1) - centre
    beyond = np.maximum(abs(pixels @ along) - 10, abs(pixels @ across) - 6)
    sure = abs(beyond) > 1
    np.testing.assert_array_equal(convert.label("a")[sure], (beyond < 0)[sure])


def test_masks_reach_as_far_as_their_corners(convert):
    """labelme cuts a mask at corners of whole numbers, and takes all of it at others."""
    whole = mask(np.ones((4, 6), bool))
    shapes = [shape("leaf", "mask", (2, 3), (4, 4), mask=whole), shape("leaf", "mask", (19.6, 10.4), (22.0, 12.0), mask=whole)]
    assert convert({"a": shapes}).returncode == 0
    expected = np.zeros((HEIGHT, WIDTH))
    expected[3:5, 2:5] = expected[10:14, 20:26] = 1
    np.testing.assert_array_equal(convert.label("a"), expected)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (shape("leaf", "polygon", (0, 0), (5, 5)), "shape 2 (leaf): a polygon takes 3 or more points, not 2"),
        (shape("leaf", "circle", (0, 0)), "shape 2 (leaf): a circle takes 2 points, not 1"),
        (shape("leaf", "point", (0, 0), (1, 1)), "shape 2 (leaf): a point takes 1 points, not 2"),
        (shape("leaf", "linestrip", (0, 0)), "shape 2 (leaf): a linestrip takes 2 or more points, not 1"),
        (shape("leaf", "cuboid", (0, 0)), "shape 2 (leaf): there is no kind of shape 'cuboid'; known are polygon"),
        (shape("leaf", "polygon", (0, 0), (float("nan"), 5), (9, 9)), "shape 2 (leaf): its points are not finite"),
        ({"label": "leaf", "points": None}, "shape 2 (leaf): its points are no pairs of numbers"),
        (shape("leaf", "polygon", (0, 0, 1), (5, 5), (9, 9)), "shape 2 (leaf): its points are no pairs of numbers"),
        (shape("leaf", "mask", (0, 0), (5, 5), mask=None), "shape 2 (leaf): it has no mask"),
        (shape("leaf", "mask", (0, 0), (5, 5), mask="AAAA"), "shape 2 (leaf): cannot identify image file"),
        (shape("leaf", "mask", (0, 0), (5, 5), mask=mask(np.ones((9000, 2), bool))), "shape 2 (leaf): its mask is larger than"),
        (shape(None, "point", (0, 0)), "shape 2: its label is None, no name of a class"),
        ({"points": [[0, 0]], "shape_type": "point"}, "shape 2: its label is None, no name of a class"),
        (shape(" ", "point", (0, 0)), "shape 2: its label is ' ', no name of a class"),
        (shape("a\x1b[2J", "point", (0, 0)), "shape 2: its label is 'a\\x1b[2J', no name of a class"),
        (
            shape("leaf", "circle", (0, 0), (2**32, 5)),
            "shape 2 (leaf): its points are not finite, or farther away than 1048576",
        ),
    ],
)
def test_shapes_that_cannot_be_drawn(convert, wrong, words):
    process = convert({"a": [shape("leaf", "point", (5, 5)), wrong]})
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert "a.json" in last and words in last


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_other_editors(convert, encoding):
    process = convert({"a": [shape("größe", "point", (5, 5))]}, encoding=encoding)
    assert process.returncode == 0 and "größe" in convert.names(), process.stderr


def test_sizes_that_are_not_written(convert, tmp_path):
    """From the image in the file, or the one it names, turned as its EXIF says, which labelme shows."""
    lost = {"imageHeight": None, "imageWidth": None, "imagePath": "..\\pictures\\a.jpg"}
    process = convert({"a": []}, **lost)
    assert process.returncode == 1 and "a.json cannot be read: it has no imageWidth and imageHeight, nor is" in process.stderr
    (tmp_path / "pictures").mkdir()
    picture, turned = Image.new("RGB", (WIDTH, HEIGHT)), Image.Exif()
    turned[0x0112] = 6
    picture.save(tmp_path / "pictures" / "a.jpg", exif=turned)
    assert convert({"a": []}, **lost).returncode == 0 and convert.label("a").shape == (WIDTH, HEIGHT)
    content = io.BytesIO()
    picture.resize((7, 5)).save(content, "jpeg")
    data = base64.b64encode(content.getvalue()).decode()
    os.unlink(tmp_path / "labels" / "a.png")
    assert convert({"a": []}, imageData=data, **lost).returncode == 0 and convert.label("a").shape == (5, 7)
    os.unlink(tmp_path / "labels" / "a.png")


@pytest.mark.parametrize(
    "width, height", [(0, 5), (-7, 5), (2.5, 5), ("9", 5), (10**400, 1), (float("inf"), 5), (60000, 60000)]
)
def test_sizes_that_no_image_has(convert, width, height):
    process = convert({"a": []}, imageWidth=width, imageHeight=height)
    last = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 1 and "a.json cannot be read: its width and height are " in last and len(last) < 400


def test_files_that_are_nested_without_end(convert, tmp_path):
    convert({"a": []})
    (tmp_path / "photos" / "a.json").write_text("[" * 10**6)
    process = convert({})
    assert process.returncode == 1 and "is no file of labelme: ValueError: its values are nested too deeply" in process.stderr


@pytest.mark.parametrize(
    "names",
    [
        b"__ignore__\n_background_\nstem\nleaf\n",  # labelme's labels.txt
        b"\xef\xbb\xbf_background_ \r\nstem\t\r\nleaf \r\n\r\n",
        "_background_\nstem\nleaf".encode("utf-16"),
        b"background\rstem\rleaf",
    ],
)
def test_class_names_written_by_hand(convert, names):
    shapes = [shape("leaf ", "point", (9, 9)), shape("bark", "point", (30, 9)), shape("__ignore__", "point", (9, 25))]
    process = convert({"a": shapes}, names=names)
    assert process.returncode == 0, process.stderr
    assert convert.names()[1:] == ["stem", "leaf", "bark"]
    assert [convert.label("a")[point] for point in ((9, 9), (9, 30), (25, 9), (0, 20))] == [2, 3, 255, 0]


@pytest.mark.parametrize(
    "names, words",
    [
        (b"_background_\n\nleaf\n", "line 2 is empty"),
        (b"\n_background_\nleaf\n", "line 1 is empty"),
        (b"_background_\nleaf\nstem\nleaf \n", "line 4: 'leaf' is in line 2 already"),
        (b"leaf\nstem\n", "line 1: 'leaf' would have index 0, as what is not labelled: write _background_ above it"),
        (b"__ignore__\nleaf\n", "line 2: 'leaf' would have index 0"),
        (b"stem\n_background_\n", "line 2: _background_ is no class of this index"),
        (b"_background_\n__ignore__\nleaf\n", "line 2: __ignore__ is no class of this index"),
        (b"\0\1\2", "class_names.txt is no text"),
    ],
)
def test_class_names_that_would_shift_indices(convert, names, words):
    process = convert({"a": [shape("leaf", "point", (9, 9))]}, names=names)
    assert process.returncode == 1 and "class_names.txt" in process.stderr
    assert words in process.stderr.strip().splitlines()[-1]


def test_labels_follow_class_names_that_are_edited(convert, tmp_path):
    files = {"a": [shape("leaf", "point", (9, 9)), shape("stem", "point", (30, 9))]}
    assert convert(files).returncode == 0 and convert.label("a")[9, 9] == 1
    os.utime(tmp_path / "labels" / "class_names.txt", (1e9, 1e9))
    os.utime(tmp_path / "labels" / "a.png", (2e9, 2e9))
    (tmp_path / "labels" / "class_names.txt").write_bytes(b"_background_\nstem\nleaf\n")
    os.utime(tmp_path / "labels" / "class_names.txt", (3e9, 3e9))
    process = convert(files)
    assert "1 labels written, 0 were there" in process.stdout and convert.label("a")[9, 9] == 2
