"""What a configuration says once holds everywhere: classes, their names, the value of ignored pixels."""

import random
import re

import cv2
import numpy as np
import pytest
import yaml
from paddleseg import transforms as T

from paddleseg_psp.commands.train import main
from paddleseg_psp.config import Config
from paddleseg_psp.data import CheckedDataset
from paddleseg_psp.data.checks.inspection import quick_check
from paddleseg_psp.data.transforms import Pipeline
from paddleseg_psp.errors import UserError
from tests.helpers import TINY, run_python

SIZE = (24, 32)  # height, width


@pytest.fixture
def configure(tmp_path, write_config):
    """Returns a function that writes a data set of three classes and its configuration, and returns the configuration.

    `labels` replaces the labels, `train` and `val` add to the data sets' mappings.
    """

    def write(labels=None, train=(), val=(), **changes):
        numbers, lines = np.random.RandomState(0), []
        for index in range(12):
            label = numbers.randint(0, 3, SIZE, dtype=np.uint8) if labels is None else labels[index]
            cv2.imwrite(str(tmp_path / f"{index}.png"), numbers.randint(0, 255, (*SIZE, 3), dtype=np.uint8))
            cv2.imwrite(str(tmp_path / f"{index}_label.png"), label)
            lines.append(f"{index}.png {index}_label.png")
        (tmp_path / "list.txt").write_text("\n".join(lines))
        common = {"type": "Dataset", "dataset_root": str(tmp_path), "num_classes": 3, "transforms": [{"type": "Normalize"}]}
        path = {f"{mode}_path": str(tmp_path / "list.txt") for mode in ("train", "val")}
        datasets = {
            "train_dataset": {**common, "mode": "train", "train_path": path["train_path"], **dict(train)},
            "val_dataset": {**common, "mode": "val", "val_path": path["val_path"], **dict(val)},
        }
        return write_config(**datasets, **changes)

    return write


def train(path, folder, *options):
    main(
        ["--config", path, "--opts", TINY, "--device", "cpu", "--iters", "1", "--save_dir", str(folder), "--do_eval", *options]
    )


# paddleseg's transforms and this package's that pad labels, each so that it does.
PADDING = [
    {"type": "RandomPaddingCrop", "crop_size": [64, 64]},
    {"type": "RandomPaddingCrop", "crop_size": [64, 64], "category_max_ratio": 0.75},
    {"type": "RandomRotate", "prob": 1.0, "max_rotation": 45},
    {"type": "PadShortSides", "size": [64, 64]},
    {"type": "Padding", "target_size": [64, 64]},
    {"type": "PaddingByAspectRatio", "aspect_ratio": 3},
    {"type": "ScalePadding", "target_size": [64, 16]},
    {"type": "RandomRotation", "max_rotation": 45},
    {"type": "RandomAffine", "size": [64, 64], "min_scale_factor": 0.5, "max_scale_factor": 0.8},
]


@pytest.mark.parametrize("ignored", [255, 200])
@pytest.mark.parametrize("transform", PADDING, ids=lambda item: item["type"])
def test_labels_are_padded_with_what_the_data_set_ignores(transform, ignored, configure):
    transforms = [transform, {"type": "Normalize"}]
    config = Config(configure(train={"transforms": transforms, "ignore_index": ignored}))
    np.random.seed(1)
    random.seed(1)
    label = CheckedDataset(config.build_dataset("train_dataset"))[0]["label"]
    assert set(np.unique(label)) == {0, 1, 2, ignored}
    built = config.build_transforms("train_dataset")[0]
    assert {built.label_padding_value, getattr(built, "ignore_index", ignored)} == {ignored}
    assert config.data["train_dataset"]["transforms"][0] == transform


