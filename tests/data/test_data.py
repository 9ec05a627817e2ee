import os
import shutil

import cv2
import numpy as np
import paddle
import pytest
from helpers import run_python
from paddleseg.transforms import Normalize, RandomPaddingCrop, Resize

from paddleseg_psp.data import CheckedDataset, Cityscapes, load_batches, read_image
from paddleseg_psp.data.cityscapes import CLASS_NAMES, PALETTE
from paddleseg_psp.errors import UserError


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the small data set that a test may spoil."""
    return shutil.copytree(tiny_data, tmp_path / "spoilt")


def first_pair(root, mode="train"):
    return Cityscapes([], str(root), mode).file_list[0]


def read_first(root, mode="train"):
    return CheckedDataset(Cityscapes([Normalize()], str(root), mode))[0]


def test_pairs_by_name(tiny_data):
    dataset = Cityscapes([], str(tiny_data), "train")
    assert len(dataset) == 6
    for image, label in dataset.file_list:
        stem = os.path.basename(image)[: -len("_leftImg8bit.png")]
        assert os.path.basename(label) == f"{stem}_gtFine_labelTrainIds.png"
        assert os.path.basename(os.path.dirname(image)) == os.path.basename(os.path.dirname(label))
    assert len(CLASS_NAMES) == len(PALETTE) == dataset.num_classes == 19


def test_samples_in_training(tiny_data):
    dataset = CheckedDataset(Cityscapes([RandomPaddingCrop(crop_size=(32, 16)), Normalize()], str(tiny_data), "train"))
    sample = dataset[0]
    assert sample["img"].shape == (3, 16, 32) and sample["img"].dtype == np.float32
    assert sample["label"].shape == (16, 32)
    assert set(np.unique(sample["label"])) <= {*range(19), 255}


def test_samples_in_evaluation_keep_the_label_as_it_is(tiny_data):
    dataset = CheckedDataset(Cityscapes([Resize(target_size=(32, 16)), Normalize()], str(tiny_data), "val"))
    sample = dataset[1]
    assert sample["img"].shape == (3, 16, 32)
    np.testing.assert_array_equal(sample["label"], cv2.imread(dataset.file_list[1][1], cv2.IMREAD_UNCHANGED))
    assert sample["trans_info"] == [("resize", sample["label"].shape)]


def test_images_are_red_green_blue_for_the_network(tiny_data):
    sample = CheckedDataset(Cityscapes([Normalize()], str(tiny_data), "val"))[0]
    image = cv2.imread(first_pair(tiny_data, "val")[0])[..., ::-1]  # red first
    np.testing.assert_allclose(sample["img"], (image.transpose(2, 0, 1) / 255 - 0.5) / 0.5, atol=1e-6)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*nowhere.leftImg8bit.train; put Cityscapes there"):
        Cityscapes([], str(tmp_path / "nowhere"))


def test_folder_without_images(tmp_path):
    os.makedirs(tmp_path / "leftImg8bit" / "train")
    with pytest.raises(UserError, match="there is no image"):
        Cityscapes([], str(tmp_path))


def test_image_without_label(data):
    image, label = first_pair(data)
    os.remove(label)
    with pytest.raises(UserError) as error:
        Cityscapes([], str(data))
    assert "1 of 6 images have no label" in str(error.value) and image in str(error.value) and label in str(error.value)


def test_label_of_another_size(data):
    image, label = first_pair(data)
    cv2.imwrite(label, np.zeros((10, 20), np.uint8))
    with pytest.raises(UserError, match=f"{label} is 20x10 but its image {image} is 64x48"):
        read_first(data)


def test_label_values_outside_the_classes(data):
    _, label = first_pair(data)
    values = cv2.imread(label, cv2.IMREAD_UNCHANGED)
    values[:2, :3] = 77
    cv2.imwrite(label, values)
    with pytest.raises(UserError, match=f"{label} has the values 77 on 6 pixels; allowed are 0 to 18, and 255"):
        read_first(data)


def test_coloured_label(data):
    _, label = first_pair(data)
    cv2.imwrite(label, np.zeros((48, 64, 3), np.uint8))
    with pytest.raises(UserError, match=f"{label} has 3 channels"):
        read_first(data)


@pytest.mark.parametrize("which", [0, 1], ids=["image", "label"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_damaged_files(data, which, damage):
    path = first_pair(data)[which]
    with open(path, "rb") as file:
        content = file.read()
    with open(path, "wb") as file:
        file.write({"truncated": content[: len(content) // 2], "empty": b"", "garbage": os.urandom(500)}[damage])
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        read_first(data)


def test_missing_image():
    with pytest.raises(UserError, match="gone.png cannot be read"):
        read_image("gone.png")


class _Failing(paddle.io.Dataset):
    """Ten samples, the sixth of which cannot be read."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == 5:
            raise self.error
        return {"img": np.full((2, 3), index, "float32")}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_in_reading_reaches_the_caller(num_workers):
    """In paddle's own loader a thread that fails leaves the caller waiting for ever."""
    seen = []
    with pytest.raises(UserError, match="^the label is wrong$"):
        for batch in load_batches(dataset := _Failing(UserError("the label is wrong")), sampler(dataset), num_workers):
            seen += batch["img"].numpy()[:, 0, 0].tolist()
    assert seen == [0, 1, 2, 3]
    with pytest.raises(RuntimeError, match="ZeroDivisionError: by a test"):
        list(load_batches(dataset := _Failing(ZeroDivisionError("by a test")), sampler(dataset), num_workers))


def sampler(dataset):
    return paddle.io.BatchSampler(dataset, batch_size=2)


ABANDONED = """
import gc
import numpy as np
import paddleseg_psp
import paddle
from paddleseg_psp.data import load_batches
from paddleseg_psp.errors import UserError

class Data(paddle.io.Dataset):
    def __init__(self, fails):
        self.fails = fails

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if self.fails and index == 5:
            raise UserError("by a test")
        if not self.fails:
            gc.collect()  # as any reading may
        return {"img": np.full((2, 3), index, "float32")}

def batches(fails, **options):
    return load_batches(Data(fails), paddle.io.BatchSampler(Data(fails), batch_size=2), **options)

gc.disable()
for _ in range(3):
    try:
        list(batches(fails=True))
    except UserError as error:
        cycle = [error]  # its traceback has the loader
        cycle.append(cycle)
        del cycle
print([int(batch["img"].sum()) for batch in batches(fails=False, num_workers=2)])
"""


def test_an_abandoned_loader_does_not_stop_later_reading_processes():
    """As garbage, a forked process would collect it, and its queue's destructor waits for ever."""
    assert run_python(["-c", ABANDONED], timeout=60).stdout.strip() == "[6, 30, 54, 78, 102]"
