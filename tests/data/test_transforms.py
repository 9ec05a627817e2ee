import random

import cv2
import numpy as np
import paddleseg.transforms as T
import pytest

from paddleseg_psp.data.transforms import (
    PhotoMetricDistortion,
    Pipeline,
    RandomDistort,
    RandomGaussianBlur,
    RandomPaddingCrop,
    RandomRotate,
)
from paddleseg_psp.errors import UserError

COLOUR = [
    T.RandomHorizontalFlip(),
    T.RandomDistort(0.4, 0.5, 0.4, 0.5, 0.4),
    T.Normalize(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.4]),
]


def sample(height=60, width=80, seed=0):
    """A smooth image, and a label that divides it where its first channel is half."""
    noise = np.random.RandomState(seed).randint(0, 255, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return image, (image[..., 0] > 127).astype(np.uint8)


def run(pipeline, image, label, seed):
    random.seed(seed)
    np.random.seed(seed)
    return pipeline({"img": image, "label": label, "gt_fields": ["label"]})


@pytest.mark.parametrize("size", [(32, 24), (100, 40), (80, 60), (120, 100)])
def test_bytes_and_floats_give_the_same(size):
    """As paddleseg does it, on floats; only the padding of bytes is rounded to 128."""
    pipeline = Pipeline([RandomPaddingCrop(crop_size=size, im_padding_value=128), *COLOUR])
    theirs = T.Compose([RandomPaddingCrop(crop_size=size, im_padding_value=128), *COLOUR])
    assert pipeline.takes_bytes
    for seed in range(20):
        own = run(pipeline, *sample(), seed)
        expected = run(theirs, sample()[0].astype("float32"), sample()[1], seed)
        assert own["img"].dtype == np.float32 and own["img"].flags.c_contiguous
        np.testing.assert_array_equal(own["img"], expected["img"])
        np.testing.assert_array_equal(own["label"], expected["label"])


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "sharpness", "all"])
def test_distortions_are_those_of_paddleseg(name):
    """From the same random numbers, to rounding.

    That is a level or two, but two steps of a hue's byte (6 levels each), which spans 255 steps in Pillow and 256 in OpenCV.
    Pillow leaves the border as it is where it sharpens.
    """
    names = ["brightness", "contrast", "saturation", "hue", "sharpness"]
    options = {f"{item}_prob": float(name in (item, "all")) for item in names}
    errors, changes = [], []
    for seed in range(20):
        image = cv2.add(sample(seed=seed)[0], np.random.RandomState(seed).randint(0, 40, (60, 80, 3), dtype=np.uint8))
        random.seed(seed)
        np.random.seed(seed)
        own = RandomDistort(**options)({"img": image})["img"]
        random.seed(seed)
        np.random.seed(seed)
        expected = T.RandomDistort(**options)({"img": image.astype("float32")})["img"]
        assert own.dtype == np.uint8
        changes.append(np.abs(own.astype(float) - image).mean())
        errors.append(np.abs(own.astype(float) - expected)[1:-1, 1:-1])
    assert np.mean(errors) < (2 if name in ("hue", "all") else 1)
    assert np.quantile(errors, 0.999) <= (14 if name in ("hue", "all") else 2)
    assert np.mean(changes) > 2 * np.mean(errors)


def test_distortions_leave_floats_to_paddleseg():
    image = sample()[0].astype("float32")
    results = []
    for transform in (RandomDistort(), T.RandomDistort()):
        random.seed(1)
        np.random.seed(1)
        results.append(transform({"img": image})["img"])
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0, 1.3, 2.0])
def test_scaling_and_cropping_in_one_step(factor):
    """Gives what resizing the whole gives, to interpolation's rounding, wherever the crop is."""
    scaling, crop = T.ResizeStepScaling(factor, factor), RandomPaddingCrop(crop_size=(24, 20), im_padding_value=0)
    image, label = sample()
    whole = cv2.resize(image, (round(80 * factor), round(60 * factor)), interpolation=cv2.INTER_LINEAR).astype(int)
    for seed in range(10):
        data = {"img": image, "label": label, "gt_fields": ["label"]}
        np.random.seed(seed)
        own = Pipeline([scaling, crop, T.Normalize()]).transforms[0](dict(data))
        np.random.seed(seed)
        if factor == 1:
            offset = [np.random.randint(60 - 20 + 1), np.random.randint(80 - 24 + 1)]
        else:
            offset = [np.random.randint(side - part + 1) for side, part in zip(whole.shape, (20, 24))]
        expected = whole[offset[0] : offset[0] + 20, offset[1] : offset[1] + 24]
        assert own["img"].shape == (20, 24, 3) and np.abs(own["img"].astype(int) - expected).max() <= 8
        assert np.abs(own["img"].astype(int) - expected).mean() < 1