OWN = [item for item in PADDING if item["type"] in ("RandomPaddingCrop", "RandomRotate", "PadShortSides", "RandomAffine")]


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "int64"])
@pytest.mark.parametrize("ignored", [255, 65535, -1, -100])
@pytest.mark.parametrize("transform", OWN, ids=lambda item: item["type"])
def test_labels_of_any_type_hold_what_is_ignored(transform, ignored, kind, configure):
    config = Config(configure(train={"transforms": [transform], "ignore_index": ignored, "num_classes": 300}))
    label = np.random.RandomState(0).randint(0, 256, SIZE).astype(kind)
    image = np.repeat(label[..., np.newaxis], 3, axis=2).astype(np.uint8)
    for steps in ([], [T.ResizeStepScaling(1.5, 1.5)]):  # scaling and cropping become one step
        data = {"img": image, "label": label, "gt_fields": ["label"], "trans_info": []}
        np.random.seed(1)
        random.seed(1)
        for step in Pipeline([*steps, *config.build_transforms("train_dataset")]).transforms:
            data = step(data)
        values = set(np.unique(data["label"]).tolist())
        assert ignored in values and values <= {*np.unique(label).tolist(), ignored}
        assert (data["label"] == ignored).mean() > 0.1 or ignored == 255


@pytest.mark.parametrize("name", ["label_padding_value", "ignore_index"])
def test_another_value_in_a_transform(name, configure, capfd):
    def crop(value):
        crop = {"type": "RandomPaddingCrop", "crop_size": [64, 64], name: value}
        return Config(configure(train={"transforms": [crop], "ignore_index": 254}))

    with pytest.raises(UserError, match=rf"config.yml: train_dataset.transforms.0.{name}: 255 is no class, and .* ignores 254"):
        crop(255).build_dataset("train_dataset")
    capfd.readouterr()
    crop(254).build_dataset("train_dataset")
    assert "WARNING" not in capfd.readouterr().out
    crop(0).build_dataset("train_dataset")
    assert f"train_dataset.transforms.0.{name}: 0 is a class, and the data set ignores 254" in capfd.readouterr().out


@pytest.mark.parametrize(
    "val, message",
    [
        ({"num_classes": 4}, "val_dataset.num_classes: 4, but the training data set has 3"),
        ({"ignore_index": 254}, "val_dataset.ignore_index: 254, but the training data set has 255"),
        ({"class_names": ["a", "c", "b"]}, "val_dataset.class_names.1: 'c', but class 1 is 'b' in the training data set"),
    ],
)
def test_data_sets_that_differ_end_a_training(val, message, configure, tmp_path, capfd):
    with pytest.raises(SystemExit):
        train(configure(train={"class_names": ["a", "b", "c"]}, val=val), tmp_path / "out")
    assert message in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=re.escape(message)):  # as val.py, analyse.py and evaluate.py build it
        Config(configure(train={"class_names": ["a", "b", "c"]}, val=val)).build_dataset("val_dataset")


def test_every_difference_has_a_line(configure, tmp_path, capfd):
    with pytest.raises(SystemExit):
        train(configure(val={"num_classes": 4, "ignore_index": 7}), tmp_path / "out")
    said = capfd.readouterr()
    assert "val_dataset.num_classes: 4" in said.err and "[ERROR]\t" in said.out and "val_dataset.ignore_index: 7" in said.out


def test_a_network_of_another_number_of_classes_than_a_data_set_that_says_so_late(configure, tmp_path):
    (tmp_path / "parts.py").write_text(
        "from paddleseg_psp.data import Dataset\nfrom paddleseg_psp.registry import register\n\n@register\n"
        "class Late(Dataset):\n    def __init__(self, transforms, **options):\n"
        "        super().__init__(transforms, num_classes=3, **options)\n"
    )
    path = configure(plugins=["parts.py"])
    with open(path, encoding="utf-8") as file:
        data = yaml.safe_load(file)
    for key in ("train_dataset", "val_dataset"):
        data[key].pop("num_classes")
        data[key]["type"] = "Late"
    data["model"]["num_classes"] = 5
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(data, file)
    process = run_python(["train.py", "--config", path, "--device", "cpu", "--save_dir", tmp_path / "out"])
    assert process.returncode == 1
    assert "model.num_classes: 5, but the training data set has 3 classes" in process.stderr.splitlines()[-1]


