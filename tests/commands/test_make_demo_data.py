import hashlib
import os

import cv2
import numpy as np
import pytest

from paddleseg_psp.commands import make_demo_data as demo
from paddleseg_psp.data.datasets.cityscapes import CLASS_NAMES, Cityscapes
from paddleseg_psp.engine.metrics import ConfusionMatrix
from tests.helpers import run_python

# Cityscapes' own table, label id by name; all others are ignored in training.
LABEL_IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19, "traffic sign": 20,
    "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31,
    "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
LOOKALIKES = [("sidewalk", "terrain"), ("wall", "fence"), ("truck", "bus")]


def digest(folder):
    """Returns the names and the contents of all files below a folder as one hash."""
    result = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        result.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return result.hexdigest()


def make(folder, *arguments):
    return run_python(["tools/make_demo_data.py", "--save_dir", folder, *arguments])


SMALL = ("--train", 3, "--val", 2, "--size", 64, 32)


def test_the_layout_is_that_of_cityscapes(tmp_path):
    demo.make_demo_data(tmp_path / "data", train=3, val=2, size=(70, 33))
    for split, count in (("train", 3), ("val", 2)):
        dataset = Cityscapes([], str(tmp_path / "data"), split)
        assert len(dataset) == count
        for image, train_ids in dataset.file_list:
            label_ids = cv2.imread(train_ids.replace("labelTrainIds", "labelIds"), cv2.IMREAD_UNCHANGED)
            train_ids = cv2.imread(train_ids, cv2.IMREAD_UNCHANGED)
            assert cv2.imread(image, cv2.IMREAD_UNCHANGED).shape == (33, 70, 3)
            expected = np.full((33, 70), 255, np.uint8)
            for train_id, name in enumerate(CLASS_NAMES):
                expected[label_ids == LABEL_IDS[name]] = train_id
            np.testing.assert_array_equal(train_ids, expected)


@pytest.mark.parametrize("size", [(8, 8), (31, 17), (1024, 512)])
def test_any_size(size):
    image, label = demo.make_scene(size, 0, "train", 0)
    assert image.shape == (size[1], size[0], 3) and label.shape == size[::-1]


def test_the_same_arguments_give_the_same_bytes_in_any_process(tmp_path):
    for name in ("first", "second"):
        assert make(tmp_path / name, *SMALL).returncode == 0
    assert make(tmp_path / "other", *SMALL, "--seed", 1).returncode == 0
    assert digest(tmp_path / "first") == digest(tmp_path / "second") != digest(tmp_path / "other")


def test_more_scenes_leave_the_others_as_they_are(tmp_path):
    for name, count in (("few", 2), ("many", 4)):
        demo.make_demo_data(tmp_path / name, train=count, val=count, size=(64, 32))
    images = sorted((tmp_path / "few").rglob("*.png"))
    assert len(images) == 12
    for path in images:
        assert path.read_bytes() == (tmp_path / "many" / path.relative_to(tmp_path / "few")).read_bytes()
    assert not np.array_equal(demo.make_scene((64, 32), 0, "train", 1)[0], demo.make_scene((64, 32), 0, "val", 1)[0])


def test_repeating_changes_nothing(tmp_path):
    make(tmp_path / "data", *SMALL)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}
    process = make(tmp_path / "data", *SMALL)
    assert "already there" in process.stdout
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "data").rglob("*")}


def test_other_arguments_replace_what_the_program_made_and_nothing_else(tmp_path):
    make(tmp_path / "data", *SMALL)
    before = digest(tmp_path / "data")
    assert make(tmp_path / "data", *SMALL, "--seed", 5).returncode == 0
    assert digest(tmp_path / "data") != before
    (tmp_path / "data" / "notes.txt").write_text("mine")
    process = make(tmp_path / "data", *SMALL)
    assert process.returncode == 1 and "notes.txt" in process.stderr.splitlines()[-1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    process = make(tmp_path / "mine", *SMALL)
    assert process.returncode == 1 and "was not made by this program" in process.stderr.splitlines()[-1]
    assert os.listdir(tmp_path / "mine") == ["file"]


@pytest.mark.parametrize("arguments", [("--train", 0), ("--size", 4, 4), ("--seed", -1)])
def test_wrong_arguments(tmp_path, arguments):
    process = make(tmp_path / "data", *arguments)
    assert process.returncode == 1 and process.stderr.startswith("Error: ") and not (tmp_path / "data").exists()


@pytest.fixture(scope="module")
def scenes():
    """The pixels [N, 3] and train ids [N] of 120 scenes to learn from and of 40 others."""
    result = []
    for split, count in (("train", 120), ("val", 40)):
        pairs = [demo.make_scene((128, 64), 0, split, index) for index in range(count)]
        images = np.concatenate([image.reshape(-1, 3) for image, _ in pairs])
        result.append((images, np.concatenate([demo.TRAIN_ID[label].ravel() for _, label in pairs])))
    return result


def test_regions_to_ignore_occur(scenes):
    assert 0.005 < (scenes[0][1] == 255).mean() < 0.2


@pytest.mark.parametrize("pair", LOOKALIKES)
def test_lookalikes_have_the_same_colors(scenes, pair):
    """Over many scenes; a color's mean varies by some levels with the scenes that happen to be drawn."""
    pixels, classes = scenes[0]
    first, second = (pixels[classes == CLASS_NAMES.index(name)].astype(float) for name in pair)
    assert len(first) > 1000 and len(second) > 1000
    assert np.abs(first.mean(0) - second.mean(0)).max() < 20
    assert np.abs(first.std(0) - second.std(0)).max() < 15


def test_colors_do_not_tell_the_classes(scenes):
    """The best guess from a pixel's color, learnt as a histogram: far from parsing the scenes, by chance on lookalikes."""
    (pixels, classes), (unseen, truth) = scenes

    def cell(colors):
        return (colors // 16).astype(int) @ [256, 16, 1]

    known = classes != 255
    votes = np.zeros((16**3, 19))
    np.add.at(votes, (cell(pixels[known]), classes[known]), 1)
    matrix = ConfusionMatrix(19)
    matrix.update(votes.argmax(1)[cell(unseen)], truth)
    assert matrix.mean_iou() < 0.35
    balanced = votes / np.maximum(votes.sum(0), 1)
    for pair in LOOKALIKES:
        ids = [CLASS_NAMES.index(name) for name in pair]
        guess = np.array(ids)[balanced[cell(unseen)][:, ids].argmax(1)]
        accuracies = [(guess[truth == index] == index).mean() for index in ids]
        assert np.mean(accuracies) < 0.65, pair


@pytest.mark.parametrize("cue, pairs", [("town", LOOKALIKES[:2]), ("bus_street", LOOKALIKES[2:])])
def test_only_what_stands_across_the_street_tells_lookalikes_apart(cue, pairs):
    """The same scene with another cue: pixels of the lookalikes stay as they are, and only their class changes."""
    for index in range(10):
        (image, label), (other_image, other_label) = (
            demo.make_scene((128, 64), 0, "train", index, **{cue: value}) for value in (True, False)
        )
        for names in pairs:
            ids = [LABEL_IDS[name] for name in names]
            region = np.isin(label, ids)
            np.testing.assert_array_equal(region, np.isin(other_label, ids))
            np.testing.assert_array_equal(image[region], other_image[region])
            if region.any():
                assert len(np.unique(label[region])) == len(np.unique(other_label[region])) == 1
                assert label[region][0] != other_label[region][0]
