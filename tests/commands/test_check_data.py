"""Defects planted in a data set: each is found, with its file."""

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from tests.conftest import tiny_config
from tests.helpers import run_python, run_tool

COUNT = 4  # images of each split


@pytest.fixture
def data(tmp_path):
    """A folder with lists train.txt and val.txt, three classes, and what a test spoils in it."""
    numbers = np.random.RandomState(0)
    for split in ("train", "val"):
        for index in range(COUNT):
            Image.fromarray(numbers.randint(0, 255, (12, 16, 3), dtype=np.uint8)).save(tmp_path / f"{split}{index}.png")
            Image.fromarray(numbers.randint(0, 3, (12, 16), dtype=np.uint8)).save(tmp_path / f"{split}{index}_label.png")
        lines = [f"{split}{index}.png {split}{index}_label.png" for index in range(COUNT)]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def check(data, capfd):
    """Returns a function that runs check_data and returns its exit code and what it prints."""

    def check(*options, **changes):
        process = run_tool("tools/check_data.py", [*_arguments(data, **changes), *options], capfd)
        return process.returncode, process.stdout + process.stderr

    return check


def _arguments(data, **changes):
    spec = {"type": "Dataset", "dataset_root": str(data), "num_classes": 3, **changes}
    spec.update({f"{split}_path": str(data / f"{split}.txt") for split in ("train", "val")})
    transforms = [{"type": "RandomPaddingCrop", "crop_size": [16, 12]}, {"type": "Normalize"}]
    config = tiny_config(data)
    config["train_dataset"] = {**spec, "mode": "train", "transforms": transforms}
    config["val_dataset"] = {**spec, "mode": "val", "transforms": [{"type": "Normalize"}]}
    (data / "config.yml").write_text(yaml.safe_dump(config))
    return ["--config", str(data / "config.yml"), "--num_workers", "1"]


def label(data, value, name="train1_label.png"):
    Image.fromarray(np.asarray(value)).save(data / name)


def deep(data, ending, dtype):
    values = np.random.RandomState(1).randint(0, 4096, (12, 16, 3)).astype(dtype)
    (data / "train1.png").write_bytes(cv2.imencode(ending, values)[1].tobytes())


def copy(data, source, target):
    (data / target).write_bytes((data / source).read_bytes())


def truncate(data, name):
    (data / name).write_bytes((data / name).read_bytes()[:60])


def many_values(data):
    label(data, np.arange(12 * 16, dtype=np.uint8).reshape(12, 16))


def turned(data):
    image = Image.open(data / "train1.png")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(data / "train1.jpg", exif=exif)
    label(data, np.ones((16, 12), np.uint8))
    (data / "train.txt").write_text("train0.png train0_label.png\ntrain1.jpg train1_label.png\n" * 1)


def lossy(data):
    Image.fromarray(np.full((12, 16), 2, np.uint8)).save(data / "train1_label.jpg")
    (data / "train.txt").write_text("train0.png train0_label.png\ntrain1.png train1_label.jpg\n")


def no_second_class(data):
    for split in ("train", "val"):
        for index in range(COUNT):
            label(data, np.minimum(np.asarray(Image.open(data / f"{split}{index}_label.png")), 1), f"{split}{index}_label.png")
    label(data, np.full((12, 16), 2, np.uint8), "val2_label.png")