def test_a_class_that_is_ignored_is_told(configure, tmp_path, capfd):
    both = {"ignore_index": 2}
    train(configure(train=both, val=both), tmp_path / "out")
    assert "train_dataset.ignore_index: 2 is a class, whose pixels count for nothing" in capfd.readouterr().out


@pytest.mark.parametrize("key", ["train_dataset", "val_dataset", "model"])
def test_one_class_is_refused(key, configure):
    labels = [np.zeros(SIZE, np.uint8)] * 12
    if key == "model":
        config = Config(configure(labels), ["train_dataset.num_classes=1"])
        key, build = "train_dataset", config.build_model
    else:
        config = Config(configure(labels, train={"num_classes": 1}, val={"num_classes": 1}))
        build = lambda: config.build_dataset(key)  # noqa: E731
    with pytest.raises(UserError, match=rf"{key}.num_classes: 1, but .*set 2 and label the background 0, the object 1"):
        build()


MASKS = [np.tile(np.uint8([0, 255]), (SIZE[0], SIZE[1] // 2))] * 12
ALONE = {
    "masks of 0 and 255": (MASKS, {"num_classes": 2}, "values 0 and 255 only: 255 is ignored, the second class must be 1"),
    "one class": ([np.full(SIZE, 2, np.uint8)] * 12, {}, "the labels have the class 2 only: there is nothing to learn"),
    "one of three": (
        MASKS,
        {},
        "the class 0 and 255, which is ignored, only: there is nothing to learn; their values must be 0 to 2",
    ),
    "ignored": (
        [np.full(SIZE, 255, np.uint8)] * 12,
        {},
        "the labels have 255, which is ignored, only: there is nothing to learn",
    ),
}


@pytest.mark.parametrize("name", ALONE)
def test_labels_with_nothing_to_learn(name, configure, tmp_path, capfd):
    labels, changes, message = ALONE[name]
    path = configure(labels, train=changes, val=changes)
    with pytest.raises(SystemExit):
        train(path, tmp_path / "out")
    assert message in (line := capfd.readouterr().err.splitlines()[-1]) and "training data" in line
    quick_check(Config(path).build_dataset("val_dataset"))
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "WARNING" in line]
    assert message in line and "Validation data" in line


def test_labels_that_are_jpegs_are_told(configure, capfd):
    config = Config(configure())
    dataset = config.build_dataset("train_dataset")
    image, label = dataset.file_list[3]
    dataset.file_list[3][1] = label.replace(".png", ".jpg")
    cv2.imwrite(dataset.file_list[3][1], np.zeros(SIZE, np.uint8))
    quick_check(dataset)
    assert f"[WARNING]\tthe label {dataset.file_list[3][1]} is a JPEG, which changes values" in capfd.readouterr().out


def test_a_second_class_may_be_in_one_label_only(configure):
    """One that is not among the samples looked at first, the only one with another class."""
    labels = [np.zeros(SIZE, np.uint8) for _ in range(12)]
    labels[2][0, 0] = 1
    config = Config(configure(labels))
    quick_check(config.build_dataset("train_dataset"), samples=2)


def test_each_problem_of_the_samples_has_a_line(configure, tmp_path, capfd):
    labels = [np.full(SIZE, 9 if index in (0, 11) else index % 3, np.uint8) for index in range(12)]
    with pytest.raises(SystemExit):
        train(configure(labels), tmp_path / "out")
    said = capfd.readouterr()
    assert "0_label.png has the values 9" in said.err.splitlines()[-1] and "11_label.png has the values 9" in said.out
