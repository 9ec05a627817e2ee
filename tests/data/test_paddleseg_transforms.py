"""What paddleseg's transforms do to images stays; labels keep their classes."""

import random

import cv2
import numpy as np
import pytest
from paddleseg import transforms as T

from paddleseg_psp.data import RandomAffine, ScalePadding


def sample(size, factor=1):
    image = cv2.resize(np.random.RandomState(0).randint(0, 255, (6, 8, 3), dtype=np.uint8), size, interpolation=cv2.INTER_CUBIC)
    return {"img": image, "label": (image[..., 0] // 32).astype(np.uint16) * factor, "gt_fields": ["label"]}


@pytest.mark.parametrize("offset", [0, 12])
def test_affine_transforms_are_paddlesegs(offset):
    agreement = []
    for seed in range(20):
        results = []
        for kind in (RandomAffine, T.RandomAffine):
            random.seed(seed)
            results.append(kind((64, 48), offset, 30, label_padding_value=9)(sample((80, 60))))
        assert results[0]["img"].shape == (48, 64, 3)
        difference = np.abs(results[0]["img"].astype(int) - results[1]["img"])
        assert difference.mean() < 0.1
        agreement.append((results[0]["label"] == results[1]["label"]).mean())
    assert np.mean(agreement) > 0.99


def test_affine_transforms_keep_classes_above_255():
    random.seed(0)
    data = RandomAffine((64, 48), max_rotation=30, label_padding_value=65535)(sample((80, 60), factor=50))
    assert set(np.unique(data["label"])) <= {*range(0, 400, 50), 65535} and (data["label"] > 255).any()


@pytest.mark.parametrize("size", [(80, 60), (61, 80), (50, 50)])
def test_padding_and_scaling(size):
    """The image as paddleseg has it; the label by hand, a pixel at a time."""
    own, theirs = ScalePadding((64, 32), 0, 65535)(sample(size, 50)), T.ScalePadding((64, 32), 0, 255)(sample(size, 50))
    np.testing.assert_array_equal(own["img"], theirs["img"])
    label, side = sample(size, 50)["label"], max(size)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    for y in range(32):
        for x in range(64):
            row, column = y * side // 32 - top, x * side // 64 - left
            inside = 0 <= row < size[1] and 0 <= column < size[0]
            assert own["label"][y, x] == (label[row, column] if inside else 65535)
