"""Windows, scales and flips against plain loops over arrays."""

import numpy as np
import paddle
import pytest
from paddleseg import transforms as T
from scipy.special import softmax

from paddleseg_psp.data import CheckedDataset, Cityscapes
from paddleseg_psp.data.transforms import PadShortSides
from paddleseg_psp.engine import evaluate
from paddleseg_psp.engine.inference import TensorArrays, predict_classes, warn_of_small_masks
from paddleseg_psp.engine.views import Views
from paddleseg_psp.models.layers import PointWiseSpatialAttention, resize


class Network(paddle.nn.Layer):
    """Logits of five classes, from a convolution whose result depends on where an image ends."""

    def __init__(self):
        super().__init__()
        self.convolution = paddle.nn.Conv2D(3, 5, 7, padding=3)

    def forward(self, x):
        return [self.convolution(x)]

    def logits(self, image):
        return self(paddle.to_tensor(image))[0].numpy().astype(np.float64)


@pytest.fixture
def network():
    paddle.seed(0)
    return Network()


def image(height, width):
    return np.random.RandomState(0).randn(1, 3, height, width).astype(np.float32)


def starts(size, window, stride):
    """Where windows start: at each step, the last one moved back to end with the image."""
    if size <= window:
        return [0]
    return [min(step * stride, size - window) for step in range(-(-(size - window) // stride) + 1)]


def slide(network, x, window, stride):
    """Averages logits over all windows, (width, height) as the flags have it."""
    height, width = x.shape[2:]
    total, count = np.zeros((5, height, width)), np.zeros((height, width))
    for top in starts(height, window[1], stride[1]):
        for left in starts(width, window[0], stride[0]):
            part = (slice(top, top + window[1]), slice(left, left + window[0]))
            total[:, part[0], part[1]] += network.logits(x[:, :, part[0], part[1]])[0]
            count[part] += 1
    assert (count > 0).all()
    return total / count


@pytest.mark.parametrize(
    "size, window, stride",
    [
        ((40, 60), (24, 16), (12, 8)),
        ((41, 59), (24, 16), (20, 16)),
        ((10, 60), (24, 16), (10, 10)),
        ((16, 24), (24, 16), (1, 1)),
    ],
)
def test_windows(network, size, window, stride):
    x = image(*size)
    pred = predict_classes(network, paddle.to_tensor(x), [], Views(window=window[::-1], step=stride[::-1]))
    np.testing.assert_array_equal(pred, slide(network, x, window, stride).argmax(0))


def test_a_large_image_is_predicted_in_strips(network):
    """Only the logits of one row of windows are held, at their average over all windows."""
    x = image(100, 30)
    views = Views(window=(16, 24), step=(8, 12))
    strips = list(views.strips(lambda batch: network(batch)[0], paddle.to_tensor(x), TensorArrays))
    assert [strip.shape[2] for strip in strips] == [8] * 10 + [4, 16]
    np.testing.assert_allclose(np.concatenate(strips, 2)[0], slide(network, x, (24, 16), (12, 8)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("windows", [{}, {"is_slide": True, "crop_size": (24, 16), "stride": (16, 12)}])
def test_scales_and_flips(network, windows):
    """Probabilities are averaged, at the image's size."""
    x, total = image(32, 48), 0
    for scale in (0.75, 1.0, 1.5):
        size = [int(side * scale + 0.5) for side in x.shape[2:]]
        scaled = resize(paddle.to_tensor(x), size, False).numpy()
        for rows, columns in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            flipped = np.ascontiguousarray(scaled[:, :, ::rows, ::columns])
            logits = slide(network, flipped, *list(windows.values())[1:])[None] if windows else network.logits(flipped)
            logits = logits[:, :, ::rows, ::columns].astype(np.float32)
            back = resize(paddle.to_tensor(np.ascontiguousarray(logits)), x.shape[2:], False).numpy()
            total = total + softmax(back.astype(np.float64), axis=1)
    flips = {"flip_horizontal": True, "flip_vertical": True}
    views = Views.from_options({"aug_eval": True, "scales": [0.75, 1.0, 1.5], **flips, **windows})
    pred = predict_classes(network, paddle.to_tensor(x), [], views)
    assert np.mean(pred == total[0].argmax(0)) > 0.999


def test_a_mask_that_is_too_small_is_told_once(capsys):
    attention = PointWiseSpatialAttention(8, 4, mask_h=5, mask_w=7).eval()
    model = paddle.nn.Sequential(attention)
    assert attention.full_mask_size((6, 8)) == (5, 7)
    warn_of_small_masks(model)
    model(paddle.randn([1, 8, 6, 8]))
    assert "mask" not in capsys.readouterr().out
    warn_of_small_masks(model)
    for _ in range(2):
        model(paddle.randn([1, 8, 6, 9]))
    assert capsys.readouterr().out.count("The attention's mask of 5x7 does not reach all of an input") == 1


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("steps", [[T.ResizeByShort(24)], [T.LimitLong(max_long=40), PadShortSides((64, 64), 127.5)]])
def test_images_that_were_resized_or_padded_are_compared_at_their_own_size(network, tiny_data, num_workers, steps):
    dataset = Cityscapes([*steps, T.Normalize()], str(tiny_data), "val")
    dataset.NUM_CLASSES = dataset.num_classes = 19
    network.convolution = paddle.nn.Conv2D(3, 19, 7, padding=3)
    seen = {}
    evaluate(
        network,
        dataset,
        num_workers=num_workers,
        print_detail=False,
        each=lambda i, pred, label: seen.update({i: (pred, label)}),
    )
    samples = CheckedDataset(dataset)
    for index, (pred, label) in seen.items():
        whole = samples.read(index)
        assert pred.shape == label.shape == whole[1].shape
        logits, (height, width) = network(paddle.to_tensor(samples[index]["img"][np.newaxis]))[0], whole[1].shape
        if len(steps) == 2:
            logits = logits[:, :, :30]  # 64x48 limited to 40x30, then padded below and on the right
            logits = logits[:, :, :, :40]
        np.testing.assert_array_equal(pred, resize(logits, (height, width), False).argmax(1).numpy()[0])
    assert len(seen) == 3