def test_rotation_is_that_of_the_references():
    """semseg's formula on the whole, image and label; half of the samples stay as they are."""
    image, label = sample()
    turn, turned = RandomRotate(0.5, 10, im_padding_value=[10, 20, 30], label_padding_value=255), 0
    for seed in range(40):
        data = run(turn, image, label, seed)
        np.random.seed(seed)
        angle = (np.random.uniform(), np.random.uniform(-10, 10))
        if angle[0] < 0.5:
            matrix = cv2.getRotationMatrix2D((80 / 2, 60 / 2), angle[1], 1)
            expected = cv2.warpAffine(image, matrix, (80, 60), flags=cv2.INTER_LINEAR, borderValue=(10, 20, 30))
            marks = cv2.warpAffine(label, matrix, (80, 60), flags=cv2.INTER_NEAREST, borderValue=255)
            assert np.abs(data["img"].astype(int) - expected).mean() < 0.5  # OpenCV has fixed-point fractions of a pixel
            assert (data["label"] == marks).mean() > 0.99
            turned += 1
        else:
            np.testing.assert_array_equal(data["img"], image)
            np.testing.assert_array_equal(data["label"], label)
    assert 10 < turned < 30


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("crop", [(24, 20), (200, 180)])
def test_scaling_rotating_and_cropping_in_one_step(factor, crop):
    """Gives what one after the other gives, padding included, but for interpolating twice."""
    image, label = sample()
    scaling, turn = T.ResizeStepScaling(factor, factor), RandomRotate(1.0, 10, 0, 255)
    cropping = RandomPaddingCrop(crop_size=crop, im_padding_value=0)
    fused = Pipeline([scaling, turn, cropping, T.Normalize()])
    assert len(fused.transforms) == 2 and fused.takes_bytes
    agreement = []
    for seed in range(10):
        own = run(fused.transforms[0], image, label, seed)
        expected = run(T.Compose([scaling, turn, cropping], to_rgb=False), image.astype("float32"), label, seed)
        difference = np.abs(own["img"] - expected["img"].transpose(1, 2, 0))
        assert own["img"].shape == (*crop[::-1], 3) and difference.mean() < 2
        agreement.append((own["label"] == expected["label"]).mean())
    assert np.mean(agreement) > 0.95


def test_blur_is_that_of_semseg():
    image, results = sample()[0], set()
    for seed in range(20):
        np.random.seed(seed)
        blurred = RandomGaussianBlur(0.5, 5)({"img": image})["img"]
        kernel = cv2.getGaussianKernel(5, 1.1)  # what 0 means for five pixels: 0.3 * ((5 - 1) * 0.5 - 1) + 0.8
        expected = cv2.sepFilter2D(image.astype("float64"), -1, kernel, kernel)
        results.add(bool(np.abs(blurred - expected).max() <= 1) - bool((blurred == image).all()))
    assert results == {1, -1}


def test_label_and_image_stay_in_step():
    """They agree but for the pixels on an edge, and less so if one is moved by a pixel in any direction."""
    crop = RandomPaddingCrop(crop_size=(40, 40), label_padding_value=0, im_padding_value=0)
    turn = RandomRotate(0.5, 10, 0, 0)
    pipeline = Pipeline([T.ResizeStepScaling(0.5, 2.0, 0.25), turn, crop, T.RandomHorizontalFlip(), T.Normalize()])
    moves, agreement = ((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)), np.zeros(5)
    for seed in range(100):
        data = run(pipeline, *sample(seed=seed), seed)
        first = data["img"][2] > 0  # blue comes last
        agreement += [np.mean(np.roll(first, move, (0, 1))[1:-1, 1:-1] == data["label"][1:-1, 1:-1]) / 100 for move in moves]
    assert agreement[0] > 0.975 and (agreement[1:] < agreement[0] - 0.01).all(), agreement


