import cv2
import numpy as np
import pytest

from paddleseg_psp.data.transforms import PadShortSides, PhotoMetricDistortion, SwapRedAndBlue


@pytest.fixture
def image():
    noise = np.random.RandomState(0).randint(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(noise, (80, 60), interpolation=cv2.INTER_CUBIC)


def by_the_definition(image):
    """mmsegmentation's steps, each by itself, on floats."""

    def linear(values, factor, added):
        return np.clip(values.astype(np.float32) * factor + added, 0, 255).astype(np.uint8)

    if np.random.randint(2):
        image = linear(image, 1, np.random.uniform(-32, 32))
    second = np.random.randint(2)
    if second and np.random.randint(2):
        image = linear(image, np.random.uniform(0.5, 1.5), 0)
    if np.random.randint(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = linear(hsv[..., 1], np.random.uniform(0.5, 1.5), 0)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if np.random.randint(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + np.random.randint(-18, 18)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not second and np.random.randint(2):
        image = linear(image, np.random.uniform(0.5, 1.5), 0)
    return image


def test_distortions_are_those_of_mmsegmentation(image):
    """To the rounding of one conversion to hue and saturation where there they are two."""
    changed = 0
    for seed in range(100):
        np.random.seed(seed)
        expected = by_the_definition(image)
        np.random.seed(seed)
        found = PhotoMetricDistortion()({"img": image})["img"]
        assert np.abs(found.astype(int) - expected).mean() < 1.5, seed
        changed += (found != image).any()
    assert 80 < changed < 100


def test_floats_are_taken_as_bytes(image):
    np.random.seed(1)
    expected = PhotoMetricDistortion()({"img": image})["img"]
    np.random.seed(1)
    np.testing.assert_array_equal(PhotoMetricDistortion()({"img": image.astype("float32")})["img"], expected)


@pytest.mark.parametrize("size, padded", [((100, 50), (60, 100)), ((20, 70), (70, 80)), ((80, 60), (60, 80))])
def test_short_sides_are_padded(image, size, padded):
    label = image[..., 0]
    out = PadShortSides(size, [1, 2, 3])({"img": image, "label": label, "gt_fields": ["label"], "trans_info": []})
    assert out["img"].shape == (*padded, 3) and out["label"].shape == padded
    np.testing.assert_array_equal(out["img"][:60, :80], image)
    assert (out["img"][60:] == [1, 2, 3]).all() and (out["img"][:, 80:] == [1, 2, 3]).all()
    assert (out["label"][60:] == 255).all() and (out["label"][:, 80:] == 255).all()
    assert out["trans_info"] == ([] if padded == (60, 80) else [("padding", (60, 80))])


def test_red_and_blue_change_places(image):
    swapped = SwapRedAndBlue()({"img": image})["img"]
    np.testing.assert_array_equal(swapped, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
