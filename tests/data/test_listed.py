"""Data sets of one's own."""

import os

import numpy as np
import pytest
from paddleseg.transforms import Normalize, RandomHorizontalFlip, RandomPaddingCrop
from PIL import Image

from paddleseg_psp.config import Config
from paddleseg_psp.data import CheckedDataset, Dataset, SeededDataset
from paddleseg_psp.data.preparation.labels import write_lines
from paddleseg_psp.data.reading.images import find_images
from paddleseg_psp.data.reading.lists import read_list
from paddleseg_psp.errors import UserError
from paddleseg_psp.visual import viewable


@pytest.fixture
def make(tmp_path):
    """Returns a function that writes files and a list of them, and gives the data set."""

    def make(lines, files, **options):
        for name, array in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array) if name.endswith(".npy") else Image.fromarray(array).save(path)
        (tmp_path / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        options = {"num_classes": 3, "train_path": str(tmp_path / "train.txt"), "transforms": [], **options}
        return Dataset(dataset_root=str(tmp_path), **options)

    return make


IMAGE, LABEL = np.full((6, 8, 3), 90, np.uint8), np.ones((6, 8), np.uint8)


@pytest.mark.parametrize(
    "line, image, label",
    [
        ("a.png b.png", "a.png", "b.png"),
        ("my images/a 1.png labels/b 1.png", "my images/a 1.png", "labels/b 1.png"),
        ("bilder/größe 街.png\tzeichen/größe 街.png", "bilder/größe 街.png", "zeichen/größe 街.png"),
    ],
)
def test_paths_of_any_kind(make, line, image, label):
    dataset = CheckedDataset(make([line, ""], {image: IMAGE, label: LABEL}))
    assert len(dataset) == 1
    pixels, classes = dataset.read(0)
    np.testing.assert_array_equal(pixels, IMAGE)
    np.testing.assert_array_equal(classes, LABEL)


def test_a_separator_of_ones_own(make):
    files = {"a,1.png": IMAGE, "a.png": IMAGE, "b.png": LABEL}
    assert len(make(["a,1.png,b.png", "a.png, b.png"], files, separator=",")) == 2
    with pytest.raises(UserError, match="separator: expected what stands between an image and its label, found ''"):
        make(["a.png b.png"], files, separator="")


@pytest.mark.parametrize(
    "line",
    [
        "images/a 1.png labels/b.png ",
        "images/a 1.png labels/b.png\t",
        " images/a 1.png  labels/b.png",
        "images/a 1.png \t labels/b.png",
        "images/a 1.png\t\tlabels/b.png\u3000",
        "images\\a 1.png labels\\b.png",
        "\ufeffimages/a 1.png labels/b.png",
    ],
)
def test_lines_written_by_hand(make, tmp_path, line):
    """PaddleSeg strips lines; blanks around the separator and Windows' separators of folders mean what they mean elsewhere."""
    files = {"images/a 1.png": IMAGE, "labels/b.png": LABEL}
    pair = [str(tmp_path / name) for name in files]
    assert make([line, "   ", "\u3000"], files).file_list == [pair]
    assert make([line], files, mode="test", test_path=str(tmp_path / "train.txt")).file_list == [[pair[0], None]]
    assert find_images(str(tmp_path / "train.txt"))[0] == pair[:1]


def test_a_blank_of_full_width_separates(make, tmp_path):
    dataset = make(["a.png\u3000b.png", "c\u3000d.png b.png"], {"a.png": IMAGE, "c\u3000d.png": IMAGE, "b.png": LABEL})
    assert [pair[0] for pair in dataset.file_list] == [str(tmp_path / "a.png"), str(tmp_path / "c\u3000d.png")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_other_systems(make, tmp_path, encoding, end):
    files = {"ä\x0b\u2028.png": IMAGE, "b.png": LABEL}  # what Python's splitlines takes for ends of lines
    make([f"{name} b.png" for name in files][:1], files)
    content = end.join([*(f"{name} b.png" for name in files), "", "gone.png"])
    (tmp_path / "list.txt").write_bytes(content.encode(encoding))
    with pytest.raises(UserError, match="list.txt, line 4: 'gone.png' does not name two files"):
        make([], files, train_path=str(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_bytes(content.replace("gone.png", "").encode(encoding))
    assert [pair[0] for pair in make([], files, train_path=str(tmp_path / "list.txt")).file_list] == [
        str(tmp_path / name) for name in files
    ]


def test_names_that_are_not_utf8(make, tmp_path):
    make(["a.png b.png"], {"a.png": IMAGE, "b.png": LABEL})
    name = b"gr\xfcn.png"  # Latin-1
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/" + name)
    (tmp_path / "list.txt").write_bytes(name + b" b.png\n")
    ((image, _),) = make([], {}, train_path=str(tmp_path / "list.txt")).file_list
    assert os.fsencode(image).endswith(name) and os.path.isfile(image)
    write_lines(str(tmp_path / "copy.txt"), read_list(str(tmp_path / "list.txt")))
    assert (tmp_path / "copy.txt").read_bytes() == name + b" b.png\n"


def test_a_picture_is_no_list(make, tmp_path):
    Image.fromarray(LABEL).save(tmp_path / "moving.gif")
    with pytest.raises(UserError, match="the list .*moving.gif is no text: it has zero bytes"):
        make([], {}, train_path=str(tmp_path / "moving.gif"))


@pytest.mark.parametrize(
    "lines, options, words",
    [
        (["a.png"], {}, r"train.txt, line 1: 'a.png' does not name two files with ' ' between them"),
        (["a.png b.png", "a b c.png"], {}, "train.txt, line 2"),
        (["a.png gone.png"], {}, "1 of 1 images have no label, e.g. .*a.png needs .*gone.png"),
        ([""], {}, "the list .*train.txt is empty"),
        (["a.png b.png"], {"mode": "val"}, "val_path is missing"),
        (["a.png b.png"], {"mode": "training"}, "mode must be train, val or test, not 'training'"),
        (["a.png b.png"], {"train_path": "gone.txt"}, "the list gone.txt cannot be read"),
        (["a.png b.png"], {"class_names": ["x"]}, "class_names has 1 entries for 3 classes"),
        (["a.png b.png"], {"palette": [[0, 0, 0]] * 4}, "palette has 4 entries for 3 classes"),
        (["a.png b.png"], {"max_value": 0}, "max_value must be above 0, .* not 0"),
    ],
)
def test_lists_that_are_wrong(make, lines, options, words):
    with pytest.raises(UserError, match=words):
        make(lines, {"a.png": IMAGE, "b.png": LABEL}, **options)


def test_labels_of_16_bits(make):
    label = np.array([[0, 299], [65535, 7]], np.uint16)
    options = {"num_classes": 300, "ignore_index": 65535, "transforms": [RandomHorizontalFlip(prob=1), Normalize()]}
    dataset = CheckedDataset(make(["a.png b.png"], {"a.png": IMAGE[:2, :2], "b.png": label}, **options))
    np.testing.assert_array_equal(dataset[0]["label"], label[:, ::-1])


@pytest.mark.parametrize("channels, name", [(1, "a.png"), (4, "a.png"), (5, "a.npy"), (2, "a.npy")])
def test_any_number_of_channels(make, channels, name):
    numbers = np.random.RandomState(0).randint(0, 255, (6, 8, channels), dtype=np.uint8)
    image = numbers[..., 0] if channels == 1 else numbers
    transforms = [RandomPaddingCrop(crop_size=(8, 6)), Normalize(mean=[0.0] * channels, std=[1.0] * channels)]
    dataset = make([f"{name} b.png"], {name: image, "b.png": LABEL}, img_channels=channels, transforms=transforms)
    sample = CheckedDataset(dataset)[0]
    assert sample["img"].shape == (channels, 6, 8)
    if name.endswith("npy"):
        np.testing.assert_allclose(sample["img"], np.moveaxis(numbers, 2, 0) / 255, rtol=1e-6)
    assert viewable(image).shape == (6, 8, 3)
    with pytest.raises(UserError, match=f"has {channels} channels; expected 7"):
        make([f"{name} b.png"], {}, img_channels=7) and CheckedDataset(make([f"{name} b.png"], {}, img_channels=7))[0]


def test_everything_in_memory(make):
    numbers = np.random.RandomState(0)
    files = {
        f"{kind}{i}.png": numbers.randint(0, 3, (9, 9, 3)[: 3 if kind == "i" else 2], dtype=np.uint8)
        for i in range(5)
        for kind in "il"
    }
    lines = [f"i{i}.png l{i}.png" for i in range(5)]
    transforms = [RandomPaddingCrop(crop_size=(5, 5)), RandomHorizontalFlip(), Normalize()]
    plain, held = (make(lines, files, transforms=transforms, cache=cache) for cache in (False, True))
    for dataset in (plain, held):
        dataset.hold()
    first = held._held
    held.hold()
    assert plain._held is None and len(first) == 5 and held._held is first  # read once
    samples = [[SeededDataset(data)[index, seed] for index in range(5) for seed in range(2)] for data in (plain, held)]
    for first, second in zip(*samples):
        for key in first:
            np.testing.assert_array_equal(first[key], second[key])


def test_names_colours_and_ignored_value_come_from_the_configuration(write_config, make, tmp_path):
    make(["a.png b.png"], {"a.png": IMAGE, "b.png": LABEL})
    spec = {
        "type": "Dataset",
        "dataset_root": str(tmp_path),
        "num_classes": 3,
        "ignore_index": 7,
        "transforms": [{"type": "Normalize"}],
    }
    more = {
        "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        "class_names": ["x", "y", "z"],
        "train_path": str(tmp_path / "train.txt"),
    }
    config = Config(write_config(train_dataset={**spec, **more, "mode": "train"}))
    assert config.palette() == more["palette"]
    assert config.build_losses()[0][1].ignore_index == 7
    assert config.build_dataset("train_dataset").CLASS_NAMES == ["x", "y", "z"]