ERRORS = {
    "truncated image": (lambda data: truncate(data, "train1.png"), "train1.png cannot be read"),
    "truncated label": (lambda data: truncate(data, "train1_label.png"), "train1_label.png cannot be read"),
    "empty image": (lambda data: (data / "train1.png").write_bytes(b""), "train1.png cannot be read"),
    "label of another size": (
        lambda data: label(data, np.zeros((10, 16), np.uint8)),
        "train1_label.png is 16x10 but its image",
    ),
    "turned label": (lambda data: label(data, np.zeros((16, 12), np.uint8)), "train1_label.png is 12x16 but its image"),
    "colored label": (lambda data: label(data, np.zeros((12, 16, 3), np.uint8)), "train1_label.png has 3 channels"),
    "value that no class has": (
        lambda data: label(data, np.full((12, 16), 9, np.uint8)),
        "train1_label.png has the values 9 on 192",
    ),
    "numbered from 1": (lambda data: label(data, np.tile(np.uint8([1, 2, 3, 3]), (12, 4))), "seem to be numbered from 1"),
    "interpolated": (many_values, "So many values come from resizing with interpolation"),
    "16 bits": (lambda data: label(data, np.full((12, 16), 300, np.uint16)), "train1_label.png has the values 300"),
    "lossy label": (lossy, "train1_label.jpg is a JPEG"),
    "in both sets": (
        lambda data: copy(data, "train1.png", "val2.png"),
        "val2.png of the validation set is the same picture as",
    ),
    "image as label": (lambda data: copy(data, "train1.png", "train1_label.png"), "train1_label.png has 3 channels"),
    "text as image": (lambda data: (data / "train1.png").write_text("<html>"), "train1.png cannot be read"),
}
WARNINGS = {
    "same picture twice": (
        lambda data: copy(data, "train1.png", "train2.png"),
        "train1.png and",
        "train2.png are the same picture",
    ),
    "listed twice": (
        lambda data: (data / "train.txt").write_text("train0.png train0_label.png\n" * 2),
        "train0.png is listed more",
    ),
    "black image": (
        lambda data: label(data, np.zeros((12, 16, 3), np.uint8), "train1.png"),
        "train1.png has the same value everywhere",
    ),
    "all ignored": (lambda data: label(data, np.full((12, 16), 255, np.uint8)), "train1_label.png has ignored pixels only"),
    "mostly ignored": (
        lambda data: label(data, np.tile(np.uint8([255, 255, 255, 1]), (12, 4))),
        "train1_label.png is ignored on 75% of its pixels",
    ),
    "turned by EXIF": (turned, "train1.jpg is turned by its EXIF orientation (6)"),
    "transparent": (
        lambda data: Image.open(data / "train1.png").convert("RGBA").save(data / "train1.png"),
        "train1.png is RGBA",
    ),
    "16 bits": (
        lambda data: deep(data, ".png", np.uint16),
        "train1.png has more than 8 bits a channel: set max_value",
    ),
    "floats, which Pillow does not read": (
        lambda data: deep(data, ".tif", np.float32),
        "train1.png has more than 8 bits a channel: set max_value",
    ),
    "class in validation only": (no_second_class, "the classes 2 occur in validation but not in training"),
}


def test_a_good_data_set(data):
    process = run_python(["tools/check_data.py", *_arguments(data), "--picture", data / "samples.png"])
    said = process.stdout
    assert process.returncode == 0 and said.splitlines()[-1] == "Verdict: ready for training"
    assert "ERROR" not in said and "warning:" not in said
    labels = np.concatenate([np.asarray(Image.open(data / f"train{index}_label.png")).ravel() for index in range(COUNT)])
    for index in range(3):
        share = f"{np.mean(labels == index):.3%}"
        assert any(line.split()[:4] == [str(index), str(index), share, "4"] for line in said.splitlines())
    assert np.asarray(Image.open(data / "samples.png")).std() > 0


@pytest.mark.parametrize("defect", ERRORS)
def test_errors_are_found_with_their_file(check, data, defect):
    plant, *words = ERRORS[defect]
    plant(data)
    code, said = check()
    assert code == 1 and "errors: fix them before training" in said
    lines = [line for line in said.splitlines() if line.startswith("ERROR")]
    assert len(lines) == 1 and all(word in lines[0] for word in words), said


@pytest.mark.parametrize("defect", WARNINGS)
def test_warnings_are_given_with_their_file(check, data, defect):
    plant, *words = WARNINGS[defect]
    plant(data)
    code, said = check()
    assert code == 0 and "Verdict: ready for training" in said
    assert any(line.startswith("warning: ") and all(word in line for word in words) for line in said.splitlines()), said


def test_data_sets_of_different_classes(data, capfd):
    arguments = _arguments(data)
    process = run_tool("tools/check_data.py", [*arguments, "--opts", "val_dataset.num_classes=4"], capfd)
    assert process.returncode == 1
    assert "val_dataset.num_classes: 4, but the training data set has 3" in process.stderr.splitlines()[-1]


def test_masks_of_0_and_255(check, data):
    for split in ("train", "val"):
        for index in range(COUNT):
            mask = np.asarray(Image.open(data / f"{split}{index}_label.png")) > 0
            label(data, mask.astype(np.uint8) * 255, f"{split}{index}_label.png")
    code, said = check(num_classes=2)
    assert code == 1 and "ERROR: the labels have the values 0 and 255 only" in said
    assert "warning: the labels have the values 0 and 255 only" in said  # of validation
    code, said = check(num_classes=2, ignore_index=77)
    assert code == 1 and "has the values 255" in said and "The second class must be 1" in said
