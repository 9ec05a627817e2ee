"""Checking that a bundle computes what the network computes."""

from collections import namedtuple

import cv2
import numpy as np
import paddle

from paddleseg_psp.deploy.predictor import load_predictor
from paddleseg_psp.errors import UserError

MIN_AGREEMENT = 0.9999  # share of pixels with the same class
MAX_ERROR = 1e-4  # of probabilities or logits, relative
_DYNAMIC_SIZES = ((128, 256), (97, 161))  # where height and width may vary: a round size, and one that nothing divides

Comparison = namedtuple("Comparison", "shape onednn agreement error")
Comparison.__doc__ = """How a bundle's output compares with the network's: the input's shape, whether oneDNN was on, the
share of pixels with the same class, and the relative error ‖a - b‖ / ‖b‖ of probabilities or logits (None for classes)."""


@paddle.no_grad()
def verify_bundle(bundle, model):
    """Runs a bundle and the network it was made from on the same inputs, with oneDNN on and off.

    Args:
        bundle (str): the folder.
        model (Layer): the network, in evaluation mode.

    Returns:
        list of Comparison.

    Raises:
        UserError: classes differ on more than 1 - MIN_AGREEMENT of the pixels, or values by more than MAX_ERROR.
    """
    comparisons = []
    for onednn in (True, False):
        predictor = load_predictor(bundle, onednn=onednn)
        for shape in _input_shapes(predictor.input_shape):
            batch = _sample_batch(shape)
            expected = model(paddle.to_tensor(batch))[0]
            comparison = _compare(predictor, onednn, batch, expected)
            comparisons.append(comparison)
            if comparison.agreement < MIN_AGREEMENT or (comparison.error or 0) > MAX_ERROR:
                raise UserError(
                    f"the exported network differs from the trained one: at input {list(shape)} with oneDNN "
                    f"{'on' if onednn else 'off'} the classes agree on {comparison.agreement:.4%} of the pixels"
                    + ("" if comparison.error is None else f", and the relative error is {comparison.error:.2g}")
                    + "; nothing was exported"
                )
    return comparisons


def _compare(predictor, onednn, batch, logits):
    output = predictor.run(batch)
    error = None
    if predictor.output_op == "argmax":
        classes = output
    else:
        expected = (paddle.nn.functional.softmax(logits, axis=1) if predictor.output_op == "softmax" else logits).numpy()
        error = float(np.linalg.norm(output - expected) / np.linalg.norm(expected))
        classes = output.argmax(1)
    agreement = float((classes == logits.argmax(1).numpy()).mean())
    return Comparison(batch.shape, onednn, agreement, error)


def _input_shapes(shape):
    batch, channels = (1 if size == -1 else size for size in shape[:2])
    height, width = shape[2:]
    sizes = [(h if height == -1 else height, w if width == -1 else width) for h, w in _DYNAMIC_SIZES]
    return [(batch, channels, *size) for size in dict.fromkeys(sizes)]


def _sample_batch(shape):
    """Returns reproducible inputs with structure at several scales, of about unit size."""
    random = np.random.RandomState(0)
    count, channels, height, width = shape
    batch = random.randn(count, height, width, channels).astype(np.float32)
    for scale in (4, 16, 64):
        coarse = random.randn(count, height // scale + 2, width // scale + 2, channels).astype(np.float32)
        batch += np.stack([cv2.resize(item, (width, height)).reshape(height, width, channels) for item in coarse])
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) / 2