def test_many_channels_and_a_padding_for_each():
    image = np.random.RandomState(0).rand(30, 40, 6).astype("float32")
    label, fill = (image[..., 0] > 0.5).astype(np.uint8), [1, 2, 3, 4, 5, 6]
    crop = RandomPaddingCrop(crop_size=(64, 64), im_padding_value=fill)
    pipeline = Pipeline([T.ResizeStepScaling(0.5, 1.5, 0), RandomRotate(1.0, 10, fill), crop], img_channels=6)
    data = run(pipeline, image, label, 0)
    assert data["img"].shape == (6, 64, 64)
    np.testing.assert_array_equal(data["img"][:, -1, -1], fill)
    assert data["label"][-1, -1] == 255
    bytes_in = Pipeline([RandomPaddingCrop(crop_size=(64, 64), im_padding_value=[255, 0, 0]), T.Normalize()])
    np.testing.assert_array_equal(run(bytes_in, *sample(), 0)["img"][:, -1, -1], [1, -1, -1])  # red, green, blue


def test_padding():
    image, label = sample(10, 12)
    data = RandomPaddingCrop(crop_size=(20, 16))({"img": image.astype("float32"), "label": label, "gt_fields": ["label"]})
    np.testing.assert_array_equal(data["img"][:10, :12], image)
    np.testing.assert_array_equal(data["label"][:10, :12], label)
    assert (data["img"][10:] == 127.5).all() and (data["img"][:, 12:] == 127.5).all()
    assert (data["label"][10:] == 255).all() and (data["label"][:, 12:] == 255).all()


def test_no_class_takes_more_than_its_share():
    """Where that can be had; ignored pixels do not count."""
    label = np.zeros((100, 100), np.uint8)
    label[:, 60:] = 1
    label[:20] = 255
    image = np.repeat(label[..., np.newaxis], 3, axis=2)
    crop, seen = RandomPaddingCrop(crop_size=(20, 20), category_max_ratio=0.75, loop_times=200), []
    for seed in range(100):
        np.random.seed(seed)
        data = crop({"img": image, "label": label, "gt_fields": ["label"]})
        np.testing.assert_array_equal(data["img"][..., 0], data["label"])
        counts = np.bincount(data["label"][data["label"] != 255], minlength=2)
        seen.append(counts.max() / counts.sum())
    assert max(seen) < 0.75
    np.random.seed(0)
    data = RandomPaddingCrop(crop_size=(20, 20), category_max_ratio=0.75)(
        {"img": image[:, :50], "label": label[:, :50], "gt_fields": ["label"]}
    )
    assert data["label"].shape == (20, 20)  # one class only: the last attempt is taken


def test_transforms_that_need_floats_get_them():
    assert not Pipeline([RandomPaddingCrop(), T.RandomNoise(), T.Normalize()]).takes_bytes
    assert not Pipeline([T.Normalize()]).takes_bytes and not Pipeline([]).takes_bytes
    assert not Pipeline([RandomPaddingCrop(), T.Normalize()], img_channels=1).takes_bytes


@pytest.mark.parametrize("options", [{"crop_size": (0, 5)}, {"crop_size": (5,)}, {"category_max_ratio": 0}, {"loop_times": 0}])
def test_crops_that_make_no_sense(options):
    with pytest.raises(ValueError):
        RandomPaddingCrop(**options)


@pytest.mark.parametrize("options", [{"prob": 2}, {"max_rotation": 0}, {"max_rotation": 200}])
def test_rotations_that_make_no_sense(options):
    with pytest.raises(ValueError):
        RandomRotate(**options)


@pytest.mark.parametrize("options", [{"prob": -1}, {"kernel_size": 4}])
def test_blurs_that_make_no_sense(options):
    with pytest.raises(ValueError):
        RandomGaussianBlur(**options)


@pytest.mark.parametrize(
    "transform", [PhotoMetricDistortion(), RandomDistort(), T.RandomDistort(), T.RandomBlur(1), T.RandomAffine()]
)
def test_values_that_bytes_would_wrap_are_refused(transform):
    """A pixel of 300 must not become one of 44."""
    image, label = sample()
    pipeline = Pipeline([transform, T.Normalize()])
    pipeline({"img": image.astype("float32"), "label": label, "gt_fields": ["label"]})
    for wrong in (image * np.float32(16), image - np.float32(200)):
        with pytest.raises(UserError, match=f"{type(transform).__name__} takes .* max_value"):
            pipeline({"img": wrong, "label": label, "gt_fields": ["label"]})


@pytest.mark.parametrize("transform", [PhotoMetricDistortion(0, (1, 1), (1, 1), 1), RandomDistort(0, 1, 0, 1, 0, 1, 0, 1)])
def test_values_a_little_beyond_bytes_are_cut(transform):
    """As cubic interpolation leaves them at edges."""
    result = transform({"img": np.float32([[[-20, -20, -20], [270, 270, 270], [255, 255, 255]]])})["img"]
    np.testing.assert_array_equal(result.ravel(), [0] * 3 + [255] * 6)
