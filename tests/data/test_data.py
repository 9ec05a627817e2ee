import os
import shutil

import cv2
import numpy as np
import pytest
from paddleseg.transforms import Normalize, RandomPaddingCrop, Resize

from paddleseg_psp.data import CheckedDataset, Cityscapes, read_image
from paddleseg_psp.data.datasets.cityscapes import CLASS_NAMES, PALETTE
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
