import cv2
import numpy as np
import pytest

from paddleseg_psp.config import Config
from paddleseg_psp.data.checks.class_weights import count_classes, inverse_log, median_frequency
from paddleseg_psp.errors import UserError

COUNTS = np.array([[80, 20, 0, 0], [10, 0, 30, 0], [50, 50, 0, 0]])


def test_median_frequency():
    frequencies = [140 / 240, 70 / 200, 30 / 40]  # of the pixels of the images that have the class
    np.testing.assert_allclose(
        median_frequency(COUNTS), [1.0, frequencies[0] / frequencies[1], frequencies[0] / frequencies[2], 1]
    )


def test_inverse_log():
    shares = np.array([140, 70, 30, 0]) / 240
    np.testing.assert_allclose(inverse_log(COUNTS), [1 / np.log(1.02 + share) for share in shares])


def test_weights_by_rule(write_config):
    rule = {
        "types": [{"type": "CrossEntropyLoss", "weight": "median_frequency"}, {"type": "CrossEntropyLoss"}],
        "coef": [1, 0.4],
    }
    config = Config(write_config(loss=rule))
    dataset = config.build_dataset("train_dataset")
    expected = np.stack(
        [[(cv2.imread(label, cv2.IMREAD_UNCHANGED) == value).sum() for value in range(19)] for _, label in dataset.file_list]
    )
    np.testing.assert_array_equal(count_classes(dataset), expected)
    losses = config.build_losses(dataset)
    np.testing.assert_allclose(losses[0][1].class_weight.numpy(), median_frequency(expected), atol=1e-6)
    assert losses[1][1].class_weight is None
    assert config.data["loss"]["types"][0]["weight"] == "median_frequency"  # which stays as it is
    assert config.resolved(dataset).data["loss"]["types"][0]["weight"] == pytest.approx(
        median_frequency(expected).tolist(), abs=1e-6
    )


def test_unknown_rule(write_config):
    loss = {"types": [{"type": "CrossEntropyLoss", "weight": "median"}], "coef": [1, 0.4]}
    with pytest.raises(
        UserError, match="loss.types.0.weight: there is no rule 'median'; known are inverse_log, median_frequency"
    ):
        Config(write_config(loss=loss)).build_losses()
