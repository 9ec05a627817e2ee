"""Labels of every type become the same int64 classes, or are refused with their file."""

import numpy as np
import paddle
import pytest
from paddleseg import transforms as T
from paddleseg.datasets import Dataset as PaddleSegDataset
from PIL import Image

from paddleseg_psp.data import ADE20K, Dataset, checked, load_batches
from paddleseg_psp.data.transforms import RandomPaddingCrop
from paddleseg_psp.errors import UserError
from tests.real_layouts import make_ade

CLASSES = np.random.RandomState(0).randint(0, 2, (20, 30)).astype(np.uint8)


@pytest.fixture
def make(tmp_path):
    """Returns a function that makes a data set of one image and a label, an array that Pillow writes."""

    def make_dataset(label, ending="png", mode="train", transforms=(), **options):
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "image.png")
        Image.fromarray(label).save(tmp_path / f"label.{ending}")
        (tmp_path / "list.txt").write_text(f"image.png\tlabel.{ending}\n")
        options = {"num_classes": 2, **options, f"{mode}_path": str(tmp_path / "list.txt")}
        return Dataset([*transforms, T.Normalize()], str(tmp_path), mode=mode, **options)

    return make_dataset


TYPES = [(bool, "png"), (np.uint8, "png"), (np.uint16, "png"), (np.uint16, "tif"), (np.int32, "tif"), (np.float32, "tif")]


@pytest.mark.parametrize("dtype, ending", TYPES)
@pytest.mark.parametrize("mode", ["train", "val"])
def test_types_of_files(make, dtype, ending, mode):
    """As the data set gives it, through this package's loader, and through Paddle's own."""
    dataset = make(CLASSES.astype(dtype), ending, mode)
    assert dataset[0]["label"].dtype == np.int64
    np.testing.assert_array_equal(dataset[0]["label"], CLASSES)
    for batches in (load_batches(dataset, [[0]]), load_batches(dataset, [[0]], 1), paddle.io.DataLoader(dataset)):
        (batch,) = batches
        assert batch["label"].dtype == paddle.int64
        np.testing.assert_array_equal(batch["label"].numpy()[0], CLASSES)


@pytest.mark.parametrize("ignore_index", [255, 65535, -1, -100, 2])
def test_padding_is_ignored_whatever_its_value(make, ignore_index):
    crop = RandomPaddingCrop(crop_size=(40, 32), label_padding_value=ignore_index)
    label = make(CLASSES, transforms=[crop], ignore_index=ignore_index, num_classes=2)[0]["label"]
    expected = np.full((32, 40), ignore_index, np.int64)
    expected[:20, :30] = CLASSES
    np.testing.assert_array_equal(label, expected)


def test_32_bits(make):
    label = CLASSES.astype(np.int32)
    label[3, 4] = 70000
    with pytest.raises(UserError, match="label.tif has the values 70000 on 1 pixels; allowed are 0 to 1, and 255"):
        make(label, "tif")[0]
    dataset = make(label, "tif", num_classes=70001, ignore_index=-1, transforms=[T.RandomHorizontalFlip(prob=1)])
    np.testing.assert_array_equal(dataset[0]["label"], label[:, ::-1])
    label[3, 4] = -1
    np.testing.assert_array_equal(make(label, "tif", ignore_index=-1)[0]["label"], label)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.7])
def test_values_that_are_no_whole_numbers(make, value):
    label = CLASSES.astype(np.float32)
    label[3:5, 4] = value
    with pytest.raises(UserError, match=f"label.tif has values that .* on 2 pixels, the first {value}.* in row 3, column 4"):
        make(label, "tif")[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ade20k_gives_what_training_sees(tmp_path, dtype):
    raw = make_ade(tmp_path)
    path = tmp_path / "annotations" / "training" / "ADE_train_00000001.png"
    Image.fromarray(raw.astype(dtype)).save(path)
    sample = ADE20K([T.Normalize()], str(tmp_path))[0]
    np.testing.assert_array_equal(sample["label"], np.where(raw == 0, 255, raw.astype(int) - 1))
    assert sample["label"].dtype == np.int64 and sample["img"].dtype == np.float32


def test_mode_test_has_no_labels(make):
    dataset = make(CLASSES, mode="test")
    assert sorted(dataset[0]) == ["img", "trans_info"] and dataset.files(0).endswith("image.png")


class OwnReading(PaddleSegDataset):
    def __init__(self):
        pass

    def __getitem__(self, index):
        return {}


def test_a_way_of_reading_that_would_be_left_out_is_refused():
    with pytest.raises(UserError, match="OwnReading reads its samples by a __getitem__ of its own"):
        checked(OwnReading())
