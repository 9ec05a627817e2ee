"""Options of views, and that arrays and tensors give the same."""

import numpy as np
import paddle
import pytest

from paddleseg_psp.engine.inference import TensorArrays
from paddleseg_psp.engine.views import WHOLE, NumpyArrays, Views, restored
from paddleseg_psp.errors import UserError
from tests.helpers import relative_error

WINDOWS = {"is_slide": True, "crop_size": [24, 16], "stride": [16, 12]}
TOLERANCE = 1e-5  # relative: the two compute factors of interpolation in float32, each in its own way
SCALES = {"aug_eval": True, "scales": [0.75, 1.0, 1.5], "flip_horizontal": True, "flip_vertical": True}


@pytest.mark.parametrize("options", [{}, WINDOWS, SCALES, {**SCALES, **WINDOWS}])
def test_options_make_the_views_that_they_came_from(options):
    views = Views.from_options(options)
    assert views.options() == options and Views.from_options(views.options()) == views
    assert (views == WHOLE) == (options == {})
    assert Views.from_options({**options, "aug_eval": False}) == Views(window=views.window, step=views.step)


@pytest.mark.parametrize("options", [{}, WINDOWS, SCALES, {**SCALES, **WINDOWS}])
@pytest.mark.parametrize("size", [(32, 48), (41, 59), (10, 200)])
def test_arrays_and_tensors_give_the_same(options, size):
    paddle.seed(0)
    convolution, views = paddle.nn.Conv2D(3, 5, 7, padding=3), Views.from_options(options)
    x = np.random.RandomState(0).randn(2, 3, *size).astype(np.float32)
    of_arrays = views.scores(lambda batch: convolution(paddle.to_tensor(batch)).numpy(), x, NumpyArrays)
    of_tensors = views.scores(convolution, paddle.to_tensor(x), TensorArrays).numpy()
    assert relative_error(of_arrays, of_tensors) < TOLERANCE
    steps = [("resize", (50, 70)), ("padding", (47, 61)), ("resize", size)]
    pair = [restored(of_arrays, steps, NumpyArrays), restored(paddle.to_tensor(of_tensors), steps, TensorArrays).numpy()]
    assert pair[0].shape == (2, 5, 50, 70) and relative_error(*pair) < TOLERANCE


def test_inputs_are_what_the_network_gets():
    views, x = Views.from_options({**SCALES, **WINDOWS}), np.random.RandomState(0).randn(1, 3, 41, 59).astype(np.float32)
    seen = []
    views.scores(lambda batch: seen.append(batch) or batch[:, :2], x, NumpyArrays)
    inputs = views.inputs(x, NumpyArrays)
    assert len(seen) == len(inputs) > 4 * 3
    for one, other in zip(seen, inputs):
        np.testing.assert_array_equal(one, other)
    assert views.input_sizes((41, 59)) == {array.shape[2:] for array in seen}


def test_the_window_of_a_point():
    views = Views.from_options(WINDOWS)
    for point in np.ndindex(41, 59):
        rows, columns = views.part_with((41, 59), point)
        assert rows.start <= point[0] < rows.stop and columns.start <= point[1] < columns.stop
        assert (rows.stop - rows.start, columns.stop - columns.start) == (16, 24)
    assert WHOLE.part_with((41, 59), (3, 3)) == (slice(0, 41), slice(0, 59))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"scale": 1.0}, "here: there is no option 'scale'; did you mean scales"),
        ({"aug_eval": "yes"}, "aug_eval: expected true or false, found 'yes'"),
        ({"scales": []}, "scales: expected numbers above 0"),
        ({"scales": [0.5, 0]}, "scales: expected numbers above 0"),
        ({"scales": ["1.0"]}, "scales: expected numbers above 0"),
        ({"is_slide": True}, "is_slide needs crop_size and stride"),
        ({**WINDOWS, "stride": [25, 16]}, r"stride \[25, 16\] must be at most crop_size \[24, 16\]"),
        ({**WINDOWS, "crop_size": 24}, "crop_size: expected a width and a height"),
        ({**WINDOWS, "stride": [0, 8]}, "stride: expected a width and a height"),
    ],
)
def test_options_that_are_wrong(options, words):
    with pytest.raises(UserError, match=words):
        Views.from_options(options, "here")
